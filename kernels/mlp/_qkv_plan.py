"""Launch decisions of triton_qkv: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from ._gemm_plan import FEW_TOKENS, GemmPlan, Product, Tile, gemm_plan
from ._gemm_tiles import tile_by_hand
from ._norm_plan import NormPlan, norm_plan, norm_tile
from ._rounding import next_power_of_2
from .problem import QKVProjection


@dataclass(frozen=True)
class QKVPlan:
    """What both kernels are launched with."""

    problem: QKVProjection
    norm: NormPlan
    gemm: GemmPlan


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> QKVPlan:
    """From shapes alone."""
    assert isinstance(problem, QKVProjection)
    return plan_from(problem, choice_for(problem, device), device)


def qkv_product(problem: QKVProjection) -> Product:
    """rope(norm(h . qkv^T))."""
    return Product(
        tokens=problem.tokens,
        n=problem.num_heads + 2 * problem.num_kv_heads,
        k=problem.hidden_size,
        gated=False,
        rope=True,
        epsilon=problem.epsilon,
        has_norm=problem.qk_norm,
        num_heads=problem.num_heads,
        num_kv_heads=problem.num_kv_heads,
        half=problem.head_dim // 2,
        half_block=next_power_of_2(problem.head_dim // 2),
    )


def plan_from(problem: QKVProjection, tile: Tile, device: Device) -> QKVPlan:
    """What follows from a choice."""
    norm = norm_plan(problem.tokens, problem.hidden_size, norm_tile(problem.tokens, device), device)
    return QKVPlan(problem=problem, norm=norm, gemm=gemm_plan(qkv_product(problem), tile, False, device))


def facts(problem: QKVProjection) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {"is_few": problem.tokens <= FEW_TOKENS, "tokens": problem.tokens}


def choice_for(problem: QKVProjection, device: Device) -> Tile:
    """What was chosen by hand."""
    return tile_by_hand(qkv_product(problem), device)
