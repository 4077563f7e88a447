"""Measured runs -> claims in baselines/. The only writer of baselines; it never deletes a claim.

A claim's factor is a lower confidence bound from at least MIN_LAUNCHES launches in at least MIN_RUNS runs of one commit
on one device. The runs are kept beside the claims: reports and claims can be made of them again. What spoils all
evidence (a dirty tree, mixed devices, an unfit runner ...) refuses everything and writes nothing; what spoils one
kernel or one pair refuses that claim only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .baseline import (
    DEVICE_FIELDS,
    Baseline,
    Claim,
    Pair,
    baseline_path,
    format_baseline,
    name_of,
    read_baseline,
    write_baseline,
)
from .kept import keep_run
from .only import is_selected
from .pairs import Doubt, Evidence, LowerBound, doubt_of, is_refuted, propose, refusal_of, too_slow
from .refusals import commit, objections
from .run import read_run
from .schema import Document, RecordError, parse_utc
from .scores import Measured
from .source import source_state

CLAIMANTS = ("hand", "generated")
"""Origins whose kernels make claims."""

Action = Literal["added", "raised", "renewed", "lowered", "kept", "refused", "missing"]


class PromoteError(RecordError):
    """Nothing was promoted. `sentences` holds all objections."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = tuple(sentences)


@dataclass(frozen=True)
class Outcome:
    """What became of one claim."""

    claim: str
    action: Action
    sentence: str


@dataclass(frozen=True)
class Summary:
    """What `promote` did; claims that these runs say nothing about are `kept` (or `missing`: no such kernel here)."""

    outcomes: tuple[Outcome, ...]
    written: tuple[Path, ...]


def promote(
    run_paths: Sequence[str | Path],
    root: str | Path,
    owner: str,
    reason: str | None,
    lower_bound: LowerBound,
    doubt: Doubt,
    only: Sequence[str] = (),
) -> Summary:
    """Make, renew, raise or (with `reason`) lower the claims that the runs support. Raises PromoteError, RecordError.

    `root` is the project's; `owner` answers for new claims, those that exist keep theirs. `only` selects claims whose
    `kernel > rival @ problem` has one of its parts in it: a reason seldom holds for all.
    """
    runs = sorted((read_run(path) for path in run_paths), key=lambda run: parse_utc(run["started_utc"]))
    source = source_state(root)
    sentences = objections(runs, source, owner, reason)
    git_sha = commit(runs[-1], source) if runs else None
    if sentences or git_sha is None:
        raise PromoteError(sentences)
    evidence = Evidence(runs, Measured(runs), git_sha, owner, reason, lower_bound, doubt)
    families = sorted({problem.partition("/")[0] for problem in evidence.measured.problems})
    baselines = [_promote_family(evidence, Path(root), family, only) for family in families]
    changed = [new for new, old, _ in baselines if new.claims != (old.claims if old else ())]
    for baseline in changed:
        format_baseline(baseline)  # all of them valid before the first is written
    kept = [keep_run(root, evidence.device["key"], run) for run in runs if changed]
    written = tuple(write_baseline(root, baseline) for baseline in changed)
    return Summary(tuple(outcome for *_, outcomes in baselines for outcome in outcomes), (*written, *kept))


# What becomes of each claim.


def _promote_family(
    evidence: Evidence, root: Path, family: str, only: Sequence[str]
) -> tuple[Baseline, Baseline | None, tuple[Outcome, ...]]:
    """The family's new baseline, the old one, and what became of each claim."""
    old = _existing(evidence.device, baseline_path(root, evidence.device["key"], family))
    claims = {claim.order: claim for claim in old.claims} if old else {}
    measured, outcomes = evidence.measured, []
    pairs = {
        pair for problem in measured.problems if problem.startswith(f"{family}/") for pair in _pairs(measured, problem)
    }
    for pair in sorted(p for p in pairs | set(claims) if is_selected(name_of(p), only)):
        claim, outcome = _decide(evidence, root, pair, claims.get(pair))
        outcomes.append(outcome)
        if claim is not None:
            claims[pair] = claim
    named = {kernel for _, kernel, _ in claims.keys() | pairs}
    outcomes += [Outcome(kernel, "refused", f"{what}.") for kernel, what in _unclaimable(measured, family, named)]
    device = {name: evidence.device[name] for name in DEVICE_FIELDS}
    return Baseline(device, family, tuple(claims[pair] for pair in sorted(claims))), old, tuple(outcomes)


def _existing(device: Document, path: Path) -> Baseline | None:
    if not path.exists():
        return None
    baseline = read_baseline(path)
    for name in DEVICE_FIELDS:
        if baseline.device[name] != device[name]:
            sentence = (
                f"{path}: its claims are of a device with {name} {baseline.device[name]!r}, these runs of one with"
            )
            raise PromoteError([f"{sentence} {device[name]!r}. Give that device a key of its own."])
    return baseline


def _pairs(measured: Measured, problem: str) -> Iterator[Pair]:
    """Ours against the fastest vendor kernel (the reference where there is none); generated also against by hand."""
    vendor = measured.fastest(problem, "vendor") or measured.fastest(problem, "reference")
    hand = measured.fastest(problem, "hand")
    for kernel in measured.kernels(problem, *CLAIMANTS):
        if vendor:
            yield problem, kernel, vendor
        if hand and measured.entry(kernel)["origin"] == "generated":
            yield problem, kernel, hand


def _unclaimable(measured: Measured, family: str, named: set[str]) -> Iterator[tuple[str, str]]:
    """Kernels that no pair names because they failed before they were measured."""
    for kernel in measured.family(family):
        what = measured.objection(kernel)
        if what and kernel not in named and measured.entry(kernel)["origin"] in CLAIMANTS:
            yield kernel, what


def _decide(evidence: Evidence, root: Path, pair: Pair, old: Claim | None) -> tuple[Claim | None, Outcome]:
    (problem, kernel, rival), name = pair, name_of(pair)
    if not evidence.measured.scores(kernel, rival, problem):
        if not (root / "kernels" / f"{kernel}.py").exists():
            return old, Outcome(
                name, "missing", f"{kernel} does not exist any more; its claim stays until it is deleted."
            )
        objection = evidence.measured.objection(kernel)
        if objection:
            return old, Outcome(name, "refused", f"{objection}.")
        return old, Outcome(name, "kept", "Not measured in these runs.")
    if refusal := refusal_of(evidence, pair) or (None if old else too_slow(evidence, pair)):
        return old, Outcome(name, "refused", refusal)
    doubt = doubt_of(evidence, pair)
    if doubt and not (old and evidence.reason and is_refuted(evidence, old)):
        return old, Outcome(name, "refused", doubt)
    new = propose(evidence, pair)
    if old is None:
        return new, Outcome(name, "added", f"Claimed at {new.factor:.4g}x.")
    claim, outcome = _choose(evidence, old, new)
    return claim, dataclasses.replace(outcome, sentence=f"{outcome.sentence} {doubt}") if doubt else outcome


def _choose(evidence: Evidence, old: Claim, new: Claim) -> tuple[Claim, Outcome]:
    """Old or new: a factor rises with newer evidence and falls only with a reason."""
    new = dataclasses.replace(new, owner=old.owner)
    is_newer = parse_utc(new.proven_utc) > parse_utc(old.proven_utc)
    factors = f"from {old.factor:.4g}x to {new.factor:.4g}x"
    if new.factor > old.factor and is_newer:
        return new, Outcome(old.id, "raised", f"Raised {factors}.")
    if new.factor == old.factor and is_newer:
        return dataclasses.replace(new, reason=old.reason), Outcome(
            old.id, "renewed", f"Proven again at {new.factor:.4g}x."
        )
    if new.factor >= old.factor:
        return old, Outcome(old.id, "kept", "These runs are not newer than its evidence.")
    if evidence.reason is not None:
        return dataclasses.replace(new, reason=evidence.reason), Outcome(old.id, "lowered", f"Lowered {factors}.")
    proven_utc = _held_utc(evidence, old)
    if proven_utc and parse_utc(proven_utc) > parse_utc(old.proven_utc):
        sentence = f"The gate proved {old.factor:.4g}x again; its new bound is {new.factor:.4g}x."
        return dataclasses.replace(old, proven_utc=proven_utc), Outcome(old.id, "renewed", sentence)
    sentence = f"Stays at {old.factor:.4g}x, although only {new.factor:.4g}x is certain now; --reason lowers it."
    return old, Outcome(old.id, "kept", sentence)


def _held_utc(evidence: Evidence, claim: Claim) -> str | None:
    """When the newest run ended whose gate found that this very claim holds."""
    for run in reversed(evidence.runs):
        for verdict in run["verdicts"]:
            same = (verdict["problem"], verdict["kernel"], verdict["rival"]) == claim.order
            if same and verdict["status"] == "holds" and verdict["factor_claimed"] == claim.factor:
                return str(run["finished_utc"])
    return None
