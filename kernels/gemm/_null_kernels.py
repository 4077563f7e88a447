"""Wrong kernels that a lax tolerance would accept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from ..problem import Inputs, NullKernel, Outputs
from . import reference
from ._linear_fp8_problem import LinearFP8
from ._linear_mx_problem import LinearMX

if TYPE_CHECKING:
    from ._gemm import Gemm

STEP = 128
"""K that is summed exactly between two roundings of a running sum."""


def null_kernels(problem: Gemm) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def zeros(inputs: Inputs) -> Outputs:
        return {"out": torch.zeros(problem.m, problem.n)}

    def half_of_k(inputs: Inputs) -> Outputs:
        x, w = _operands(problem, inputs)
        half = problem.k // 2
        return {"out": x[:, :half] @ w[:, :half].t()}

    def last_step_dropped(inputs: Inputs) -> Outputs:
        x, w = _operands(problem, inputs)
        return {"out": x[:, :-16] @ w[:, :-16].t()}

    def mean_of_w(inputs: Inputs) -> Outputs:
        x, w = _operands(problem, inputs)
        return {"out": x.sum(1, keepdim=True) * w.mean(1)}

    def features_shifted(inputs: Inputs) -> Outputs:
        return {"out": reference.product(*_operands(problem, inputs)).roll(1, 1)}

    def running_sum_in_16_bits(inputs: Inputs) -> Outputs:
        x, w = _operands(problem, inputs)
        out = torch.zeros(problem.m, problem.n, dtype=torch.bfloat16)
        for x_part, w_part in zip(x.split(STEP, 1), w.split(STEP, 1), strict=True):
            out = (out.float() + x_part @ w_part.t()).bfloat16()
        return {"out": out.float()}

    kernels = (zeros, half_of_k, last_step_dropped, mean_of_w, features_shifted, running_sum_in_16_bits)
    return {f.__name__: f for f in kernels} | _with_scales_ignored(problem)


def _operands(problem: Gemm, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, w) float32, dequantised."""
    if isinstance(problem, LinearFP8):
        return reference.dequantised_fp8(inputs, problem.scaling)
    if isinstance(problem, LinearMX):
        return reference.dequantised_mx(inputs, problem.w_format)
    return inputs["x"].float(), inputs["w"].float()


def _with_scales_ignored(problem: Gemm) -> dict[str, NullKernel]:
    """For every input of scales a kernel that takes its mean for all of them."""

    def ignoring(name: str) -> NullKernel:
        def run(inputs: Inputs) -> Outputs:
            scale = inputs[name]
            mean = int(scale.float().mean()) if scale.dtype == torch.uint8 else float(scale.log2().mean().exp2())
            return reference.run({**inputs, name: torch.full_like(scale, mean)}, problem)

        return run

    return {f"{n}_ignored": ignoring(n) for n in problem.make_inputs(0, "meta") if n.endswith("_scale")}
