"""The maths of all three tasks in plain PyTorch, from the exact values of the inputs. See problem.py.

The product is fp64: a setting may make fp32 products tf32, and fp32 outputs want better than fp32 sums.
"""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from . import _decode
from ._linear_fp8_problem import GROUP, LinearFP8
from ._linear_mx_problem import LinearMX

ROWS = 8192
"""Of w that are multiplied at once: what bounds the memory of fp64 copies."""


def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x [m, k] . w [n, k]^T, float32 [m, n]."""
    wide = x.double()
    return torch.cat([(wide @ rows.double().t()).float() for rows in w.split(ROWS)], 1)


def dequantised_fp8(inputs: Inputs, scaling: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, w) in float32, each times its scales."""
    x, w, x_scale, w_scale = inputs["x"].float(), inputs["w"].float(), inputs["x_scale"].t(), inputs["w_scale"]
    if scaling == "block":
        (n, k) = w.shape
        x_scale = x_scale.repeat_interleave(GROUP, 1)[:, :k]
        w_scale = w_scale.repeat_interleave(GROUP, 1)[:, :k].repeat_interleave(GROUP, 0)[:n]
    return x * x_scale, w * w_scale


def dequantised_mx(inputs: Inputs, w_format: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, w) in float32, each times its scales."""
    x = inputs["x"].float()
    if "x_scale" in inputs:
        x = x * _decode.scales(inputs["x_scale"])
    return x, _decode.weights(inputs["w"], inputs["w_scale"], w_format)


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """out [m, n] float32."""
    if isinstance(problem, LinearFP8):
        return {"out": product(*dequantised_fp8(inputs, problem.scaling))}
    if isinstance(problem, LinearMX):
        return {"out": product(*dequantised_mx(inputs, problem.w_format))}
    return {"out": product(inputs["x"], inputs["w"])}


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("linear", "linear_fp8", "linear_mx"), run=run)
