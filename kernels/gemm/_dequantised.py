"""Linear layers as PyTorch has them: products of 16-bit numbers by cuBLAS or hipBLASLt, and scales beside them.

Microscaled values times their scales are bf16 numbers, so x and w are dequantised before one product. fp8 values are,
but not times fp32 scales: products of the values come first, one for each group of K that has scales of its own, all in
one batch, and fp32 scales then weigh them. On a CPU, whose 16-bit products may round more than once, all is fp32.
"""

from __future__ import annotations

import torch

from . import _decode
from ._gemm import groups
from ._linear_fp8_problem import GROUP, LinearFP8
from ._linear_mx_problem import LinearMX
from .problem import Linear

MAX_WORKSPACE_BYTES = 4 * 10**9
AnyLinear = Linear | LinearFP8 | LinearMX


def product(x: torch.Tensor, w: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
    """x [m, k] . w [n, k]^T, summed in fp32 and rounded once."""
    if not x.is_cuda:
        return (x.float() @ w.float().t()).to(out_dtype)
    if x.dtype == out_dtype:
        return x @ w.t()
    return torch.mm(x, w.t(), out_dtype=torch.float32).to(out_dtype)


def linear_fp8(
    x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor, w_scale: torch.Tensor, scaling: str, dtype: torch.dtype
) -> torch.Tensor:
    """out [m, n] of `dtype`."""
    x16, w16 = x.bfloat16(), w.bfloat16()
    if scaling != "block":
        return (product(x16, w16, torch.float32) * x_scale.t() * w_scale.t()).to(dtype)
    factors = x_scale[:, :, None] * w_scale.t().repeat_interleave(GROUP, 1)[:, None, : w.shape[0]]
    return (_group_products(x16, w16) * factors).sum(0).to(dtype)


def _group_products(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[groups, m, n] float32: the products of every 128 of K."""
    padding = (0, -x.shape[1] % GROUP)
    x_groups = torch.nn.functional.pad(x, padding).view(x.shape[0], -1, GROUP).transpose(0, 1)
    w_groups = torch.nn.functional.pad(w, padding).view(w.shape[0], -1, GROUP).permute(1, 2, 0)
    if x.is_cuda:
        return torch.bmm(x_groups, w_groups, out_dtype=torch.float32)
    return torch.bmm(x_groups.float(), w_groups.float())


def group_products_too_large(problem: LinearFP8) -> str | None:
    """None, or why the products of all groups are not made at once."""
    num_bytes = 4 * problem.m * problem.n * groups(problem.k, GROUP)
    if problem.scaling == "block" and num_bytes > MAX_WORKSPACE_BYTES:
        return (
            f"the products of all groups of K would take {num_bytes / 1e9:.0f} GB, more than the "
            f"{MAX_WORKSPACE_BYTES / 1e9:.0f} GB that this kernel allows itself"
        )
    return None


def linear_mx(
    x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor | None, w_scale: torch.Tensor, w_format: str,
    dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """out [m, n] of `dtype`."""
    if x_scale is not None:
        x = (x.float() * _decode.scales(x_scale)).bfloat16()
    return product(x, _decode.weights(w, w_scale, w_format).bfloat16(), dtype)
