"""Host side of this family's products: workspaces, descriptors, the launch."""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from ._gemm_plan import GemmPlan
from ._skinny_gemm import skinny_gemm
from ._tile_gemm import tile_gemm
from ._vector_gemm import vector_gemm

TENSORS = ("out", "k_out", "v_out", "residual", "q_norm_weight", "k_norm_weight", "cos_sin", "positions")
"""What an epilogue may read or write; None where it does not."""
Tensors = dict[str, "torch.Tensor | None"]


def launch_gemm(
    plan: GemmPlan,
    x: torch.Tensor,
    weight: torch.Tensor,
    tensors: Tensors,
    waits: bool,
    counters: torch.Tensor | None = None,
    next_counters: torch.Tensor | None = None,
) -> None:
    """One launch. `tensors` by the names in `TENSORS`, and `norm_weight` where x is normed on the way.

    `waits`: x comes from the kernel just ahead, which may still run. `counters` (all 0) are this product's own,
    `next_counters` are to be zeroed for the one that follows.
    """
    product, on_gpu = plan.product, not x.is_cpu
    dependent = plan.dependent_launch and on_gpu
    if plan.kernel == "vector":
        _launch_vector(plan, x, weight, tensors, dependent, waits)
        return
    shared: dict[str, Any] = {
        "N": product.n, "K": product.k, "NUM_HEADS": product.num_heads, "NUM_KV_HEADS": product.num_kv_heads,
        "HALF": product.half, "HALF_BLOCK": product.half_block, "MODE": product.mode,
        "HAS_RESIDUAL": product.has_residual, "HAS_NORM": product.has_norm,
        "BLOCK_M": plan.block_m, "BLOCK_N": plan.block_n, "BLOCK_K": plan.block_k, "STAGES": plan.num_stages,
        "num_warps": plan.num_warps, **(plan.backend_options if on_gpu else {}),
    }  # fmt: skip
    if dependent and waits:
        shared["launch_pdl"] = True
    operands = [tensors.get(name) for name in TENSORS]
    if plan.kernel == "tile":
        tile_gemm[(plan.num_programs,)](
            *_tile_operands(plan, x, weight), *operands, product.tokens, product.epsilon,
            TILES_N=plan.tiles_n, GROUP_M=plan.group_m, FLATTEN=plan.flatten, TMA=plan.tma,
            NUM_PROGRAMS=plan.num_programs, DEPENDENT_LAUNCH=dependent and waits, **shared,
        )  # fmt: skip
        return
    num_next = 0 if next_counters is None else next_counters.numel()
    partial = None
    if plan.splits > 1:
        partial = x.new_empty((plan.tiles_n, plan.splits, 2, plan.block_m, plan.block_n), dtype=torch.float32)
    if plan.kernel == "ring" and on_gpu:  # no interpreter knows Gluon
        _launch_ring(plan, x, weight, tensors, partial, counters, next_counters, dependent and waits)
        return
    tiles = _tile_operands(plan, x, weight) if plan.tma else (None, None)
    skinny_gemm[(plan.tiles_n, plan.splits)](
        x, weight, *tiles, *operands, partial, counters, next_counters, num_next, product.tokens, product.epsilon,
        SPLITS=plan.splits, TMA=plan.tma, BLOCK_C=triton.next_power_of_2(num_next) if num_next else 0,
        DEPENDENT_LAUNCH=dependent, WAITS=dependent and waits, **shared,
    )  # fmt: skip


def _launch_vector(
    plan: GemmPlan, x: torch.Tensor, weight: torch.Tensor, tensors: Tensors, dependent: bool, waits: bool
) -> None:
    """One token's product needs no workspace."""
    product = plan.product
    vector_gemm[(plan.tiles_n,)](
        x, tensors.get("norm_weight"), weight, tensors["out"], tensors.get("residual"), product.epsilon,
        N=product.n, K=product.k, MODE=product.mode, HAS_RESIDUAL=product.has_residual, NORM_INPUT=plan.norm_input,
        BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, DEPENDENT_LAUNCH=dependent, WAITS=dependent and waits,
        num_warps=plan.num_warps, **({"launch_pdl": True} if dependent and waits else {}),
    )  # fmt: skip


def _launch_ring(
    plan: GemmPlan, x: torch.Tensor, weight: torch.Tensor, tensors: Tensors, partial: torch.Tensor | None,
    counters: torch.Tensor | None, next_counters: torch.Tensor | None, waits: bool,
) -> None:  # fmt: skip
    """Gluon: imported where it is compiled."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonDescriptor

    from ._hopper_skinny_gemm import hopper_skinny_gemm

    product, num_next = plan.product, 0 if next_counters is None else next_counters.numel()
    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    hopper_skinny_gemm[(plan.tiles_n, plan.splits)](
        GluonDescriptor.from_tensor(x, [plan.block_m, plan.block_k], layout),
        GluonDescriptor.from_tensor(weight, [plan.block_n, plan.block_k], layout),
        tensors["out"], tensors.get("residual"), partial, counters, next_counters, num_next, product.tokens,
        N=product.n, K=product.k, MODE=product.mode, HAS_RESIDUAL=product.has_residual, SPLITS=plan.splits,
        BLOCK_M=plan.block_m, BLOCK_N=plan.block_n, BLOCK_K=plan.block_k,
        STAGES=plan.num_stages, BLOCK_C=triton.next_power_of_2(num_next) if num_next else 0,
        WAITS=waits, num_warps=plan.num_warps, launch_pdl=waits,
    )  # fmt: skip


def _tile_operands(plan: GemmPlan, x: torch.Tensor, weight: torch.Tensor) -> tuple[Any, Any]:
    """x and the weight, as descriptors where they come by TMA."""
    if not plan.tma:
        return x, weight
    return (
        TensorDescriptor.from_tensor(x, [plan.block_m, plan.block_k]),
        TensorDescriptor.from_tensor(weight, [plan.block_n, plan.block_k]),
    )
