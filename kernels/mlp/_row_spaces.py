"""Spaces of the kernels that move rows: triton_rmsnorm, triton_swiglu and triton_qk_append."""

from __future__ import annotations

from collections.abc import Mapping

from ..device import Device
from ..space import Space, Value
from . import _qk_append_plan, _rmsnorm_plan, _swiglu_plan
from ._norm_plan import NormTile
from ._qk_append_plan import AppendTile
from ._rounding import next_power_of_2
from ._swiglu_plan import SwiGLUTile
from .problem import QKNormRopeAppend, RMSNorm, SwiGLU

POLICIES = ("", "evict_first")
MODIFIERS = ("", ".cs", ".wt")
MOST_VALUES = 64
"""Of a thread: as many registers in float32."""

RMSNORM_ABOUT = """RMSNorm, and residual add with RMSNorm, in Triton: one launch, every row read once.

Both are bound by memory. The sum is normed before it is rounded.
"""
SWIGLU_ABOUT = """SwiGLU's product in Triton: silu(gate) * up, bound by memory.

A program takes a block of columns of one row.
"""
QK_APPEND_ABOUT = """QK-norm, RoPE and the append to a paged cache in one Triton launch.

A program takes some heads of one token: queries, keys and values are told apart by the number of the head, so that
nothing is read twice. A head lies in two tiles of its halves: the rotation needs no shuffle, and the token's cosines
and sines are loaded once for all heads of the program.
"""


def _norm_values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return {
        "values_per_thread": (4, 8, 16, 32, 64),
        "tile_values": (2048, 4096, 8192, 16384, 32768),
        "most_warps": (8, 16, 32) if device.warp_size == 32 else (8, 16),
        "programs_per_sm": (0, 1, 2, 3, 4, 6, 8),
        "num_stages": (1, 2, 3),
        "load_policy": POLICIES,
        "store_modifier": MODIFIERS,
        "dependent_launch": (device.compute_capability >= 90,),
    }


def _why_not_norm(problem: RMSNorm, tile: NormTile, device: Device) -> str | None:
    block_h = next_power_of_2(problem.hidden_size)
    if tile.programs_per_sm == 0 and tile.num_stages > 1:
        return "only a persistent program has a next block of rows on its way"
    if tile.tile_values > 2048 and tile.tile_values <= block_h:
        return "a program has one row, with fewer values as well"
    plan = _rmsnorm_plan.plan_from(problem, tile, device).norm
    values = plan.block_t * plan.block_h // (plan.num_warps * device.warp_size)
    if values > MOST_VALUES:
        return f"a thread holds {values} values"
    if tile.values_per_thread < values:
        return "more warps than a block may have"
    blocks = -(-problem.tokens // plan.block_t)
    if blocks < device.num_sms and plan.block_t > 1:
        return "rows are fewer than SMs"
    if plan.persistent and plan.num_programs == blocks:
        return "no program has a second block of rows"
    if tile.most_warps > 8 and plan.num_warps < tile.most_warps:
        return "a block has fewer warps anyway"
    return None


def _swiglu_values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return {
        "block": (256, 512, 1024, 2048, 4096, 8192),
        "num_warps": (1, 2, 4, 8, 16),
        "load_policy": POLICIES,
        "store_modifier": MODIFIERS,
    }


def _why_not_swiglu(problem: SwiGLU, tile: SwiGLUTile, device: Device) -> str | None:
    values = tile.block // (tile.num_warps * device.warp_size)
    if values < 8 or values > MOST_VALUES:
        return f"a thread has {values} values of a row's half"
    blocks = -(-problem.intermediate_size // tile.block)
    if blocks * tile.block > 1.15 * problem.intermediate_size:
        return f"a good part of the last block is empty: a row has {problem.intermediate_size} values"
    if blocks * problem.tokens < 2 * device.num_sms and tile.block > 256:
        return f"{blocks * problem.tokens} programs leave SMs idle"
    return None


def _append_values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return {
        "block_h": (1, 2, 4, 8, 16, 32),
        "values_per_thread": (4, 8, 16, 32),
        "load_policy": POLICIES,
        "store_modifier": MODIFIERS,
    }


def _why_not_append(problem: QKNormRopeAppend, tile: AppendTile, device: Device) -> str | None:
    half_block = next_power_of_2(problem.head_dim // 2)
    heads = problem.num_heads + 2 * problem.num_kv_heads
    if tile.block_h * half_block < tile.values_per_thread * device.warp_size:
        return "a warp has more lanes than that"
    if tile.block_h > next_power_of_2(heads):
        return f"there are {heads} heads"
    if tile.block_h * half_block // tile.values_per_thread > 1024:
        return "a block has 1024 threads at most"
    return None


RMSNORM = Space(
    template="triton_rmsnorm",
    what="rmsnorm",
    about=RMSNORM_ABOUT,
    choice=NormTile,
    values=_norm_values,
    why_not=_why_not_norm,
    choice_for=_rmsnorm_plan.choice_for,
    plan_from=_rmsnorm_plan.plan_from,
    facts=_rmsnorm_plan.facts,
    tasks=("rmsnorm", "add_rmsnorm"),
)
SWIGLU = Space(
    template="triton_swiglu",
    what="swiglu",
    about=SWIGLU_ABOUT,
    choice=SwiGLUTile,
    values=_swiglu_values,
    why_not=_why_not_swiglu,
    choice_for=_swiglu_plan.choice_for,
    plan_from=_swiglu_plan.plan_from,
    facts=_swiglu_plan.facts,
    tasks=("swiglu",),
)
QK_APPEND = Space(
    template="triton_qk_append",
    what="qk_append",
    about=QK_APPEND_ABOUT,
    choice=AppendTile,
    values=_append_values,
    why_not=_why_not_append,
    choice_for=_qk_append_plan.choice_for,
    plan_from=_qk_append_plan.plan_from,
    facts=_qk_append_plan.facts,
    tasks=("qk_append",),
)
