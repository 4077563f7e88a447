"""What a search may choose for linear layers: all launch decisions of the stream-K kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ..device import Device
from ..space import Space, Value, Work, mfma_values, why_not_mfma
from . import _linear_fp8_plan, _linear_mx_plan, _linear_plan
from ._linear_mx_plan import SCALED_ARCHS
from ._stream_k_plan import ARRIVAL_BYTES, WHOLE, StreamKPlan, Tile, stream_k
from .problem import Linear, LinearFP8, LinearMX

AnyLinear = Linear | LinearFP8 | LinearMX

ACCUMULATOR_REGISTERS = 128
"""Most registers of a thread that the fp32 accumulator may take: 255 is what NVIDIA's instructions can name."""
RESERVED_BYTES = 2 << 10
"""Of shared memory: barriers, and what the system takes for every block."""
IN_FLIGHT_BYTES = 48 << 10
"""Least bytes of stages on an SM: 4.8 TB/s, 132 SMs and a microsecond of latency make 36 KB on the way."""
LARGE_M = 512
"""Tokens from which a product counts as bound by its operations, where tiles must be large."""
LEAST_BUSY = 0.8
"""Least share of the SMs' time that has work."""
REREAD = 3.3
"""Most bytes that tiles may read from the cache, by those of w; `SMALL_READS` are always allowed."""
SMALL_READS = 64 << 20

_MATHS = """
A program owns a tile of the output, or some K steps of one: the steps of all tiles, laid end to end, are cut into equal
shares, so every program reads as many bytes of w as the next (stream-K; Osama et al., arXiv 2301.03598). A tile that
lies within one share is written at once. Of the others each share leaves a partial sum in fp32, and they are added in
the order of K: the same inputs give the same bits.
"""
ABOUT_LINEAR = f"""A linear layer in Triton: out = x . w^T, stream-K, accumulated in fp32 and rounded once.
{_MATHS}"""
ABOUT_FP8 = f"""A linear layer in fp8 in Triton: out = (x * x_scale) . (w * w_scale)^T, stream-K.
{_MATHS}
A step is 128 of K, the group of a block scale: its product starts from zero, is multiplied by the scales of x and w,
and is added in fp32 registers. So sums leave Hopper's tensor cores every 128 of K, whatever the scaling.
"""
ABOUT_MX = f"""A linear layer with MXFP4 or MXFP6 weights in Triton: out = x . (w * 2^scale)^T, stream-K.
{_MATHS}
The stored bits of two weights are moved to where two bf16 numbers of a 32-bit word have their exponents and mantissas,
2^(bias - 127) times too small; that and the scale are one factor, a power of two.
"""


def _values(device: Device) -> dict[str, tuple[Value, ...]]:
    """What is common; each space narrows it."""
    is_amd, is_hopper = device.kind == "hip", device.compute_capability >= 90
    return {
        "block_m": (16, 32, 64, 128),
        "block_n": (16, 32, 64, 128, 256),
        "block_k": (64, 128, 256, 512, 1024),
        "num_warps": (4, 8),
        "num_stages": (1, 2, 3) if is_amd else (2, 3, 4, 5, 6, 8),
        "programs_per_sm": (1, 2, 3),
        "min_steps": (2, 8, WHOLE),
        "group_m": (8,),
        "slices": (1,),
        "combine": ("arrival", "second") if is_amd else ("arrival", "second", "together"),
        "tma": (False, True) if is_hopper else (False,),
        "token_rows": (False, True),
        "w_eviction": ("",),
        "unroll": (1,),
        "unpack": ("arithmetic",),
        "wide": (False,),
        "deals_x": (False,),
        "waves_per_eu": (0, 2, 4) if is_amd else (0,),
        **mfma_values(device),
    }


def _linear_values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return _values(device) | {
        "num_stages": (1, 2, 3) if device.kind == "hip" else (2, 3, 4, 5, 6, 7, 8, 10),
        "group_m": (8, 16),
        "slices": (1, 8),
        "w_eviction": ("", "evict_first"),
    }


def _fp8_values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return _values(device) | {
        "block_k": (_linear_fp8_plan.GROUP,),
        "num_stages": (1, 2, 3) if device.kind == "hip" else (2, 3, 4, 5, 6, 8, 10),
        "min_steps": (2, 4, 8, 16, WHOLE),
        "unroll": (1, 2, 4),
    }


def _mx_values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    unpack = ("paired",) if device.compute_capability >= 80 else ("arithmetic",)  # two at once are half of the work
    return _values(device) | {
        "block_m": (16, 32, 64),
        "block_n": (32, 64, 128),
        "block_k": (64, 128, 256, 512),
        "programs_per_sm": (1, 2, 3, 4),
        "tma": (False,),
        "token_rows": (False,),
        "unpack": (*unpack, "scaled") if device.arch in SCALED_ARCHS else unpack,
        "wide": (False, True),
        "deals_x": (False, True),
    }


def _why_not_linear(problem: Linear, tile: Tile, device: Device) -> str | None:
    size = 4 if problem.dtype == "float32" else 2
    row_bytes = (tile.block_m + tile.block_n) * tile.block_k * size
    return (
        _why_not_loads(problem, tile)
        or why_not_mfma(tile.matrix_instr_nonkdim, tile.block_m, tile.block_n)
        or _why_not_rows(problem, tile, device)
        or _why_not_memory(row_bytes, tile, device)
        or _why_not_shares(problem, tile, device, size)
    )


def _why_not_fp8(problem: LinearFP8, tile: Tile, device: Device) -> str | None:
    row_bytes = (tile.block_m + tile.block_n) * tile.block_k * tile.unroll
    return (
        why_not_mfma(tile.matrix_instr_nonkdim, tile.block_m, tile.block_n)
        or _why_not_rows(problem, tile, device)
        or _why_not_memory(row_bytes, tile, device)
        or _why_not_shares(problem, tile, device, 1)
    )


def _why_not_mx(problem: LinearMX, tile: Tile, device: Device) -> str | None:
    bits = problem.row_bytes * 8 // problem.k
    if tile.unpack == "scaled" and bits != 4:
        return "`tl.dot_scaled` knows no 6 bits"
    if tile.unpack != "scaled" and tile.block_k * bits < 256:
        return f"{tile.block_k} codes of {bits} bits fill no two loads of 16 bytes"
    if tile.deals_x and (tile.unpack != "paired" or problem.x_format != "bfloat16"):
        return "x is dealt for paired weights, and with its scales anyway"
    weights = tile.block_n * tile.block_k // (tile.num_warps * device.warp_size)
    if weights > 128 and tile.unpack != "scaled":
        return f"a thread would hold {weights} decoded weights"
    row_bytes = tile.block_m * tile.block_k * 2 + tile.block_n * tile.block_k * bits // 8
    return (
        why_not_mfma(tile.matrix_instr_nonkdim, tile.block_m, tile.block_n)
        or _why_not_rows(problem, tile, device)
        or _why_not_memory(row_bytes, tile, device, decoded_bytes=tile.block_n * tile.block_k * 2)
        or _why_not_shares(problem, tile, device, 2)
    )


def _why_not_loads(problem: Linear, tile: Tile) -> str | None:
    if tile.w_eviction and (tile.tma or problem.n * problem.k * 2 <= SMALL_READS // 2):
        return "an eviction policy is for loads by pointers of a w that would push other things out"
    if tile.slices == 1:
        return None if tile.block_k <= 512 else f"all warps take part in {tile.block_k} of K: fewer do as well"
    if tile.tma or tile.token_rows or tile.block_m * tile.block_n > 1024:
        return "slices are for small tiles, loaded by pointers, of transposed products"
    if tile.slices > tile.num_warps or tile.block_k < 64 * tile.slices:
        return f"{tile.num_warps} warps do not share {tile.slices} slices of {tile.block_k}"
    return None


def _why_not_rows(problem: AnyLinear, tile: Tile, device: Device) -> str | None:
    """Of the matrix instructions."""
    if tile.block_m > 16 and tile.block_m >= 2 * problem.m:
        return f"half of the {tile.block_m} tokens of a tile would be empty: there are {problem.m}"
    rows, columns = (tile.block_m, tile.block_n) if tile.token_rows else (tile.block_n, tile.block_m)
    if tile.token_rows and (rows < 64 or columns > rows):
        return "tokens are rows where they are 64 and no fewer than features"
    if device.arch == "sm_90" and rows < 64 <= columns:
        return "the other way round it is wgmma's"
    if tile.tma and rows < 64:
        return "what descriptors load is for wgmma, of 64 rows"
    if tile.slices == 1 and rows // 16 < tile.num_warps and (rows >= 64 or tile.num_warps > 4):
        return f"{rows} rows do not give {tile.num_warps} warps 16 each"
    registers = rows * columns // (tile.num_warps * device.warp_size)
    if registers > ACCUMULATOR_REGISTERS * (2 if device.kind == "hip" else 1):
        return f"the accumulator alone takes {registers} registers of a thread"
    if problem.m >= LARGE_M and min(tile.block_m, tile.block_n) < 128:
        return f"a tile of {tile.block_m} x {tile.block_n} does too little with what it loads"
    return None


def _why_not_memory(row_bytes: int, tile: Tile, device: Device, decoded_bytes: int = 0) -> str | None:
    """Shared memory, of all programs that are to be on an SM, and how much of it is under way."""
    rows = tile.block_m if tile.token_rows else tile.block_n
    is_in_registers = device.kind == "hip" or tile.slices > 1 or rows < 64  # the stage that is computed on
    taken = row_bytes * (tile.num_stages - is_in_registers) + decoded_bytes * (device.arch != "sm_90")
    if (taken + RESERVED_BYTES) * tile.programs_per_sm > device.shared_memory_bytes:
        return (
            f"{taken} bytes of shared memory for {tile.programs_per_sm} programs each, of {device.shared_memory_bytes}"
        )
    under_way = row_bytes * (tile.num_stages - (not is_in_registers)) * tile.programs_per_sm
    if device.arch == "sm_90" and under_way < IN_FLIGHT_BYTES:
        return f"{under_way} bytes under way on an SM: too few for its memory"
    return None


def _why_not_shares(problem: AnyLinear, tile: Tile, device: Device, size: int) -> str | None:
    state = stream_k(problem, tile, device)
    if tile.min_steps > 2 and stream_k(problem, replace(tile, min_steps=2), device) == state:
        return "with shares of two steps at least it is the same"
    if not state.is_split and tile.combine in ("second", "together"):
        return "whole tiles leave nothing to add"
    if tile.combine == "together" and state.combine != "together":
        return "only shares that run at once, and of which each tile has as many, can wait for each other"
    if tile.combine == "arrival" and state.combine == "second":
        return f"one program would add more than {ARRIVAL_BYTES} bytes of partial sums"
    if tile.group_m != 8 and problem.m <= 8 * tile.block_m:
        return f"there are no {tile.group_m} blocks of tokens to go through together"
    return _why_idle(problem, tile, state, device) or _why_rereads(problem, tile, state, device, size)


def _why_idle(problem: AnyLinear, tile: Tile, state: StreamKPlan, device: Device) -> str | None:
    possible = min(device.num_sms, state.num_tiles * state.steps // 2)
    rounds = math.ceil(state.num_programs / device.num_sms)
    busy = state.num_programs / (rounds * possible)
    if rounds <= tile.programs_per_sm and busy < LEAST_BUSY:
        return f"{state.num_programs} programs keep {busy:.0%} of {possible} SMs busy"
    if state.num_programs <= device.num_sms * (tile.programs_per_sm - 1):
        return f"{state.num_programs} programs are not {tile.programs_per_sm} on an SM"
    return None


def _why_rereads(problem: AnyLinear, tile: Tile, state: StreamKPlan, device: Device, size: int) -> str | None:
    if problem.m >= LARGE_M or device.kind == "hip":
        return None
    read = state.num_tiles * (tile.block_m + tile.block_n) * problem.k * size
    most = max(SMALL_READS, REREAD * problem.n * problem.k * size)
    added = state.num_programs * tile.block_m * tile.block_n * 8 if state.is_split else 0
    return f"{read + added} bytes from the cache, {most:.0f} at most" if read + added > most else None


def _work(problem: AnyLinear, tile: Tile, device: Device) -> Work:
    """Tiles are padded. What a share leaves to others is written and read in fp32."""
    state = stream_k(problem, tile, device)
    blocks_m, blocks_n = math.ceil(problem.m / tile.block_m), math.ceil(problem.n / tile.block_n)
    return Work(
        flops_factor=blocks_m * tile.block_m * blocks_n * tile.block_n / (problem.m * problem.n),
        extra_bytes=state.num_programs * tile.block_m * tile.block_n * 8 if state.is_split else 0,
        reread_factor=blocks_m,
        hidden_launches=int(state.is_dependent),
    )


SPACES = (
    Space(
        template="triton_stream_k",
        what="linear",
        about=ABOUT_LINEAR,
        choice=Tile,
        values=_linear_values,
        why_not=_why_not_linear,
        choice_for=_linear_plan.choice_for,
        plan_from=stream_k,
        facts=_linear_plan.facts,
        work=_work,
        tasks=("linear",),
    ),
    Space(
        template="triton_fp8",
        what="linear_fp8",
        about=ABOUT_FP8,
        choice=Tile,
        values=_fp8_values,
        why_not=_why_not_fp8,
        choice_for=_linear_fp8_plan.choice_for,
        plan_from=stream_k,
        facts=_linear_fp8_plan.facts,
        work=_work,
        tasks=("linear_fp8",),
    ),
    Space(
        template="triton_mx",
        what="linear_mx",
        about=ABOUT_MX,
        choice=Tile,
        values=_mx_values,
        why_not=_why_not_mx,
        choice_for=_linear_mx_plan.choice_for,
        plan_from=_linear_mx_plan.plan_from,
        facts=_linear_mx_plan.facts,
        work=_work,
        tasks=("linear_mx",),
    ),
)
