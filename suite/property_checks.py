"""Random problems off the sweep, as a run asks for them: once for each kernel, and not again after `--resume`."""

from __future__ import annotations

import shlex
from typing import Any

from kernels.discover import KernelInfo

from .bench import Bench
from .measure.check_properties import check_properties


def property_checks(bench: Bench, kernel: KernelInfo) -> list[dict[str, Any]]:
    """The checks of a kernel on random problems, or of the smallest problem that it is wrong on.

    A kernel that is broken, or hung before, is not tried: the one record says why, and is not journaled.
    """
    campaign = bench.campaign()
    done = [c for c in bench.run()["checks"] if c["stage"] == "property" and c["kernel"] == kernel.id]
    if done:
        return done
    some_problem = next(p for p in bench.selection.hard_cases | bench.selection.problems if _family(p) == kernel.family)
    trouble = bench.checks().cannot_run(kernel, some_problem)
    if trouble and trouble["status"] == "failed":
        return [{"kernel": kernel.id, "problem": some_problem, "distribution": None, "facts": {}} | trouble]
    bench.say(f"trying {kernel.id} on random problems")
    return check_properties(campaign, kernel)


def reproduce_command(bench: Bench, kernel: KernelInfo) -> str:
    """The one command that draws the same problems for a kernel again."""
    assert bench.journal is not None
    gpu = "cpu" if bench.chosen.device.kind == "cpu" else bench.chosen.key
    test = shlex.quote(f"suite/test_properties.py::test_properties[{kernel.id}]")
    return f"pytest --gpu {gpu} --input-seed {bench.journal.seed} {test}"


def _family(problem: str) -> str:
    return problem.partition("/")[0]
