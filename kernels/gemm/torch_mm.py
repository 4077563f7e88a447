"""PyTorch's product, as a linear layer calls it: cuBLAS, hipBLASLt, or oneDNN on a CPU."""

from __future__ import annotations

import torch

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from .problem import Linear


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, Linear)
    if problem.out_dtype != problem.dtype and (device.kind == "cpu" or problem.out_dtype != "float32"):
        return f"PyTorch's product of {problem.dtype} gives no {problem.out_dtype} here"
    return None


def run(inputs: Inputs, problem: Linear) -> Outputs:
    """One call."""
    x, w = inputs["x"], inputs["w"]
    if problem.out_dtype == problem.dtype:
        return {"out": torch.nn.functional.linear(x, w)}
    return {"out": torch.mm(x, w.t(), out_dtype=torch.float32)}


KERNEL = Kernel(origin=Origin.VENDOR, tasks=("linear",), run=run, supports=supports, version=lambda: torch.__version__)
