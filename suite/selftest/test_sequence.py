"""What stands around timed calls: the timer must know all of it, or it accuses honest kernels of hiding time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.device import Device
from kernels.discover import load_problems
from kernels.problem import Problem, Tier
from suite.device.timer import TimedCall
from suite.measure.drawn import Drawn
from suite.measure.sequence import Sequence, surroundings

GPU = Device("hip", "gfx942", 304, 65536, 64, "float8_e4m3fnuz")
TASKS = {"moe": "router", "gemm": "linear"}
"""Of one, every input is drawn anew for a call; of the other, weights stay and are checksummed."""


class Operators(TorchDispatchMode):
    """Names of all that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def smoke_problem(family: str) -> Problem:
    problems, _ = load_problems(family)
    return next(p for p in problems[Tier.SMOKE] if p.task == TASKS[family])


def answer(question: dict[str, Any]) -> dict[str, Any]:
    return {"seed": question.get("index", 0), "keep_previous": False}


@pytest.mark.parametrize("family", TASKS)
def test_surroundings_do_all_that_is_done_around_calls(family: str) -> None:
    problem = smoke_problem(family)
    inputs = problem.make_inputs(0, "cpu", problem.distributions[0])
    outputs = {n: torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for n, s in problem.output_specs().items()}
    call = TimedCall(run=lambda: outputs, before=lambda: None, outputs=outputs, replay=lambda: None)
    drawn = Drawn(problem, inputs, torch.Generator())
    with Operators() as known:
        surroundings(problem, drawn, inputs, [call])
    with Operators() as seen:
        for step in Sequence(1, problem, GPU, drawn, answer, {"toy/a": [call]}, blocks=2).steps():
            step.setup()
            step.after()
    assert seen.names <= known.names
    assert any("_local_scalar_dense" in name for name in known.names)  # the host reads: a copy from the device
