"""In the parent: one problem of one launch, measured by whichever kernels survive it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernels.kernel import Origin

from .blocks import BlockSource
from .crew import Crew
from .plausible import consistent, contradicted
from .run_queue import RunQueue
from .stopwatch import Stopwatch

LAUNCH_TIMEOUT_S = 60.0
"""Longest silence of a launch's worker. It speaks before it prepares a kernel, and most are compiled by then; and at
each timed call."""
REFERENCE = Origin.REFERENCE.value
GPU_BUDGET_S, CPU_BUDGET_S = 0.3, 1.5
"""Timed seconds for one problem in one launch."""
GPU_BLOCKS, CPU_BLOCKS = 80, 20
"""Most blocks. With 40, launches of kernels of 50 to 120 us scattered by 0.46% on an H200, and calls within a launch
made 0.40% of that (69 pairs, 5 launches)."""

Measured = tuple[dict[str, Any], list[dict[str, str]], BlockSource]
"""The worker's reply, failures by kernel, and what it was given; the reply is empty where nobody survived."""


@dataclass
class ProblemLaunch:
    """What is measured of one problem in one launch, and in whose time."""

    crew: Crew
    problem: str
    seed: int
    folder: Path
    """For the outputs of kept calls."""
    phases_s: dict[str, float]
    witnessed: bool
    """Whether calls are timed by this process's clock as well."""

    def measure(self, kernels: list[str]) -> Measured:
        """All kernels that survive. Where the parent's clock contradicts them, once more: it must do so twice."""
        measured = self._survivors(kernels)
        if contradicted(measured[0].get("measurements", []), measured[2]):
            measured = self._survivors(kernels)
        return measured

    def _survivors(self, kernels: list[str]) -> Measured:
        """Measure all kernels together; where that fails, or some do, find out whose doing it is and go on without."""
        reply, source = self._request(kernels)
        doubted = _failed_in(reply, kernels)
        if not doubted:
            return reply, [], source
        failures = self._guilty_alone(doubted)
        guilty = {failure["kernel"] for failure in failures}
        if reply["status"] == "ran" and guilty >= set(doubted):
            return reply, failures, source
        if not guilty:  # each runs alone: once more together
            reply, source = self._request(kernels, closely=True)
            doubted = _failed_in(reply, kernels)
            if not doubted:
                return reply, [], source
            failures = _guilty_together(doubted, len(kernels), reply)
            if reply["status"] == "ran":
                return reply, failures, source
        survivors = [kernel for kernel in kernels if kernel not in {f["kernel"] for f in failures}]
        if not survivors:
            return {}, failures, source
        reply, more, source = self._survivors(survivors)
        return reply, failures + more, source

    def _guilty_alone(self, kernels: list[str]) -> list[dict[str, str]]:
        """Failures of those that fail with nobody beside them."""
        failures: list[dict[str, str]] = []
        for kernel in kernels:
            self.crew.retire("launch")  # what the others left in it is not this one's fault
            alone, _ = self._request([kernel], closely=True)
            if alone["status"] != "ran":
                failures.append({"kernel": kernel, "reason": alone["reason"], "sentence": alone["sentence"]})
            failures += alone.get("failures", [])
        return failures

    def _request(self, kernels: list[str], closely: bool = False) -> tuple[dict[str, Any], BlockSource]:
        chosen = self.crew.chosen
        on_cpu = chosen.device.kind == "cpu"  # where the parent waits for every call as it is
        # The reference takes seconds, and others are held against it.
        witnessed = [k for k in kernels if self.witnessed and not on_cpu and self.crew.origin(k) != REFERENCE]
        message = {"op": "measure", "problem": self.problem, "kernels": kernels,
                   "libraries": self.crew.libraries(kernels),
                   "device": asdict(chosen.device), "witnessed": witnessed,
                   "cache_bytes": chosen.last_level_cache_bytes, "seed": self.seed, "output_dir": str(self.folder),
                   "max_blocks": CPU_BLOCKS if on_cpu else GPU_BLOCKS,
                   "budget_s": CPU_BUDGET_S if on_cpu else GPU_BUDGET_S}  # fmt: skip
        with Stopwatch(self.phases_s, "startup"):
            self.crew.start("launch")
        source = BlockSource(self.crew.origin, looks_always=closely, run_queue=RunQueue(self.crew.worker("launch").pid))
        started = time.monotonic()
        reply = self.crew.request("launch", message, LAUNCH_TIMEOUT_S, source.answer)
        elapsed_s = time.monotonic() - started
        for name, value in reply.get("phases_s", {}).items():
            self.phases_s[name] = self.phases_s.get(name, 0.0) + value
        return consistent(reply, elapsed_s, source, witnessed), source


def _failed_in(reply: dict[str, Any], kernels: list[str]) -> list[str]:
    """Kernels that were not measured: those that it names, or all. What one did to the process another may suffer."""
    return kernels if reply["status"] != "ran" else [failure["kernel"] for failure in reply["failures"]]


def _guilty_together(kernels: list[str], count: int, reply: dict[str, Any]) -> list[dict[str, str]]:
    """Where each kernel runs alone: the one that was caught in the act, or all that failed, without blame.

    Not asked before each was tried alone: a thread of one kernel may strike while another is called.
    """
    if reply.get("kernel") in kernels:
        return [{"kernel": reply["kernel"], "reason": reply["reason"], "sentence": reply["sentence"]}]
    told = {failure["kernel"]: failure["sentence"] for failure in reply.get("failures", ())}
    sentence = f"It runs alone, but among {count} kernels measured together failed: "
    return [
        {"kernel": kernel, "reason": "not_together", "sentence": sentence + (told.get(kernel) or reply["sentence"])}
        for kernel in kernels
    ]
