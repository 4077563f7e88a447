"""What a run says of one kernel, in one word and by problem. Pure: reads the record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]
BAD = ("incorrect", "failed", "regressed")


@dataclass(frozen=True)
class Outcome:
    """The verdict on a candidate."""

    status: str
    """`incorrect`, `failed`, `skipped` (it can run nothing here), `correct` (not timed here) or `measured`."""
    reason: str
    """The judge's reason code; empty where there is nothing to complain of."""
    sentence: str
    checks: int
    """Cases that were right: problem by distribution of inputs, random problems and kept timed calls among them."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Problem -> why it cannot run there."""
    verdicts: tuple[Record, ...] = ()
    """Of the problems that it was timed on."""
    findings: tuple[Record, ...] = ()
    """What reading its source showed."""
    fallen: tuple[Record, ...] = ()
    """Failures in launches, beside the candidate, of kernels that had passed all checks: {kernel, problem, reason,
    sentence}. Its speed was judged without them."""

    complaints: tuple[Record, ...] = ()
    """Every check and verdict that went against it, the worst first; one of each problem and sentence."""

    @property
    def accepted(self) -> bool:
        """Whether it is right wherever it runs, and nothing else was held against it."""
        return self.status in ("correct", "measured")

    @property
    def factor(self) -> float | None:
        """Times as fast as the best rival, geometric mean over the problems; None where it was not timed."""
        factors = [v["factor"] for v in self.verdicts if v["factor"]]
        return math.exp(sum(map(math.log, factors)) / len(factors)) if factors else None


def outcome_of(run: Record, kernel: str) -> Outcome:
    """The worst that the run saw of `kernel`, or else how fast it is."""
    checks = [c for c in run["checks"] if c["kernel"] == kernel]
    verdicts = [v for v in run["verdicts"] if v["kernel"] == kernel]
    skipped = {c["problem"]: c["sentence"] for c in checks if c["status"] == "skipped"}
    findings = tuple(run["kernels"].get(kernel, {}).get("findings", ()))
    right = sum(c["status"] == "correct" for c in checks)
    bad = [entry for status in BAD for entry in (*checks, *verdicts) if entry["status"] == status]
    if bad:
        worst, different = bad[0], dict[tuple[str, str], Record]()
        for entry in bad:
            different.setdefault((entry["problem"], entry["sentence"].removeprefix(f"{kernel}: ")), entry)
        where = f" ({worst['problem']})" if worst["problem"] not in worst["sentence"] else ""
        return Outcome(worst["status"], worst["reason"], f"{worst['sentence']}{where}", right, skipped, (), findings,
                       complaints=tuple(different.values()))  # fmt: skip
    timed = tuple(v for v in verdicts if v["factor"])
    if timed:
        return Outcome("measured", "", "", right, skipped, timed, findings, _fallen(run, kernel))
    if right:
        why = (
            "It is right, and was not timed: a Triton kernel needs a GPU for that, any other one a problem of the tier "
        )
        return Outcome("correct", "", f"{why}that it supports here.", right, skipped, (), findings)
    why = next(iter(skipped.values()), "The run came to an end before it was tried.")
    return Outcome("skipped", "not_supported", why, right, skipped, (), findings)


def _fallen(run: Record, kernel: str) -> tuple[Record, ...]:
    failures = (failure for launch in run["launches"] for failure in launch["failures"])
    return tuple({f["kernel"]: f for f in failures if f["kernel"] != kernel}.values())
