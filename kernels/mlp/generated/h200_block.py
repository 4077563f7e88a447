# SPDX-License-Identifier: Apache-2.0
# Written by kernelgate generate from kernels/mlp/triton_block.py.
# How, and its table of choices: h200_block.json
"""The gated MLP in Triton, in two or three launches; nothing wider than the MLP's intermediate goes to memory.

    (1) h = rmsnorm(x), where the second kernel does not norm its input itself
    (2) a = silu(h . gate^T) * (h . up^T): both tiles are one program's, so the gate and up products stay in registers
    (3) out = x + a . down^T

Products of few tokens stream the weights, those of many are tiled; which kernel multiplies is the table's choice.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

from ...device import Device
from ...kernel import Kernel, Origin
from ...problem import Inputs, Outputs, Problem
from ..problem import MLPBlock


def next_power_of_2(n: int) -> int:
    """The least that is not smaller; at least 1."""
    return 1 << max(0, n - 1).bit_length()


FEW_TOKENS = 64
"""Up to here all tokens are one tile, and the weight is read once."""
MOST_SPLITS = 8
LEAST_STEPS = 4
"""Of a part of K: fewer would not fill the pipeline."""


@dataclass(frozen=True)
class Product:
    """x [tokens, k] . weight^T, and what becomes of it: see `_gemm_epilogues`."""

    tokens: int
    n: int
    """Columns of the output; for `rope` heads of q, k and v together."""
    k: int
    gated: bool = False
    """Whether the product is SwiGLU's."""
    epsilon: float = 0.0
    has_residual: bool = False


@dataclass(frozen=True)
class Tile:
    """What is chosen of a product, rather than derived. Without `vector`, `ring` and `tiled` it is `skinny_gemm`'s."""

    block_n: int
    block_k: int
    num_stages: int
    num_warps: int
    vector: bool = False
    """Whether `vector_gemm` multiplies: one token only."""
    ring: bool = False
    """Whether `hopper_skinny_gemm` does: few tokens, on Hopper, where rows are a multiple of 16 bytes."""
    tiled: bool = False
    """Whether `tile_gemm` does."""
    block_m: int = 128
    """Tokens of a tile of `tile_gemm`."""
    programs_per_sm: int = 2
    """Of the kernels for few tokens, whose parts of K are as many; persistent ones of `tile_gemm`."""
    wide: bool = False
    """As `GemmPlan.wide`."""
    tma: bool = False
    """Whether operands come by tensor descriptors where rows are a multiple of 16 bytes."""
    prefetch: int = 1
    """As `GemmPlan.prefetch`."""


@dataclass(frozen=True)
class GemmPlan:
    """What a product is launched with."""

    product: Product
    vector: bool
    ring: bool
    tiled: bool
    block_m: int
    block_n: int
    block_k: int
    num_stages: int
    num_warps: int
    norm_input: bool
    """Whether x is normed on the way (vector only)."""
    splits: int
    """Parts of K (ring and skinny only)."""
    wide: bool
    """Whether a program's two tiles of the weight are one operand (tiles by tensor descriptors only)."""
    tma: bool
    flatten: bool
    """Whether a tile's first loads are issued behind the last products of the one before. Not for `rope`: Triton 3.6
    cannot flatten a loop whose epilogue has branches with results."""
    tiles_n: int
    """Tiles over the weight's rows."""
    num_programs: int
    """Persistent programs (tiles only)."""
    prefetch: int
    """Lines of 128 bytes of every row of the weight that a dependent launch fetches to L2 ahead (skinny only)."""


def columns_of(product: Product) -> int:
    """Columns of each of the two tiles over the whole product."""
    return product.n if product.gated else math.ceil(product.n / 2)


def num_counters(plan: GemmPlan) -> int:
    """Counters of parts of K that have arrived."""
    return plan.tiles_n if plan.splits > 1 else 0


def gemm_plan(product: Product, tile: Tile, norm_input: bool, device: Device) -> GemmPlan:
    """`norm_input`: whether x is normed on the way. TMA wants rows of a multiple of 16 bytes, and for `rope` a tile
    that is half a head."""
    block_n = max(tile.block_n, 1)
    tma = tile.tma and product.k % 8 == 0 and (True)
    ring = tile.ring and tma
    block_k = tile.block_k
    if tile.vector:
        block_k = min(block_k, next_power_of_2(product.k))
    elif not ring:
        block_k = min(block_k, max(16, next_power_of_2(product.k)))
    least_rows = 8 if ring else 16
    block_m = _block_m(product, tile, least_rows)
    tiles_n = math.ceil(columns_of(product) / block_n)
    splits = 1 if tile.vector or tile.tiled else _splits(product, tile, tiles_n, block_k, device)
    num_stages = tile.num_stages
    if ring:  # rings as deep as a part of K is long
        num_stages = min(num_stages, math.ceil(product.k / block_k) // splits)
    return GemmPlan(
        product=product,
        vector=tile.vector,
        ring=ring,
        tiled=tile.tiled,
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        num_stages=num_stages,
        num_warps=tile.num_warps,
        norm_input=norm_input and tile.vector,
        splits=splits,
        wide=tma and tile.wide,
        tma=tma,
        flatten=tma and False,
        tiles_n=tiles_n,
        num_programs=min(math.ceil(product.tokens / block_m) * tiles_n, device.num_sms * tile.programs_per_sm),
        prefetch=tile.prefetch,
    )


def _block_m(product: Product, tile: Tile, least: int) -> int:
    """Tokens of a tile: all of them where they are few, rounded up to what a matrix instruction takes."""
    if tile.tiled:
        return tile.block_m
    return 1 if tile.vector else max(least, next_power_of_2(product.tokens))


def _splits(product: Product, tile: Tile, tiles_n: int, block_k: int, device: Device) -> int:
    """Parts of K, so that programs are as many as are resident at once."""
    programs, steps = tile.programs_per_sm * device.num_sms, math.ceil(product.k / block_k)
    return max(1, min(MOST_SPLITS, programs // tiles_n, steps // LEAST_STEPS))


MIN_TILE = 2048
MAX_WARPS = 16


@dataclass(frozen=True)
class NormTile:
    """All that is chosen rather than derived."""

    values_per_thread: int
    tile_values: int = MIN_TILE
    """Values of a program, where rows are narrower: it takes several."""
    most_warps: int = MAX_WARPS


@dataclass(frozen=True)
class NormPlan:
    """What `rmsnorm` is launched with."""

    block_t: int
    """Rows of a program."""
    block_h: int
    """The row's length, rounded up to a power of two."""
    num_programs: int
    num_warps: int


def norm_plan(tokens: int, hidden_size: int, tile: NormTile) -> NormPlan:
    """From the shape and a choice alone. Narrow rows share a program."""
    block_h = next_power_of_2(hidden_size)
    block_t = max(1, min(tile.tile_values // block_h, next_power_of_2(tokens)))
    warps = block_t * block_h // (tile.values_per_thread * 32)
    num_programs = math.ceil(tokens / block_t)
    return NormPlan(
        block_t=block_t,
        block_h=block_h,
        num_programs=num_programs,
        num_warps=min(tile.most_warps, max(1, next_power_of_2(warps))),
    )


@dataclass(frozen=True)
class BlockChoice:
    """Tiles of both products, and all else that is chosen rather than derived. `up` is the gate and up product."""

    vector: bool
    """As `Tile.vector`, of both products."""
    ring: bool
    """As `Tile.ring`."""
    tiled: bool
    """As `Tile.tiled`."""
    norm_input: bool
    """Whether the first product norms its input, where `vector` is."""
    norm_values: int
    """Values of a row for each thread of the norm."""
    block_m: int
    """Tokens of a tile, where `tiled` is."""
    up_block_n: int
    up_block_k: int
    up_num_stages: int
    up_num_warps: int
    down_block_n: int
    down_block_k: int
    down_num_stages: int
    down_num_warps: int
    programs_per_sm: int
    """As `Tile.programs_per_sm`."""
    wide: bool
    """As `GemmPlan.wide`."""
    tma: bool
    prefetch: int
    """As `GemmPlan.prefetch`."""


@dataclass(frozen=True)
class BlockPlan:
    """What all kernels are launched with."""

    norm: NormPlan | None
    """None: there is no norm, or the gate and up product norms its input."""
    gate_up: GemmPlan
    down: GemmPlan


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> BlockPlan:
    """From shapes alone."""
    assert isinstance(problem, MLPBlock)
    return plan_from(problem, choice_for(problem), device)


def gate_up_product(problem: MLPBlock) -> Product:
    """silu(h . gate^T) * (h . up^T)."""
    return Product(
        tokens=problem.tokens,
        n=problem.intermediate_size,
        k=problem.hidden_size,
        gated=True,
        has_residual=False,
        epsilon=problem.epsilon,
    )


def down_product(problem: MLPBlock) -> Product:
    """x + a . down^T."""
    return Product(
        tokens=problem.tokens,
        n=problem.hidden_size,
        k=problem.intermediate_size,
        gated=False,
        has_residual=problem.residual,
        epsilon=0.0,
    )


def plan_from(problem: MLPBlock, choice: BlockChoice, device: Device) -> BlockPlan:
    """What follows from a choice."""
    up_tile = Tile(
        block_n=choice.up_block_n,
        block_k=choice.up_block_k,
        num_stages=choice.up_num_stages,
        num_warps=choice.up_num_warps,
        vector=choice.vector,
        ring=choice.ring,
        tiled=choice.tiled,
        block_m=choice.block_m,
        programs_per_sm=choice.programs_per_sm,
        wide=choice.wide,
        tma=choice.tma,
        prefetch=choice.prefetch,
    )
    down_tile = Tile(
        block_n=choice.down_block_n,
        block_k=choice.down_block_k,
        num_stages=choice.down_num_stages,
        num_warps=choice.down_num_warps,
        vector=choice.vector,
        ring=choice.ring,
        tiled=choice.tiled,
        block_m=choice.block_m,
        programs_per_sm=choice.programs_per_sm,
        wide=choice.wide,
        tma=choice.tma,
        prefetch=choice.prefetch,
    )
    gate_up = gemm_plan(gate_up_product(problem), up_tile, problem.norm and choice.norm_input, device)
    norm = None
    if problem.norm and not gate_up.norm_input:
        tile = NormTile(values_per_thread=choice.norm_values, tile_values=MIN_TILE, most_warps=MAX_WARPS)
        norm = norm_plan(problem.tokens, problem.hidden_size, tile)
    return BlockPlan(norm=norm, gate_up=gate_up, down=gemm_plan(down_product(problem), down_tile, False, device))


def facts(problem: MLPBlock) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {"is_one": problem.tokens == 1, "is_few": problem.tokens <= FEW_TOKENS, "tokens": problem.tokens}


CHOSEN = (
    "vector",
    "ring",
    "tiled",
    "norm_input",
    "norm_values",
    "block_m",
    "up_block_n",
    "up_block_k",
    "up_num_stages",
    "up_num_warps",
    "down_block_n",
    "down_block_k",
    "down_num_stages",
    "down_num_warps",
    "programs_per_sm",
    "wide",
    "tma",
    "prefetch",
)


@functools.cache
def _table() -> tuple[tuple[dict[str, Any], BlockChoice], ...]:
    """(when, what is chosen then), the first that matches counts; read once, from the manifest beside this file."""
    manifest = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    rows = manifest["dispatch"]
    return tuple((row["when"], BlockChoice(**{name: row["use"][name] for name in CHOSEN})) for row in rows)


def _matches(when: dict[str, Any], found: dict[str, Any]) -> bool:
    """A fact is given as a value, or as a range, `min` and `max` included."""
    for name, wanted in when.items():
        low, high = (wanted.get("min"), wanted.get("max")) if isinstance(wanted, dict) else (wanted, wanted)
        if (low is not None and found[name] < low) or (high is not None and found[name] > high):
            return False
    return True


def choice_for(problem: MLPBlock) -> BlockChoice:
    """The choice of the table's first row that matches."""
    found = facts(problem)
    return next(chosen for when, chosen in _table() if _matches(when, found))


@triton.jit
def zero_counters(counters, count, is_first, BLOCK_C: tl.constexpr):
    """The first program zeroes `count` counters, BLOCK_C at most."""
    if is_first:
        counter = tl.arange(0, BLOCK_C)
        tl.store(counters + counter, tl.zeros([BLOCK_C], tl.int32), mask=counter < count)


@triton.jit
def rmsnorm(
    x,
    weight,
    out,
    counters,
    tokens,
    num_counters,
    epsilon,
    HIDDEN: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """Program i: rows [i * BLOCK_T, ..), and those of later rounds where programs are fewer than blocks of rows.

    The first one also zeroes `counters` of a later kernel, BLOCK_C at most.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    if BLOCK_C > 0:
        zero_counters(counters, num_counters, tl.program_id(0) == 0, BLOCK_C)
    _norm_rows(tl.program_id(0), x, weight, None, out, tokens, epsilon, HIDDEN, BLOCK_T, BLOCK_H)


@triton.jit
def _norm_rows(
    block, x, weight, scale, out, tokens, epsilon, HIDDEN: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr
):
    """A block of rows. `scale`: with HAS_SCALE the weight in float32."""
    row = block * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.arange(0, BLOCK_H)
    is_column = column < HIDDEN
    mask = (row < tokens)[:, None] & is_column[None, :]
    at = row.to(tl.int64)[:, None] * HIDDEN + column[None, :]
    values = tl.load(x + at, mask=mask, other=0.0, eviction_policy="").to(tl.float32)
    scale = tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(values * values, 1) / HIDDEN + epsilon)
    normed = (values * inverse[:, None] * scale[None, :]).to(out.dtype.element_ty)
    tl.store(out + at, normed, mask=mask, cache_modifier="")


@triton.jit
def silu(x):
    """x / (1 + exp(-x)), float32."""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def weight_rows(tile_n, N: tl.constexpr, BLOCK_N: tl.constexpr, GATED: tl.constexpr):
    """Rows of the weight for both tiles, [BLOCK_N] each, clamped to those that exist. N: see `store_tiles`."""
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    if GATED:
        first = tl.minimum(column, N - 1)
        return first, first + N
    first = column + tile_n * BLOCK_N
    return tl.minimum(first, N - 1), tl.minimum(first + BLOCK_N, N - 1)


@triton.jit
def first_tile_row(tile_n, N: tl.constexpr, BLOCK_N: tl.constexpr, GATED: tl.constexpr):
    """(first row of the first tile, rows from there to the second one's), where tiles are blocks of the weight's rows:
    with ROPE BLOCK_N is half a head."""
    if GATED:
        return tile_n * BLOCK_N, N
    return tile_n * 2 * BLOCK_N, BLOCK_N


@triton.jit
def store_tiles(
    first,
    second,
    row,
    tile_n,
    out,
    residual,
    M,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GATED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    """Finish rows `row` [BLOCK_M] of both tiles. N: columns of `out`, or with ROPE heads of q, k and v."""
    if GATED:
        _store_columns(silu(first) * second, row, tile_n * BLOCK_N, out, residual, M, N, BLOCK_N, False)
    else:
        _store_columns(first, row, tile_n * 2 * BLOCK_N, out, residual, M, N, BLOCK_N, HAS_RESIDUAL)
        _store_columns(second, row, tile_n * 2 * BLOCK_N + BLOCK_N, out, residual, M, N, BLOCK_N, HAS_RESIDUAL)


@triton.jit
def _store_columns(
    values, row, first_column, out, residual, M, N: tl.constexpr, BLOCK_N: tl.constexpr, HAS_RESIDUAL: tl.constexpr
):
    """`values`, with the residual added in float32, to columns [first_column, ..) of [M, N]."""
    column = first_column + tl.arange(0, BLOCK_N)
    mask = (row < M)[:, None] & (column < N)[None, :]
    at = row.to(tl.int64)[:, None] * N + column[None, :]
    if HAS_RESIDUAL:
        values += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _prefetch(weight, row, column, K: tl.constexpr):
    """Bring 128 bytes of every row to L2, from `column` on."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [weight + row.to(tl.int64) * K + column],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def skinny_gemm(
    x,
    weight,
    x_tiles,
    weight_tiles,
    out,
    residual,
    partial,
    counters,
    next_counters,
    num_next_counters,
    M,
    N: tl.constexpr,
    K: tl.constexpr,
    GATED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TMA: tl.constexpr,
    PREFETCH: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
    WAITS: tl.constexpr,
):
    """Program (n, s): tiles n of x [M, K] times weight^T over part s of K. The rest: see `_gemm_epilogues`.

    `partial` [tiles, SPLITS, 2, BLOCK_M, BLOCK_N] float32 and `counters` [tiles] int32, all 0, where SPLITS > 1.
    A program zeroes the BLOCK_C, at most, of a later kernel.
    """
    tile_n, part = tl.program_id(0), tl.program_id(1)
    first_row, second_row = weight_rows(tile_n, N, BLOCK_N, GATED)
    steps: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    begin, end = steps * part // SPLITS * BLOCK_K, steps * (part + 1) // SPLITS * BLOCK_K
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    if WAITS:
        for line in tl.static_range(PREFETCH):
            column = tl.minimum(begin + line * 64, K - 1) if line > 0 else begin
            _prefetch(weight, first_row, column, K)
            _prefetch(weight, second_row, column, K)
        gdc_wait()
    if BLOCK_C > 0:
        zero_counters(next_counters, num_next_counters, (tile_n == 0) & (part == 0), BLOCK_C)
    row = tl.arange(0, BLOCK_M)
    if TMA:
        first, second = _sums_of_tiles(
            x_tiles, weight_tiles, tile_n, begin, end, N, GATED, BLOCK_M, BLOCK_N, BLOCK_K, STAGES
        )
    else:
        first, second = _sums(
            x, weight, first_row, second_row, row, begin, end, M, K, BLOCK_M, BLOCK_N, BLOCK_K, STAGES
        )
    first, second = first.T, second.T
    arrived = SPLITS - 1
    if SPLITS > 1:
        at = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        TILE: tl.constexpr = BLOCK_M * BLOCK_N
        sums = partial + tile_n.to(tl.int64) * (SPLITS * 2 * TILE) + at
        tl.store(sums + part * (2 * TILE), first)
        tl.store(sums + part * (2 * TILE) + TILE, second)
        tl.debug_barrier()  # all of the program's sums are stored before it says so
        arrived = tl.atomic_add(counters + tile_n, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLITS - 1:
            first = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            second = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            for each in tl.static_range(SPLITS):
                first += tl.load(sums + each * (2 * TILE), cache_modifier=".cg")
                second += tl.load(sums + each * (2 * TILE) + TILE, cache_modifier=".cg")
    if arrived == SPLITS - 1:
        store_tiles(first, second, row, tile_n, out, residual, M, N, BLOCK_N, GATED, HAS_RESIDUAL)


@triton.jit
def _sums(
    x,
    weight,
    first_row,
    second_row,
    row,
    begin,
    end,
    M,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Both tiles over columns [begin, end) of K, [BLOCK_N, BLOCK_M] float32."""
    first = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    second = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    column = tl.arange(0, BLOCK_K)
    left_at = x + tl.minimum(row, M - 1).to(tl.int64)[:, None] * K + column[None, :]
    first_at = weight + first_row.to(tl.int64)[:, None] * K + column[None, :]
    second_at = weight + second_row.to(tl.int64)[:, None] * K + column[None, :]
    for k in tl.range(begin, end, BLOCK_K, num_stages=STAGES):
        if K % BLOCK_K == 0:
            right_1 = tl.load(first_at + k, eviction_policy="evict_first")
            right_2 = tl.load(second_at + k, eviction_policy="evict_first")
            left = tl.load(left_at + k, eviction_policy="evict_last")
        else:
            inside = (column < K - k)[None, :]
            right_1 = tl.load(first_at + k, mask=inside, other=0.0)
            right_2 = tl.load(second_at + k, mask=inside, other=0.0)
            left = tl.load(left_at + k, mask=inside, other=0.0)
        first = tl.dot(right_1, left.T, acc=first)
        second = tl.dot(right_2, left.T, acc=second)
    return first, second


@triton.jit
def _sums_of_tiles(
    x,
    weight,
    tile_n,
    begin,
    end,
    N: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """As `_sums`, from tensor descriptors. A step past K reads zeros, tokens and rows that do not exist as well."""
    first = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    second = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    first_row, distance = first_tile_row(tile_n, N, BLOCK_N, GATED)
    for k in tl.range(begin, end, BLOCK_K, num_stages=STAGES):
        right_1 = weight.load([first_row, k])
        right_2 = weight.load([first_row + distance, k])
        left = x.load([0, k])
        first = tl.dot(right_1, left.T, acc=first)
        second = tl.dot(right_2, left.T, acc=second)
    return first, second


@triton.jit
def tile_gemm(
    x,
    weight,
    out,
    residual,
    M,
    N: tl.constexpr,
    K: tl.constexpr,
    GATED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    TILES_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    FLATTEN: tl.constexpr,
    TMA: tl.constexpr,
    WIDE: tl.constexpr,
    NUM_PROGRAMS: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """Program p: tiles p, p + NUM_PROGRAMS, .. of x [M, K] times weight^T. The rest: see `_gemm_epilogues`."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    tiles_m = tl.cdiv(M, BLOCK_M)
    for tile in tl.range(tl.program_id(0), tiles_m * TILES_N, NUM_PROGRAMS, flatten=FLATTEN):
        group = tile // (16 * TILES_N)
        size = tl.minimum(tiles_m - group * 16, 16)
        tile_m = group * 16 + tile % (16 * TILES_N) % size
        tile_n = tile % (16 * TILES_N) // size
        if WIDE:
            first, second = _wide_products(x, weight, tile_m, tile_n, K, GATED, BLOCK_M, BLOCK_N, BLOCK_K, STAGES)
        else:
            first, second = _products(x, weight, tile_m, tile_n, M, N, K, GATED, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, TMA)
        store_tiles(
            first,
            second,
            tile_m * BLOCK_M + tl.arange(0, BLOCK_M),
            tile_n,
            out,
            residual,
            M,
            N,
            BLOCK_N,
            GATED,
            HAS_RESIDUAL,
        )


@triton.jit
def _products(
    x,
    weight,
    tile_m,
    tile_n,
    M,
    N: tl.constexpr,
    K: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    TMA: tl.constexpr,
):
    """Both tiles, [BLOCK_M, BLOCK_N] float32."""
    first = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    second = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if TMA:
        first_row, distance = first_tile_row(tile_n, N, BLOCK_N, GATED)
        for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
            left = x.load([tile_m * BLOCK_M, k])
            first = tl.dot(left, weight.load([first_row, k]).T, acc=first)
            second = tl.dot(left, weight.load([first_row + distance, k]).T, acc=second)
    else:
        row = tl.minimum(tile_m * BLOCK_M + tl.arange(0, BLOCK_M), M - 1).to(tl.int64)
        first_row, second_row = weight_rows(tile_n, N, BLOCK_N, GATED)
        column = tl.arange(0, BLOCK_K)
        left_at = x + row[:, None] * K + column[None, :]
        first_at = weight + first_row.to(tl.int64)[:, None] * K + column[None, :]
        second_at = weight + second_row.to(tl.int64)[:, None] * K + column[None, :]
        for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
            if K % BLOCK_K == 0:
                left, right_1, right_2 = tl.load(left_at + k), tl.load(first_at + k), tl.load(second_at + k)
            else:
                inside = (column < K - k)[None, :]
                left = tl.load(left_at + k, mask=inside, other=0.0)
                right_1 = tl.load(first_at + k, mask=inside, other=0.0)
                right_2 = tl.load(second_at + k, mask=inside, other=0.0)
            first = tl.dot(left, right_1.T, acc=first)
            second = tl.dot(left, right_2.T, acc=second)
    return first, second


@triton.jit
def _wide_products(
    x,
    weight,
    tile_m,
    tile_n,
    K: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """As `_products`, with both tiles of the weight as one operand, so that x is read once from shared memory. With
    GATED `weight` is [2, N, K]."""
    both = tl.zeros([BLOCK_M, 2 * BLOCK_N], tl.float32)
    for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        left = x.load([tile_m * BLOCK_M, k])
        if GATED:
            right = weight.load([0, tile_n * BLOCK_N, k]).reshape(2 * BLOCK_N, BLOCK_K)
        else:
            right = weight.load([tile_n * 2 * BLOCK_N, k])
        both = tl.dot(left, right.T, acc=both)
    return tl.split(tl.permute(tl.reshape(both, [BLOCK_M, 2, BLOCK_N]), [0, 2, 1]))


@triton.jit
def vector_gemm(
    x,
    norm_weight,
    weight,
    out,
    residual,
    epsilon,
    N: tl.constexpr,
    K: tl.constexpr,
    GATED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    NORM_INPUT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
    WAITS: tl.constexpr,
):
    """Program n: tiles n of x [1, K] times weight^T, as `_gemm_epilogues` has them without ROPE."""
    tile_n = tl.program_id(0)
    first_row, second_row = weight_rows(tile_n, N, BLOCK_N, GATED)
    column = tl.arange(0, BLOCK_K)[None, :]
    first_at = weight + first_row.to(tl.int64)[:, None] * K + column
    second_at = weight + second_row.to(tl.int64)[:, None] * K + column
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    right_1 = _columns(first_at, column, 0, K, BLOCK_K, "evict_first")
    right_2 = _columns(second_at, column, 0, K, BLOCK_K, "evict_first")
    if WAITS:
        gdc_wait()
    left, squares = _left(x, norm_weight, column, 0, K, NORM_INPUT, BLOCK_K)
    first, second = left * right_1, left * right_2
    for k in tl.range(BLOCK_K, K, BLOCK_K, num_stages=STAGES):
        right_1 = _columns(first_at, column, k, K, BLOCK_K, "evict_first")
        right_2 = _columns(second_at, column, k, K, BLOCK_K, "evict_first")
        left, more = _left(x, norm_weight, column, k, K, NORM_INPUT, BLOCK_K)
        first += left * right_1
        second += left * right_2
        squares += more
    first, second = tl.sum(first, 1)[None, :], tl.sum(second, 1)[None, :]
    if NORM_INPUT:
        inverse = tl.rsqrt(tl.sum(squares, 1) / K + epsilon)[:, None]
        first *= inverse
        second *= inverse
    store_tiles(first, second, tl.arange(0, 1), tile_n, out, residual, 1, N, BLOCK_N, GATED, HAS_RESIDUAL)


@triton.jit
def _left(x, norm_weight, column, k, K: tl.constexpr, NORM_INPUT: tl.constexpr, BLOCK_K: tl.constexpr):
    """Columns [k, k + BLOCK_K) of x, times the norm's weight, and their squares: [1, BLOCK_K] float32 each."""
    left = _columns(x + column, column, k, K, BLOCK_K, "evict_last")
    squares = left * left
    if NORM_INPUT:
        left *= _columns(norm_weight + column, column, k, K, BLOCK_K, "evict_last")
    return left, squares


@triton.jit
def _columns(at, column, k, K: tl.constexpr, BLOCK_K: tl.constexpr, POLICY: tl.constexpr):
    """What lies k behind `at`, in float32; 0 past K."""
    if K % BLOCK_K == 0:
        values = tl.load(at + k, eviction_policy=POLICY)
    else:
        values = tl.load(at + k, mask=column < K - k, other=0.0, eviction_policy=POLICY)
    return values.to(tl.float32)


# Renamed after Triton 3.6.
tma_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier


@gluon.jit
def _sums_gemm(
    x,
    weight,
    first_row,
    second_row,
    begin,
    count,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr,
    WAITS: gl.constexpr,
):
    """Both tiles over `count` steps of K from `begin` on, [BLOCK_N, BLOCK_M] float32."""
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, BLOCK_M, 16])
    STEP_BYTES: gl.constexpr = (2 * BLOCK_N + BLOCK_M) * BLOCK_K * 2
    first_ring = gl.allocate_shared_memory(weight.dtype, [STAGES, BLOCK_N, BLOCK_K], weight.layout)
    second_ring = gl.allocate_shared_memory(weight.dtype, [STAGES, BLOCK_N, BLOCK_K], weight.layout)
    x_ring = gl.allocate_shared_memory(x.dtype, [STAGES, BLOCK_M, BLOCK_K], x.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
    barrier()
    for i in gl.static_range(STAGES):
        mbarrier.expect(full.index(i), STEP_BYTES)
        tma_load(weight, [first_row, (begin + i) * BLOCK_K], full.index(i), first_ring.index(i))
        tma_load(weight, [second_row, (begin + i) * BLOCK_K], full.index(i), second_ring.index(i))
    if WAITS:
        gdc_wait()
    for i in gl.static_range(STAGES):
        tma_load(x, [0, (begin + i) * BLOCK_K], full.index(i), x_ring.index(i))
    first = gl.zeros([BLOCK_N, BLOCK_M], gl.float32, ACC)
    second = gl.zeros([BLOCK_N, BLOCK_M], gl.float32, ACC)
    for step in range(count):
        stage = step % STAGES
        mbarrier.wait(full.index(stage), (step // STAGES) & 1)
        left = x_ring.index(stage).permute((1, 0))
        first = warpgroup_mma(first_ring.index(stage), left, first, is_async=True)
        second = warpgroup_mma(second_ring.index(stage), left, second, is_async=True)
        first, second = warpgroup_mma_wait(0, deps=[first, second])
        barrier()  # all warps have read the stage
        if step + STAGES < count:
            k = (begin + step + STAGES) * BLOCK_K
            mbarrier.expect(full.index(stage), STEP_BYTES)
            tma_load(weight, [first_row, k], full.index(stage), first_ring.index(stage))
            tma_load(weight, [second_row, k], full.index(stage), second_ring.index(stage))
            tma_load(x, [0, k], full.index(stage), x_ring.index(stage))
    return first, second


@gluon.jit
def _added_up(first, second, partial, counter, part, SPLITS: gl.constexpr):
    """(both tiles over all of K, whether they are: only in the program whose part arrives last)."""
    ACC: gl.constexpr = first.type.layout
    BLOCK_N: gl.constexpr = first.shape[0]
    BLOCK_M: gl.constexpr = first.shape[1]
    TILE: gl.constexpr = BLOCK_M * BLOCK_N
    n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, ACC))
    m = gl.arange(0, BLOCK_M, layout=gl.SliceLayout(0, ACC))
    sums = partial + n[:, None] * BLOCK_M + m[None, :]
    gl.store(sums + part * (2 * TILE), first)
    gl.store(sums + part * (2 * TILE) + TILE, second)
    barrier()  # all of the program's sums are stored before it says so
    is_last = gl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == SPLITS - 1
    if is_last:
        first = gl.zeros([BLOCK_N, BLOCK_M], gl.float32, ACC)
        second = gl.zeros([BLOCK_N, BLOCK_M], gl.float32, ACC)
        for each in gl.static_range(SPLITS):
            first += gl.load(sums + each * (2 * TILE), cache_modifier=".cg")
            second += gl.load(sums + each * (2 * TILE) + TILE, cache_modifier=".cg")
    return first, second, is_last


@gluon.jit
def _zero(counters, count, is_first, BLOCK_C: gl.constexpr):
    """The first program zeroes `count` counters, BLOCK_C at most."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    if is_first:
        counter = gl.arange(0, BLOCK_C, layout=LAYOUT)
        gl.store(counters + counter, gl.zeros([BLOCK_C], gl.int32, LAYOUT), mask=counter < count)


@gluon.jit
def hopper_skinny_gemm(
    x,
    weight,
    out,
    residual,
    partial,
    counters,
    next_counters,
    num_next_counters,
    M,
    N: gl.constexpr,
    K: gl.constexpr,
    GATED: gl.constexpr,
    HAS_RESIDUAL: gl.constexpr,
    SPLITS: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr,
    BLOCK_C: gl.constexpr,
    WAITS: gl.constexpr,
):
    """Program (n, s): tiles n of x [M, K] times weight^T over part s of K, STAGES steps of it at least.

    Arguments as `skinny_gemm`'s.
    """
    gdc_launch_dependents()
    tile_n, part = gl.program_id(0), gl.program_id(1)
    all_steps: gl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    begin = all_steps * part // SPLITS
    count = all_steps * (part + 1) // SPLITS - begin
    first_row = tile_n * BLOCK_N if GATED else tile_n * 2 * BLOCK_N
    second_row = first_row + (N if GATED else BLOCK_N)
    first, second = _sums_gemm(x, weight, first_row, second_row, begin, count, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, WAITS)
    if BLOCK_C > 0:
        _zero(next_counters, num_next_counters, (tile_n == 0) & (part == 0), BLOCK_C)
    is_last = part == SPLITS - 1
    if SPLITS > 1:
        own = partial + tile_n.to(gl.int64) * (SPLITS * 2 * BLOCK_M * BLOCK_N)
        first, second, is_last = _added_up(first, second, own, counters + tile_n, part, SPLITS)
    if is_last:
        if GATED:
            _store(first / (1.0 + gl.exp(-first)) * second, first_row, out, residual, M, N, BLOCK_N, BLOCK_M, False)
        else:
            _store(first, first_row, out, residual, M, N, BLOCK_N, BLOCK_M, HAS_RESIDUAL)
            _store(second, second_row, out, residual, M, N, BLOCK_N, BLOCK_M, HAS_RESIDUAL)


@gluon.jit
def _store(
    values,
    first_column,
    out,
    residual,
    M,
    N: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_M: gl.constexpr,
    HAS_RESIDUAL: gl.constexpr,
):
    """`values` [BLOCK_N, BLOCK_M], with the residual added in float32, to columns [first_column, ..) of [M, N]."""
    STORED: gl.constexpr = gl.BlockedLayout([4, 1], [16, 2], [1, gl.num_warps()], [0, 1])
    values = gl.convert_layout(values, STORED)
    column = first_column + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, STORED))
    row = gl.arange(0, BLOCK_M, layout=gl.SliceLayout(0, STORED))
    mask = (column < N)[:, None] & (row < M)[None, :]
    at = row[None, :] * N + column[:, None]
    if HAS_RESIDUAL:
        values += gl.load(residual + at, mask=mask, other=0.0).to(gl.float32)
    gl.store(out + at, values.to(out.dtype.element_ty), mask=mask)


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
        x,
        weight,
        out,
        counters,
        tokens,
        num_counters,
        epsilon,
        HIDDEN=hidden_size,
        BLOCK_T=tile.block_t,
        BLOCK_H=tile.block_h,
        BLOCK_C=triton.next_power_of_2(num_counters) if num_counters else 0,
        DEPENDENT_LAUNCH=not x.is_cpu,
        num_warps=tile.num_warps,
    )
    return out


def launch_gemm(
    plan: GemmPlan,
    x: torch.Tensor,
    weight: torch.Tensor,
    tensors: Tensors,
    waits: bool,
    counters: torch.Tensor | None,
    next_counters: torch.Tensor | None,
) -> None:
    """One launch. `waits`: x comes from the kernel just ahead, which may still run.

    `counters` (all 0) are this product's own, `next_counters` are to be zeroed for the one that follows.
    """
    on_gpu = not x.is_cpu
    dependent = on_gpu
    if plan.vector:
        _launch_vector(plan, plan.product, x, weight, tensors, dependent, dependent and waits)
    elif plan.tiled:
        _launch_tiles(plan, plan.product, x, weight, tensors, dependent and waits)
    else:
        partial = None
        if plan.splits > 1:
            partial = x.new_empty((plan.tiles_n, plan.splits, 2, plan.block_m, plan.block_n), dtype=torch.float32)
        num_next = 0 if next_counters is None else next_counters.numel()
        if plan.ring and on_gpu:  # no interpreter knows Gluon
            _launch_ring(
                plan, plan.product, x, weight, tensors, partial, counters, next_counters, num_next, dependent and waits
            )
        else:
            _launch_skinny(
                plan,
                plan.product,
                x,
                weight,
                tensors,
                partial,
                counters,
                next_counters,
                num_next,
                dependent,
                dependent and waits,
            )


def _launch_vector(
    plan: GemmPlan,
    product: Product,
    x: torch.Tensor,
    weight: torch.Tensor,
    tensors: Tensors,
    dependent: bool,
    waits: bool,
) -> None:
    """One token's product needs no workspace."""
    vector_gemm[(plan.tiles_n,)](
        x,
        tensors.get("norm_weight"),
        weight,
        tensors["out"],
        tensors.get("residual"),
        product.epsilon,
        N=product.n,
        K=product.k,
        GATED=product.gated,
        HAS_RESIDUAL=product.has_residual,
        NORM_INPUT=plan.norm_input,
        BLOCK_N=plan.block_n,
        BLOCK_K=plan.block_k,
        STAGES=plan.num_stages,
        DEPENDENT_LAUNCH=dependent,
        WAITS=waits,
        num_warps=plan.num_warps,
        **({"launch_pdl": True} if waits else {}),
    )


def _launch_tiles(
    plan: GemmPlan, product: Product, x: torch.Tensor, weight: torch.Tensor, tensors: Tensors, waits: bool
) -> None:
    """Persistent programs."""
    left, right = _tile_operands(plan, product, x, weight)
    tile_gemm[(plan.num_programs,)](
        left,
        right,
        tensors["out"],
        tensors.get("residual"),
        product.tokens,
        N=product.n,
        K=product.k,
        GATED=product.gated,
        HAS_RESIDUAL=product.has_residual,
        TILES_N=plan.tiles_n,
        BLOCK_M=plan.block_m,
        BLOCK_N=plan.block_n,
        BLOCK_K=plan.block_k,
        STAGES=plan.num_stages,
        FLATTEN=plan.flatten,
        TMA=plan.tma,
        WIDE=plan.wide,
        NUM_PROGRAMS=plan.num_programs,
        DEPENDENT_LAUNCH=waits,
        num_warps=plan.num_warps,
        **({"launch_pdl": True} if waits else {}),
    )


def _launch_skinny(
    plan: GemmPlan,
    product: Product,
    x: torch.Tensor,
    weight: torch.Tensor,
    tensors: Tensors,
    partial: torch.Tensor | None,
    counters: torch.Tensor | None,
    next_counters: torch.Tensor | None,
    num_next: int,
    dependent: bool,
    waits: bool,
) -> None:
    """All tokens are one tile."""
    left, right = _tile_operands(plan, product, x, weight) if plan.tma else (None, None)
    skinny_gemm[(plan.tiles_n, plan.splits)](
        x,
        weight,
        left,
        right,
        tensors["out"],
        tensors.get("residual"),
        partial,
        counters,
        next_counters,
        num_next,
        product.tokens,
        N=product.n,
        K=product.k,
        GATED=product.gated,
        HAS_RESIDUAL=product.has_residual,
        SPLITS=plan.splits,
        BLOCK_M=plan.block_m,
        BLOCK_N=plan.block_n,
        BLOCK_K=plan.block_k,
        STAGES=plan.num_stages,
        BLOCK_C=triton.next_power_of_2(num_next) if num_next else 0,
        TMA=plan.tma,
        PREFETCH=plan.prefetch,
        DEPENDENT_LAUNCH=dependent,
        WAITS=waits,
        num_warps=plan.num_warps,
        **({"launch_pdl": True} if waits else {}),
    )


def _launch_ring(
    plan: GemmPlan,
    product: Product,
    x: torch.Tensor,
    weight: torch.Tensor,
    tensors: Tensors,
    partial: torch.Tensor | None,
    counters: torch.Tensor | None,
    next_counters: torch.Tensor | None,
    num_next: int,
    waits: bool,
) -> None:
    """Gluon: imported where it is compiled."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonDescriptor

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    hopper_skinny_gemm[(plan.tiles_n, plan.splits)](
        GluonDescriptor.from_tensor(x, [plan.block_m, plan.block_k], layout),
        GluonDescriptor.from_tensor(weight, [plan.block_n, plan.block_k], layout),
        tensors["out"],
        tensors.get("residual"),
        partial,
        counters,
        next_counters,
        num_next,
        product.tokens,
        N=product.n,
        K=product.k,
        GATED=product.gated,
        HAS_RESIDUAL=product.has_residual,
        SPLITS=plan.splits,
        BLOCK_M=plan.block_m,
        BLOCK_N=plan.block_n,
        BLOCK_K=plan.block_k,
        STAGES=plan.num_stages,
        BLOCK_C=triton.next_power_of_2(num_next) if num_next else 0,
        WAITS=waits,
        num_warps=plan.num_warps,
        launch_pdl=waits,
    )


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


def run(inputs: Inputs, state: BlockPlan) -> Outputs:
    """Two or three launches."""
    x, product = inputs["x"], state.gate_up.product
    counters = None
    if num_counters(state.gate_up):
        counters = (x.new_zeros if state.norm is None else x.new_empty)(num_counters(state.gate_up), dtype=torch.int32)
    next_counters = x.new_empty(num_counters(state.down), dtype=torch.int32) if num_counters(state.down) else None
    h = x if state.norm is None else launch_norm(state.norm, x, inputs["norm_weight"], product.epsilon, counters)
    activated = x.new_empty((product.tokens, product.n))
    launch_gemm(
        state.gate_up,
        h,
        inputs["w_gate_up"],
        {"norm_weight": inputs.get("norm_weight"), "out": activated},
        state.norm is not None,
        counters,
        next_counters,
    )
    out = x.new_empty(x.shape)
    launch_gemm(state.down, activated, inputs["w_down"], {"out": out, "residual": x}, True, next_counters, None)
    return {"out": out}


def supports(problem: Problem, device: Device) -> str | None:
    """Its choices are for one architecture."""
    if device.kind != "cpu" and device.arch != "sm_90":
        return f"it was generated for sm_90, and this device is {device.arch}"
    return None


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("block",),
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
    supports=supports,
)
