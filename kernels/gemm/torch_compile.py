"""Linear layers by torch.compile: Inductor's C++ on the CPU, Inductor's Triton and cuBLAS or hipBLASLt on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..device import Device
from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from . import _dequantised
from ._dequantised import AnyLinear
from .problem import Linear, LinearFP8, LinearMX

Call = Callable[[Inputs], torch.Tensor]


@functools.cache
def _compiled(problem: AnyLinear, torch_device: str) -> Call:
    """A function of the inputs, compiled for one problem."""
    dtype = getattr(torch, problem.out_dtype)
    function: Any
    if isinstance(problem, Linear):
        function = compiled(_dequantised.product)
        return lambda inputs: function(inputs["x"], inputs["w"], dtype)
    if isinstance(problem, LinearFP8):
        function, scaling = compiled(_dequantised.linear_fp8), problem.scaling
        return lambda inputs: function(inputs["x"], inputs["w"], inputs["x_scale"], inputs["w_scale"], scaling, dtype)
    function, w_format = compiled(_dequantised.linear_mx), problem.w_format
    return lambda inputs: function(inputs["x"], inputs["w"], inputs.get("x_scale"), inputs["w_scale"], w_format, dtype)


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Call:
    """Compilation itself waits for the first `run`."""
    assert isinstance(problem, (Linear, LinearFP8, LinearMX))
    return _compiled(problem, device.torch_name)


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses what would need more than 4 GB for the products of all groups."""
    return _dequantised.group_products_too_large(problem) if isinstance(problem, LinearFP8) else None


def run(inputs: Inputs, state: Call) -> Outputs:
    """One call of the compiled function; the first one compiles."""
    return {"out": state(inputs)}


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("linear", "linear_fp8", "linear_mx"),
    run=run,
    plan=plan,
    supports=supports,
    warm_up=warm_up,
)
