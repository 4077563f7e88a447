"""The space of triton_qkv: kernel and tiles of its product."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..device import Device
from ..space import Space, Value, Work, mfma_values
from ._block_space import ACCUMULATOR_REGISTERS, EPILOGUE_BYTES
from ._gemm_plan import FEW_TOKENS, SKINNY_TOKENS, Tile
from ._qkv_plan import choice_for, facts, plan_from
from ._rounding import next_power_of_2
from .problem import QKVProjection

ABOUT = """The fused QKV projection in Triton, in two launches: norm, then product with QK-norm and RoPE behind it.

A program computes the first and the second halves of the same heads, so that the rotation combines values of one
thread; q, k and v go straight to tensors of their own.
"""


def _values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    is_amd, from_hopper = device.kind == "hip", device.compute_capability >= 90
    return {
        "block_n": (16, 32, 64, 128),
        "block_k": (32, 64, 128),
        "num_stages": (1, 2, 3, 4, 5, 6),
        "num_warps": (4, 8),
        "vector": (False,),
        "ring": (False,),
        "tiled": (False, True),
        "block_m": (64, 128, 256),
        "programs_per_sm": (1, 2, 3),
        "group_m": (4, 8, 16, 32),
        "wide": (False, True) if from_hopper else (False,),
        "flatten": (False, True),
        "tma": (False, True) if from_hopper else (False,),
        "prefetch": (0, 1, 2, 4) if from_hopper else (1,),
        "dependent_launch": (False, True) if from_hopper else (False,),
        "matrix_instr_nonkdim": mfma_values(device)["matrix_instr_nonkdim"],
        "waves_per_eu": (0, 1, 2, 3, 4) if is_amd else (0,),
        "kpack": mfma_values(device)["kpack"],
    }


def _narrowed(problem: QKVProjection, device: Device) -> Mapping[str, tuple[Value, ...]]:
    by_hand, few = choice_for(problem, device), problem.tokens <= FEW_TOKENS
    half = problem.head_dim // 2
    narrow: dict[str, tuple[Value, ...]] = {
        "tiled": (by_hand.tiled,),
        "flatten": (by_hand.flatten,),
        "tma": (by_hand.tma,),
        "dependent_launch": (by_hand.dependent_launch,),
        "block_n": tuple(n for n in (16, 32, 64, 128) if n >= half) or (by_hand.block_n,),
    }
    if by_hand.tma and half in (16, 32, 64, 128):
        narrow["block_n"] = (half,)
    if few:
        return narrow | {"block_m": (by_hand.block_m,), "group_m": (by_hand.group_m,), "wide": (False,)}
    return narrow | {"prefetch": (by_hand.prefetch,)}


def _why_not(problem: QKVProjection, tile: Tile, device: Device) -> str | None:
    if problem.tokens <= FEW_TOKENS if tile.tiled else problem.tokens > SKINNY_TOKENS:
        return f"up to {FEW_TOKENS} tokens are one tile, and more than {SKINNY_TOKENS} are not"
    if tile.wide and not (tile.tiled and tile.tma):
        return "one operand of both tiles comes by tensor descriptors, to `tile_gemm`"
    block_m = tile.block_m if tile.tiled else max(16, next_power_of_2(problem.tokens))
    threads = tile.num_warps * device.warp_size
    registers = 2 * block_m * tile.block_n // threads
    most = 2 * ACCUMULATOR_REGISTERS if device.kind == "hip" else ACCUMULATOR_REGISTERS
    if registers > most:
        return f"the accumulators alone take {registers} registers of a thread"
    step_bytes = 2 * tile.block_k * (block_m + 2 * tile.block_n)
    buffered_bytes = step_bytes * max(1, tile.num_stages - (device.kind == "hip"))
    held = tile.programs_per_sm * (buffered_bytes + EPILOGUE_BYTES)
    if held > device.shared_memory_bytes:
        return f"{held} bytes of shared memory for all programs of an SM, of {device.shared_memory_bytes}"
    if tile.programs_per_sm * registers * threads > 65536 and device.kind != "hip":
        return "the accumulators of all programs of an SM exceed its registers"
    return None


def _work(problem: QKVProjection, tile: Tile, device: Device) -> Work:
    """Tokens are padded to tiles; parts of K leave their sums in fp32."""
    plan = plan_from(problem, tile, device).gemm
    partial_bytes = 0 if plan.splits == 1 else 4 * plan.tiles_n * plan.splits * plan.block_m * plan.block_n * 4
    rows = math.ceil(problem.tokens / plan.block_m) * plan.block_m
    return Work(
        flops_factor=rows / problem.tokens, extra_bytes=partial_bytes, hidden_launches=int(tile.dependent_launch)
    )


QKV = Space(
    template="triton_qkv",
    what="qkv",
    about=ABOUT,
    choice=Tile,
    values=_values,
    why_not=_why_not,
    choice_for=choice_for,
    plan_from=plan_from,
    facts=facts,
    work=_work,
    tasks=("qkv",),
    narrowed=_narrowed,
)
