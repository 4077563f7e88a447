"""Random problems off the sweep, as a run asks for them: once for each kernel, and not again after `--resume`."""

from __future__ import annotations

import shlex
from typing import Any

from kernels.discover import KernelInfo

from .bench import Bench
from .measure.check_properties import FEWEST_PROBLEMS, check_in_company, check_properties
from .measure.stopwatch import Stopwatch
from .side_by_side import check_side_by_side, lanes_for


def property_checks(bench: Bench, kernel: KernelInfo) -> list[dict[str, Any]]:
    """The checks of a kernel on random problems, or of the smallest problem that it is wrong on.

    A kernel that is broken, hung before, or lacks a module is not tried: the one record says why, and is not journaled.
    """
    campaign = bench.campaign()
    _ahead(bench)
    if done := [check for check in _recorded(bench) if check["kernel"] == kernel.id]:
        return done
    if trouble := _trouble(bench, kernel):
        return [trouble]
    bench.say(f"trying {kernel.id} on random problems")
    return check_properties(campaign, kernel)


def _ahead(bench: Bench) -> None:
    """Try all kernels that will be asked for, several at once where the machine has room: decision 10."""
    asked, bench.property_kernels = bench.property_kernels, ()
    done = {check["kernel"] for check in _recorded(bench)}
    todo = [kernel for kernel in asked if kernel.id not in done and _trouble(bench, kernel) is None]
    num_lanes = lanes_for(FEWEST_PROBLEMS * len(todo), bench.chosen.device.kind)
    if num_lanes > 1:
        with Stopwatch(bench.campaign().phases_s, "check"):
            check_side_by_side(
                bench.campaign(), todo, num_lanes, check_in_company, bench.say, lambda kernel: kernel.id,
                "kernels on random problems",
            )  # fmt: skip


def _recorded(bench: Bench) -> list[dict[str, Any]]:
    return [check for check in bench.run()["checks"] if check["stage"] == "property"]


def _trouble(bench: Bench, kernel: KernelInfo) -> dict[str, Any] | None:
    """Why a kernel is not tried: it is broken, hung before, or needs a module that is not here."""
    problem = next(p for p in bench.selection.hard_cases | bench.selection.problems if _family(p) == kernel.family)
    trouble = bench.checks().cannot_run(kernel, problem)
    if trouble is None or trouble["status"] != "failed":
        missing = bench.checks().missing_module(kernel)
        if missing is None:
            return None
        trouble = {"status": "skipped", "reason": "not_supported", "sentence": missing}
    return {"kernel": kernel.id, "problem": problem, "distribution": None, "facts": {}} | trouble


def reproduce_command(bench: Bench, kernel: KernelInfo) -> str:
    """The one command that draws the same problems for a kernel again."""
    assert bench.journal is not None
    gpu = "cpu" if bench.chosen.device.kind == "cpu" else bench.chosen.key
    test = shlex.quote(f"suite/test_properties.py::test_properties[{kernel.id}]")
    return f"pytest --gpu {gpu} --input-seed {bench.journal.seed} {test}"


def _family(problem: str) -> str:
    return problem.partition("/")[0]
