"""Host side of this family's products: workspaces, descriptors, the launch."""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from ._gemm_plan import GemmPlan, Product
from ._norm_kernels import rmsnorm
from ._norm_plan import NormPlan
from ._skinny_gemm import skinny_gemm
from ._tile_gemm import tile_gemm
from ._vector_gemm import vector_gemm

Tensors = dict[str, "torch.Tensor | None"]
"""What an epilogue may read or write, by name, and `norm_weight` where x is normed on the way."""


def launch_norm(
    tile: NormPlan, x: torch.Tensor, weight: torch.Tensor, epsilon: float, counters: torch.Tensor | None
) -> torch.Tensor:
    """rmsnorm(x); `counters` become 0."""
    tokens, hidden_size = x.shape
    out = x.new_empty(x.shape)
    num_counters = 0 if counters is None else counters.numel()
    rmsnorm[(tile.num_programs,)](
        x, None, weight, out, None, counters, tokens, num_counters, epsilon,
        HIDDEN=hidden_size, BLOCK_T=tile.block_t, BLOCK_H=tile.block_h, HAS_RESIDUAL=False,
        BLOCK_C=triton.next_power_of_2(num_counters) if num_counters else 0, PERSISTENT=tile.persistent,
        STAGES=tile.num_stages, LOAD_POLICY=tile.load_policy, STORE_MODIFIER=tile.store_modifier,
        DEPENDENT_LAUNCH=tile.dependent_launch and not x.is_cpu, num_warps=tile.num_warps,
    )  # fmt: skip
    return out


def launch_gemm(
    plan: GemmPlan, x: torch.Tensor, weight: torch.Tensor, tensors: Tensors, waits: bool,
    counters: torch.Tensor | None, next_counters: torch.Tensor | None,
) -> None:  # fmt: skip
    """One launch. `waits`: x comes from the kernel just ahead, which may still run.

    `counters` (all 0) are this product's own, `next_counters` are to be zeroed for the one that follows.
    """
    on_gpu = not x.is_cpu
    dependent = plan.dependent_launch and on_gpu
    if plan.vector:
        _launch_vector(plan, plan.product, x, weight, tensors, dependent, dependent and waits)
    elif plan.tiled:
        _launch_tiles(plan, plan.product, x, weight, tensors, on_gpu, dependent and waits)
    else:
        partial = None
        if plan.splits > 1:
            partial = x.new_empty((plan.tiles_n, plan.splits, 2, plan.block_m, plan.block_n), dtype=torch.float32)
        num_next = 0 if next_counters is None else next_counters.numel()
        if plan.ring and on_gpu:  # no interpreter knows Gluon
            _launch_ring(plan, plan.product, x, weight, tensors, partial, counters, next_counters, num_next,
                         dependent and waits)  # fmt: skip
        else:
            _launch_skinny(plan, plan.product, x, weight, tensors, partial, counters, next_counters, num_next, on_gpu,
                           dependent, dependent and waits)  # fmt: skip


def _launch_vector(
    plan: GemmPlan, product: Product, x: torch.Tensor, weight: torch.Tensor, tensors: Tensors, dependent: bool,
    waits: bool,
) -> None:  # fmt: skip
    """One token's product needs no workspace."""
    vector_gemm[(plan.tiles_n,)](
        x, tensors.get("norm_weight"), weight, tensors["out"], tensors.get("residual"), product.epsilon,
        N=product.n, K=product.k, GATED=product.gated, HAS_RESIDUAL=product.has_residual, NORM_INPUT=plan.norm_input,
        BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, STAGES=plan.num_stages, DEPENDENT_LAUNCH=dependent, WAITS=waits,
        num_warps=plan.num_warps, **({"launch_pdl": True} if waits else {}),
    )  # fmt: skip


def _launch_tiles(
    plan: GemmPlan, product: Product, x: torch.Tensor, weight: torch.Tensor, tensors: Tensors, on_gpu: bool,
    waits: bool,
) -> None:  # fmt: skip
    """Persistent programs."""
    left, right = _tile_operands(plan, product, x, weight)
    tile_gemm[(plan.num_programs,)](
        left, right, tensors["out"], tensors.get("k_out"), tensors.get("v_out"), tensors.get("residual"),
        tensors.get("q_norm_weight"), tensors.get("k_norm_weight"), tensors.get("cos_sin"), tensors.get("positions"),
        product.tokens, product.epsilon,
        N=product.n, K=product.k, NUM_HEADS=product.num_heads, NUM_KV_HEADS=product.num_kv_heads, HALF=product.half,
        HALF_BLOCK=product.half_block, GATED=product.gated, ROPE=product.rope, HAS_RESIDUAL=product.has_residual,
        HAS_NORM=product.has_norm, TILES_N=plan.tiles_n, BLOCK_M=plan.block_m, BLOCK_N=plan.block_n,
        BLOCK_K=plan.block_k, GROUP_M=plan.group_m, STAGES=plan.num_stages, FLATTEN=plan.flatten, TMA=plan.tma,
        WIDE=plan.wide, NUM_PROGRAMS=plan.num_programs, DEPENDENT_LAUNCH=waits, num_warps=plan.num_warps,
        **(plan.backend_options if on_gpu else {}), **({"launch_pdl": True} if waits else {}),
    )  # fmt: skip


def _launch_skinny(
    plan: GemmPlan, product: Product, x: torch.Tensor, weight: torch.Tensor, tensors: Tensors,
    partial: torch.Tensor | None, counters: torch.Tensor | None, next_counters: torch.Tensor | None, num_next: int,
    on_gpu: bool, dependent: bool, waits: bool,
) -> None:  # fmt: skip
    """All tokens are one tile."""
    left, right = _tile_operands(plan, product, x, weight) if plan.tma else (None, None)
    skinny_gemm[(plan.tiles_n, plan.splits)](
        x, weight, left, right, tensors["out"], tensors.get("k_out"), tensors.get("v_out"), tensors.get("residual"),
        tensors.get("q_norm_weight"), tensors.get("k_norm_weight"), tensors.get("cos_sin"), tensors.get("positions"),
        partial, counters, next_counters, num_next, product.tokens, product.epsilon,
        N=product.n, K=product.k, NUM_HEADS=product.num_heads, NUM_KV_HEADS=product.num_kv_heads, HALF=product.half,
        HALF_BLOCK=product.half_block, GATED=product.gated, ROPE=product.rope, HAS_RESIDUAL=product.has_residual,
        HAS_NORM=product.has_norm, SPLITS=plan.splits, BLOCK_M=plan.block_m, BLOCK_N=plan.block_n,
        BLOCK_K=plan.block_k, STAGES=plan.num_stages, BLOCK_C=triton.next_power_of_2(num_next) if num_next else 0,
        TMA=plan.tma, PREFETCH=plan.prefetch, DEPENDENT_LAUNCH=dependent, WAITS=waits, num_warps=plan.num_warps,
        **(plan.backend_options if on_gpu else {}), **({"launch_pdl": True} if waits else {}),
    )  # fmt: skip


def _launch_ring(
    plan: GemmPlan, product: Product, x: torch.Tensor, weight: torch.Tensor, tensors: Tensors,
    partial: torch.Tensor | None, counters: torch.Tensor | None, next_counters: torch.Tensor | None, num_next: int,
    waits: bool,
) -> None:  # fmt: skip
    """Gluon: imported where it is compiled."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonDescriptor

    from ._hopper_skinny_gemm import hopper_skinny_gemm

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    hopper_skinny_gemm[(plan.tiles_n, plan.splits)](
        GluonDescriptor.from_tensor(x, [plan.block_m, plan.block_k], layout),
        GluonDescriptor.from_tensor(weight, [plan.block_n, plan.block_k], layout),
        tensors["out"], tensors.get("residual"), partial, counters, next_counters, num_next, product.tokens,
        N=product.n, K=product.k, GATED=product.gated, HAS_RESIDUAL=product.has_residual, SPLITS=plan.splits,
        BLOCK_M=plan.block_m, BLOCK_N=plan.block_n, BLOCK_K=plan.block_k,
        STAGES=plan.num_stages, BLOCK_C=triton.next_power_of_2(num_next) if num_next else 0,
        WAITS=waits, num_warps=plan.num_warps, launch_pdl=waits,
    )  # fmt: skip


def _tile_operands(plan: GemmPlan, product: Product, x: torch.Tensor, weight: torch.Tensor) -> tuple[Any, Any]:
    """x and the weight, as descriptors where they come by TMA."""
    if not plan.tma:
        return x, weight
    left = TensorDescriptor.from_tensor(x, [plan.block_m, plan.block_k])
    if not plan.wide:
        return left, TensorDescriptor.from_tensor(weight, [plan.block_n, plan.block_k])
    if product.gated:
        halves = weight.view(2, product.n, product.k)
        return left, TensorDescriptor.from_tensor(halves, [2, plan.block_n, plan.block_k])
    return left, TensorDescriptor.from_tensor(weight, [2 * plan.block_n, plan.block_k])
