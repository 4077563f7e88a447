"""Measured runs -> claims in baselines/. The only writer of baselines; it never deletes a claim.

A claim's factor is a lower confidence bound from at least MIN_LAUNCHES launches in at least MIN_RUNS runs of one commit
on one device. What spoils all evidence (a dirty tree, mixed devices, an unfit runner ...) refuses everything and writes
nothing; what spoils one kernel or one pair refuses that claim only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .baseline import DEVICE_FIELDS, Baseline, Claim, baseline_path, format_baseline, read_baseline, write_baseline
from .refusals import MIN_LAUNCHES, MIN_RUNS, commit, objections
from .run import read_run
from .schema import Document, RecordError, now_utc, parse_utc
from .scores import Measured
from .source import source_state

MAX_FACTOR = 1e6
"""Beyond this, or below its inverse, something was not measured."""
MAX_GAP = math.log(1.10)
"""Most that the bound may lie below the measured factor: a claim much weaker than its kernel guards nothing."""
CLAIMANTS = ("hand", "generated")
"""Origins whose kernels make claims."""
FACTOR_DIGITS = 5
"""Significant digits of a factor, rounded down so that it stays a bound."""

LowerBound = Callable[[list[float]], "float | None"]
"""Launch scores -> lower end of the two-sided 95% interval of ln(t_rival / t_kernel), None where undecidable."""
Doubt = Callable[[list[float], str, float], "str | None"]
"""(Launch scores, device kind, shorter time of the pair in us) -> why a claim on them would guard nothing, or None."""
Action = Literal["added", "raised", "renewed", "lowered", "kept", "refused", "missing"]
Pair = tuple[str, str, str]
"""Problem, kernel, rival: the order of claims in a file."""


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
) -> Summary:
    """Make, renew, raise or (with `reason`) lower the claims that the runs support. Raises PromoteError, RecordError.

    `root` is the project's; `owner` answers for new claims, those that exist keep theirs.
    """
    runs = sorted((read_run(path) for path in run_paths), key=lambda run: parse_utc(run["started_utc"]))
    source = source_state(root)
    sentences = objections(runs, source, owner, reason)
    git_sha = commit(runs[-1], source) if runs else None
    if sentences or git_sha is None:
        raise PromoteError(sentences)
    evidence = _Evidence(runs, Measured(runs), git_sha, owner, reason, lower_bound, doubt)
    families = sorted({problem.partition("/")[0] for problem in evidence.measured.problems})
    baselines = [_promote_family(evidence, Path(root), family) for family in families]
    changed = [new for new, old, _ in baselines if new.claims != (old.claims if old else ())]
    for baseline in changed:
        format_baseline(baseline)  # all of them valid before the first is written
    written = tuple(write_baseline(root, baseline) for baseline in changed)
    return Summary(tuple(outcome for *_, outcomes in baselines for outcome in outcomes), written)


@dataclass(frozen=True)
class _Evidence:
    """Everything that deciding one claim needs."""

    runs: Sequence[Document]
    """Oldest first."""
    measured: Measured
    git_sha: str
    owner: str
    reason: str | None
    lower_bound: LowerBound
    doubt: Doubt

    @property
    def device(self) -> Document:
        device: Document = self.runs[-1]["device"]
        return device


# What becomes of each claim.


def _promote_family(
    evidence: _Evidence, root: Path, family: str
) -> tuple[Baseline, Baseline | None, tuple[Outcome, ...]]:
    """The family's new baseline, the old one, and what became of each claim."""
    old = _existing(evidence.device, baseline_path(root, evidence.device["key"], family))
    claims = {claim.order: claim for claim in old.claims} if old else {}
    measured, outcomes = evidence.measured, []
    pairs = {
        pair for problem in measured.problems if problem.startswith(f"{family}/") for pair in _pairs(measured, problem)
    }
    for pair in sorted(pairs | set(claims)):
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


def _decide(evidence: _Evidence, root: Path, pair: Pair, old: Claim | None) -> tuple[Claim | None, Outcome]:
    problem, kernel, rival = pair
    name = f"{kernel} > {rival} @ {problem}"
    if not evidence.measured.scores(kernel, rival, problem):
        if not (root / "kernels" / f"{kernel}.py").exists():
            return old, Outcome(
                name, "missing", f"{kernel} does not exist any more; its claim stays until it is deleted."
            )
        objection = evidence.measured.objection(kernel)
        if objection:
            return old, Outcome(name, "refused", f"{objection}.")
        return old, Outcome(name, "kept", "Not measured in these runs.")
    refusal = _refusal(evidence, pair)
    if refusal:
        return old, Outcome(name, "refused", refusal)
    new = _propose(evidence, pair)
    return _choose(evidence, old, new) if old else (new, Outcome(name, "added", f"Claimed at {new.factor:.4g}x."))


def _refusal(evidence: _Evidence, pair: Pair) -> str | None:
    """What speaks against claiming this pair, as a sentence."""
    measured, (problem, kernel, rival) = evidence.measured, pair
    scores = measured.scores(kernel, rival, problem)
    # A kernel that is wrong anywhere is wrong; a rival only has to be right where it is beaten.
    objection = measured.objection(kernel) or measured.objection(kernel, problem) or measured.objection(rival, problem)
    if objection:
        return f"{objection}. Correct it and measure again."
    for one in (kernel, rival):
        entries = {
            (run["kernels"][one]["source_sha256"], run["kernels"][one]["version"]) for run in _with(evidence, one)
        }
        if len(entries) > 1:
            return f"{one} differs between the runs (source or version). Promote runs of one version."
    num_runs = len({launch.rpartition("/")[0] for launch in scores})
    if len(scores) < MIN_LAUNCHES or num_runs < MIN_RUNS:
        have = f"{len(scores)} launches in {num_runs} runs measured both"
        return f"Too little evidence: {have}, {MIN_LAUNCHES} in {MIN_RUNS} are needed. Measure again."
    light_speed_us = evidence.runs[-1]["problems"].get(problem, {}).get("light_speed_us")
    shorter_us = min(measured.time_us(one, problem) for one in (kernel, rival))
    if light_speed_us and shorter_us < light_speed_us:
        return f"A time below {light_speed_us:.3g} us, this device's speed of light, is an error of measurement."
    values = list(scores.values())
    kind = evidence.runs[-1]["device"]["kind"]
    return _too_wide(evidence.lower_bound(values), scores) or evidence.doubt(values, kind, shorter_us)


def _too_wide(bound: float | None, scores: dict[str, float]) -> str | None:
    if bound is None or not math.isfinite(bound):
        return f"{len(scores)} launches leave the factor undecided. Measure again and promote all runs together."
    if abs(bound) > math.log(MAX_FACTOR):
        return f"A factor beyond {MAX_FACTOR:g} is an error of measurement. Look at the samples of both kernels."
    mean = sum(scores.values()) / len(scores)
    if mean - bound > MAX_GAP:
        factors = f"{math.exp(mean):.4g}x was measured, but only {math.exp(bound):.4g}x is certain"
        return f"Too wide an interval: {factors}. Measure more launches, on a quieter machine."
    return None


def _with(evidence: _Evidence, kernel: str) -> list[Document]:
    return [run for run in evidence.runs if kernel in run["kernels"]]


def _propose(evidence: _Evidence, pair: Pair) -> Claim:
    measured, (problem, kernel, rival) = evidence.measured, pair
    scores = measured.scores(kernel, rival, problem)
    bound = evidence.lower_bound(list(scores.values()))
    assert bound is not None, "_refusal lets no undecided pair pass"
    names = {launch.rpartition("/")[0] for launch in scores}
    runs = [run for run in evidence.runs if run["run_id"] in names]
    environment = runs[-1]["environment"]
    return Claim(
        device=evidence.device["key"],
        kernel=kernel,
        rival=rival,
        problem=problem,
        problem_fields=runs[-1]["problems"][problem]["fields"],
        factor=_round_down(math.exp(bound)),
        owner=evidence.owner,
        made_utc=now_utc(),
        proven_utc=max((run["finished_utc"] for run in runs), key=parse_utc),
        git_sha=evidence.git_sha,
        kernel_sha256=measured.entry(kernel)["source_sha256"],
        rival_version=measured.entry(rival)["version"],
        gpu_uuids=tuple(sorted({run["device"]["uuid"] for run in runs if run["device"]["uuid"]})),
        runs=tuple(sorted(names)),
        evidence={
            "scores": [{"launch": launch, "score": round(score, 7)} for launch, score in scores.items()],
            "kernel_us": _rounded(measured.time_us(kernel, problem)),
            "rival_us": _rounded(measured.time_us(rival, problem)),
            "environment": {name: environment.get(name) for name in ("torch", "triton", "driver")},
        },
    )


def _choose(evidence: _Evidence, old: Claim, new: Claim) -> tuple[Claim, Outcome]:
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


def _held_utc(evidence: _Evidence, claim: Claim) -> str | None:
    """When the newest run ended whose gate found that this very claim holds."""
    for run in reversed(evidence.runs):
        for verdict in run["verdicts"]:
            same = (verdict["problem"], verdict["kernel"], verdict["rival"]) == claim.order
            if same and verdict["status"] == "holds" and verdict["factor_claimed"] == claim.factor:
                return str(run["finished_utc"])
    return None


def _round_down(factor: float) -> float:
    digits = FACTOR_DIGITS - 1 - math.floor(math.log10(factor))
    return math.floor(factor * 10.0**digits) / 10.0**digits


def _rounded(value: Any) -> float:
    return float(f"{value:.6g}")
