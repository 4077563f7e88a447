# SPDX-License-Identifier: Apache-2.0
# Written by kernelgate generate from kernels/gemm/triton_fp8.py.
# How, and its table of choices: h200_linear_fp8.json
"""A linear layer in fp8 in Triton: out = (x * x_scale) . (w * w_scale)^T, stream-K.

A program owns a tile of the output, or some K steps of one: the steps of all tiles, laid end to end, are cut into equal
shares, so every program reads as many bytes of w as the next (stream-K; Osama et al., arXiv 2301.03598). A tile that
lies within one share is written at once. Of the others each share leaves a partial sum in fp32, and they are added in
the order of K: the same inputs give the same bits.

A step is 128 of K, the group of a block scale: its product starts from zero, is multiplied by the scales of x and w,
and is added in fp32 registers. So sums leave Hopper's tensor cores every 128 of K, whatever the scaling.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

from ...device import Device
from ...kernel import Kernel, Origin
from ...problem import Inputs, Outputs, Problem
from ..problem import Linear, LinearFP8, LinearMX

ADDED_VALUES = 32
"""Partial values that a thread holds at once while it adds: one trip to the cache for all of them."""
IDLE = 1.05
"""How much longer than an equal share one may be that begins and ends with a tile's parts."""
TAIL = 0.8
"""Least share of the slots that several waves of whole tiles must keep busy, where shares would save `SAVED_STEPS`."""
SAVED_STEPS = 16
"""Least K steps that shares must end earlier than whole tiles, in several waves or if a second kernel adds the sums."""
IN_KERNEL_BYTES = 128 << 10
"""Most bytes of partial sums of a tile that one program adds; for more a second kernel, on all SMs, is faster."""
ARRIVAL_BYTES = 512 << 10
"""As `IN_KERNEL_BYTES`, where a search chose `arrival` for another problem."""
TMA_ALIGNED = 16
"""Elements: a descriptor's rows begin at multiples of 16 bytes, and no element is smaller than one."""


@dataclass(frozen=True)
class Tile:
    """The shape of one program. All that a search may vary is here."""

    block_m: int
    """Tokens."""
    num_warps: int
    num_stages: int
    min_steps: int = 2
    """Least K steps in a share: fewer cost more to add than a further program saves."""
    combine: str = "by_size"
    """Who adds a tile's partial sums: the last share at its `arrival`, a `second` kernel, or all `together` once all
    have arrived; `by_size` is `arrival` for few and `second` for many."""
    tma: bool = False
    """Whether tiles of x and w are loaded by tensor descriptors, where K allows it (NVIDIA, from sm_90)."""


@dataclass(frozen=True)
class StreamKPlan:
    """What the kernels are launched with."""

    out_dtype: str
    block_m: int
    num_warps: int
    num_stages: int
    group_m: int
    tma: bool
    num_tiles: int
    steps: int
    """K steps of a tile."""
    per_program: int
    """K steps of a share."""
    num_programs: int
    combine: str
    """As `Tile.combine`, but never `by_size`."""
    parts: int
    """Partial tiles that are added at once."""
    combine_rows: int
    """Rows of a tile that one program adds."""
    counters: dict[str, Any] = field(default_factory=dict, compare=False)
    """Tensors [num_tiles] int32 by device: between two calls 0, or of `together` a multiple of `CALL`.
    Calls of one plan must not run side by side."""

    @property
    def is_split(self) -> bool:
        """Whether a tile may have more than one share."""
        return self.per_program % self.steps != 0

    @property
    def is_dependent(self) -> bool:
        """Whether a second kernel follows that may be launched before the first one has ended."""
        return self.is_split and self.combine == "second"

    @property
    def parts_shape(self) -> tuple[int, int, int, int]:
        """Of the partial sums: two slots for each program."""
        return self.num_programs, 2, self.block_m, 128


def stream_k(problem: Linear | LinearFP8 | LinearMX, tile: Tile, device: Device) -> StreamKPlan:
    """Equal shares for all programs that are resident at once; whole tiles where these are many."""
    m, n, k = problem.m, problem.n, problem.k
    tiles_m = math.ceil(m / tile.block_m)
    tiles, steps = tiles_m * math.ceil(n / 128), math.ceil(k / 128)
    slots = device.num_sms
    per_program = _share(tiles, steps, slots, tile.min_steps)
    combine, most_parts = _combine_of(tile, steps, per_program, tiles, device)
    if combine == "second" and 0 < steps - per_program < SAVED_STEPS:
        per_program = steps
        combine, most_parts = _combine_of(tile, steps, per_program, tiles, device)
    programs = math.ceil(tiles * steps / per_program)
    threads = (4 if combine == "second" else tile.num_warps) * 32
    rows = tile.block_m
    if combine == "second":
        rows = max(1, min(tile.block_m, 4))
    elif combine == "together":
        rows = max(1, tile.block_m // power_of_2_below(most_parts))
    held = ADDED_VALUES * max(threads, 32) // (rows * 128)
    parts = max(1, min(power_of_2_above(most_parts), power_of_2_below(held)))
    return StreamKPlan(
        out_dtype=problem.out_dtype,
        block_m=tile.block_m,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        group_m=min(8, tiles_m),
        tma=tile.tma and k % TMA_ALIGNED == 0,
        num_tiles=tiles,
        steps=steps,
        per_program=per_program,
        num_programs=programs,
        combine=combine,
        parts=parts,
        combine_rows=rows,
    )


def _combine_of(tile: Tile, steps: int, per_program: int, tiles: int, device: Device) -> tuple[str, int]:
    """(who adds, the most shares of a tile). Only shares that all run at once, and of which every tile has the same
    number, wait for each other."""
    most_parts = math.ceil(steps / per_program) + (steps % per_program != 0)
    tile_bytes = most_parts * tile.block_m * 128 * 4
    is_even = per_program < steps and steps % per_program == 0
    can_wait = is_even and tiles * steps // per_program <= device.num_sms
    if tile.combine == "by_size" or (tile.combine == "together" and not can_wait):
        return ("arrival" if tile_bytes <= IN_KERNEL_BYTES else "second"), most_parts
    if tile.combine == "arrival" and tile_bytes > ARRIVAL_BYTES:
        return "second", most_parts
    return tile.combine, most_parts


def _share(tiles: int, steps: int, slots: int, min_steps: int) -> int:
    """K steps of a share: whole tiles or whole parts of tiles where that leaves few programs idle."""
    waves = tiles / slots
    if waves > 4 or waves / math.ceil(waves) > 0.9 or steps <= min_steps:
        return steps
    equal = max(math.ceil(tiles * steps / slots), min_steps)
    if waves > 1:
        saved = math.ceil(waves) * steps - equal
        return equal if waves / math.ceil(waves) < TAIL and saved >= SAVED_STEPS else steps
    even = math.ceil(steps / (steps // equal))
    return even if even <= IDLE * equal else equal


def power_of_2_above(number: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << max(0, number - 1).bit_length()


def power_of_2_below(number: int) -> int:
    """The largest power of two that is not larger; 1 for numbers below."""
    return 1 << (max(1, number).bit_length() - 1)


GROUP = 128
"""K that a step is of: the group of a block scale."""


def facts(problem: LinearFP8) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {"m": problem.m, "n": problem.n, "k": problem.k}


CHOSEN = ("block_m", "num_warps", "num_stages", "min_steps", "combine", "tma")


@functools.cache
def _table() -> tuple[tuple[dict[str, Any], Tile], ...]:
    """(when, what is chosen then), the first that matches counts; read once, from the manifest beside this file."""
    manifest = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    rows = manifest["dispatch"]
    return tuple((row["when"], Tile(**{name: row["use"][name] for name in CHOSEN})) for row in rows)


def _matches(when: dict[str, Any], found: dict[str, Any]) -> bool:
    """A fact is given as a value, or as a range, `min` and `max` included."""
    for name, wanted in when.items():
        low, high = (wanted.get("min"), wanted.get("max")) if isinstance(wanted, dict) else (wanted, wanted)
        if (low is not None and found[name] < low) or (high is not None and found[name] > high):
            return False
    return True


def choice_for(problem: LinearFP8) -> Tile:
    """The choice of the table's first row that matches."""
    found = facts(problem)
    return next(chosen for when, chosen in _table() if _matches(when, found))


CALL = tl.constexpr(1 << 16)
"""What a call adds to a tile's counter, where shares wait for each other: a power of two, more than a tile's shares."""


@triton.jit
def tile_place(tile, M, N, BLOCK_M: tl.constexpr, GROUP_M: tl.constexpr):
    """(block of tokens, block of features) of a tile: GROUP_M blocks of tokens for each block of features in turn."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, 128)
    group = tile // (GROUP_M * tiles_n)
    group_size = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    within = tile % (GROUP_M * tiles_n)
    return group * GROUP_M + within % group_size, within // group_size


@triton.jit
def row_length(K, K_MULTIPLE: tl.constexpr):
    """K, of which Triton sees by itself whether it is a multiple of 16: else loads are as wide as K_MULTIPLE allows."""
    if K_MULTIPLE < 16:
        return K // K_MULTIPLE * K_MULTIPLE
    return K


@triton.jit
def zeros(BLOCK_M: tl.constexpr):
    """The sum of a tile before its first step."""
    return tl.zeros([128, BLOCK_M], tl.float32)


@triton.jit
def _store_rows(out, tile, row, column, acc, M, N, BLOCK_M: tl.constexpr, GROUP_M: tl.constexpr):
    """acc, these rows and columns of a tile [BLOCK_M, BLOCK_N], to out [M, N]."""
    block_m, block_n = tile_place(tile, M, N, BLOCK_M, GROUP_M)
    m, n = block_m * BLOCK_M + row, block_n * 128 + column
    pointers = out + m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def _added_parts(partials, first, last, row, column, BLOCK_M: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr):
    """Sum of the partial tiles of programs [first, last] over ROWS x COLUMNS of them, PARTS loads at once.

    A program has two slots: 1 holds the tile that it begins, 0 one that a program before it began.
    """
    acc = tl.zeros([ROWS, 128], tl.float32)
    within = (row * 128)[:, None] + column[None, :]
    for start in range(first, last + 1, PARTS):
        program = start + tl.arange(0, PARTS)
        slot = program.to(tl.int64) * 2 + (program == first).to(tl.int64)
        pointers = partials + (slot * (BLOCK_M * 128))[:, None, None] + within[None, :, :]
        part = tl.load(pointers, mask=(program <= last)[:, None, None], other=0.0, cache_modifier=".cg")
        acc += tl.sum(part, 0)
    return acc


@triton.jit
def _wait_for_all(counter, is_first, shares):
    """Say that this share has arrived, and return when all have.

    Every call adds CALL, the first share what the others leave of it, and nobody sets the counter back: it wraps.
    """
    arrived = tl.atomic_add(counter, tl.where(is_first, CALL - shares + 1, 1), sem="acq_rel", scope="gpu")
    before = arrived & -CALL
    while (arrived & -CALL) == before:
        arrived = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")


@triton.jit
def finish_tile(
    acc,
    out,
    partials,
    counters,
    tile,
    steps,
    per_program,
    M,
    N,
    BLOCK_M: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT: tl.constexpr,
    COMBINE: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """What becomes of a program's sum acc of its steps of a tile: [BLOCK_N, BLOCK_M], or with TOKEN_ROWS [M, N]."""
    acc = tl.trans(acc)
    program = tl.program_id(0)
    row, column = tl.arange(0, BLOCK_M), tl.arange(0, 128)
    if not SPLIT:
        _store_rows(out, tile, row, column, acc, M, N, BLOCK_M, GROUP_M)
        return
    first, last = tile * steps // per_program, ((tile + 1) * steps - 1) // per_program
    if first == last:
        _store_rows(out, tile, row, column, acc, M, N, BLOCK_M, GROUP_M)
    else:
        slot = program.to(tl.int64) * 2 + (program == first).to(tl.int64)
        tl.store(partials + slot * (BLOCK_M * 128) + (row * 128)[:, None] + column[None, :], acc)
        if COMBINE == "arrival":
            tl.debug_barrier()  # all threads have stored before one of them says so
            arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu")
            if arrived == last - first:
                tl.store(counters + tile, 0)
                total = _added_parts(partials, first, last, row, column, BLOCK_M, BLOCK_M, PARTS)
                _store_rows(out, tile, row, column, total, M, N, BLOCK_M, GROUP_M)
        if COMBINE == "together":
            tl.debug_barrier()  # as above
            _wait_for_all(counters + tile, program == first, last - first + 1)
            for start in range((program - first) * ROWS, BLOCK_M, (last - first + 1) * ROWS):
                own = start + tl.arange(0, ROWS)
                total = _added_parts(partials, first, last, own, column, BLOCK_M, ROWS, PARTS)
                _store_rows(out, tile, own, column, total, M, N, BLOCK_M, GROUP_M)


@triton.jit
def _combine(
    partials,
    out,
    steps,
    per_program,
    M,
    N,
    BLOCK_M: tl.constexpr,
    GROUP_M: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """Program (t, i): rows [i * ROWS, ..) of tile t, unless the first kernel wrote it."""
    tile = tl.program_id(0)
    first, last = tile * steps // per_program, ((tile + 1) * steps - 1) // per_program
    if DEPENDENT_LAUNCH:
        gdc_wait()  # every program waits, or this kernel could end before the first one does
    if first == last:
        return
    row, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, 128)
    acc = _added_parts(partials, first, last, row, column, BLOCK_M, ROWS, PARTS)
    _store_rows(out, tile, row, column, acc, M, N, BLOCK_M, GROUP_M)


@triton.jit
def let_dependents_launch(DEPENDENT_LAUNCH: tl.constexpr):
    """Says that `_combine` may start: it waits by itself."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()


def workspace(state: StreamKPlan, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Partial sums and arrival counters; `out` where they are not looked at."""
    if not state.is_split:
        return out, out
    partials = torch.empty(state.parts_shape, dtype=torch.float32, device=out.device)
    if state.combine == "second":
        return partials, out
    kind = out.device.type
    if kind not in state.counters:
        state.counters[kind] = torch.zeros(state.num_tiles, dtype=torch.int32, device=out.device)
    return partials, state.counters[kind]


def combine(state: StreamKPlan, partials: torch.Tensor, out: torch.Tensor) -> None:
    """Run `_combine` where the plan says so."""
    if not (state.is_split and state.combine == "second"):
        return
    m, n = out.shape
    dependent_launch = state.is_dependent and not out.is_cpu
    _combine[(state.num_tiles, state.block_m // state.combine_rows)](
        partials,
        out,
        state.steps,
        state.per_program,
        m,
        n,
        BLOCK_M=state.block_m,
        GROUP_M=state.group_m,
        PARTS=state.parts,
        ROWS=state.combine_rows,
        DEPENDENT_LAUNCH=dependent_launch,
        num_warps=4,
        **({"launch_pdl": True} if dependent_launch else {}),
    )


@triton.jit
def _load_tiles(x, w, x_rows, w_rows, m, n, step, k_within, K, EVEN_K: tl.constexpr, TMA: tl.constexpr):
    """A step's tiles, [BLOCK_M, BLOCK_K] and [BLOCK_N, BLOCK_K]: of descriptors the ones that begin at m and n."""
    k = (step * 128 + k_within)[None, :]
    if TMA:
        x_tile, w_tile = x.load([m, step * 128]), w.load([n, step * 128])
    elif EVEN_K:
        w_tile, x_tile = tl.load(w_rows + k), tl.load(x_rows + k)
    else:
        w_tile = tl.load(w_rows + k, mask=k < K, other=0.0)
        x_tile = tl.load(x_rows + k, mask=k < K, other=0.0)
    return x_tile, w_tile


@triton.jit
def _load_scales(x_scales, w_scales, step, stride_xk, stride_wk):
    return tl.load(x_scales + step * stride_xk), tl.load(w_scales + step * stride_wk)


@triton.jit
def _scaled_product(x_tile, w_tile, x_factor, w_factor):
    return tl.dot(w_tile, x_tile.T) * (w_factor[:, None] * x_factor[None, :])


@triton.jit
def _multiply(
    x,
    w,
    x_rows,
    w_rows,
    x_scales,
    w_scales,
    stride_xk,
    stride_wk,
    block_m,
    block_n,
    first,
    last,
    k_within,
    K,
    BLOCK_M: tl.constexpr,
    STAGES: tl.constexpr,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
):
    """The sum of the scaled products of K steps [first, last)."""
    x_factor, w_factor = _load_scales(x_scales, w_scales, first, stride_xk, stride_wk)
    acc = zeros(BLOCK_M)
    for step in tl.range(first, last, num_stages=STAGES):
        x_tile, w_tile = _load_tiles(
            x, w, x_rows, w_rows, block_m * BLOCK_M, block_n * 128, step, k_within, K, EVEN_K, TMA
        )
        next_step = tl.minimum(step + 1, last - 1)
        next_x, next_w = _load_scales(x_scales, w_scales, next_step, stride_xk, stride_wk)
        acc += _scaled_product(x_tile, w_tile, x_factor, w_factor)
        x_factor, w_factor = next_x, next_w
    return acc


@triton.jit
def _linear_fp8(
    x,
    w,
    x_scale,
    w_scale,
    stride_xk,
    stride_xm,
    stride_wn,
    stride_wk,
    out,
    partials,
    counters,
    M,
    N,
    K,
    per_program,
    BLOCK_M: tl.constexpr,
    GROUP_M: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    SPLIT: tl.constexpr,
    COMBINE: tl.constexpr,
    EVEN_K: tl.constexpr,
    K_MULTIPLE: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
    TMA: tl.constexpr,
    GROUP_N: tl.constexpr,
):
    """Program p: K steps [p * per_program, ..) of all tiles laid end to end. A stride of a scale may be 0."""
    let_dependents_launch(DEPENDENT_LAUNCH)
    K = row_length(K, K_MULTIPLE)
    steps = tl.cdiv(K, 128)
    at = tl.program_id(0) * per_program
    end = tl.minimum(at + per_program, tl.cdiv(M, BLOCK_M) * tl.cdiv(N, 128) * steps)
    k_within = tl.arange(0, 128)
    while at < end:
        tile = at // steps
        first = at - tile * steps
        last = tl.minimum(steps, first + end - at)
        block_m, block_n = tile_place(tile, M, N, BLOCK_M, GROUP_M)
        # Rows past the end are those of the last row: they are not stored.
        m = tl.minimum(block_m * BLOCK_M + tl.arange(0, BLOCK_M), M - 1)
        n = tl.minimum(block_n * 128 + tl.arange(0, 128), N - 1)
        x_rows = x if TMA else x + m.to(tl.int64)[:, None] * K
        w_rows = w if TMA else w + n.to(tl.int64)[:, None] * K
        x_scales, w_scales = x_scale + m * stride_xm, w_scale + n // GROUP_N * stride_wn
        acc = _multiply(
            x,
            w,
            x_rows,
            w_rows,
            x_scales,
            w_scales,
            stride_xk,
            stride_wk,
            block_m,
            block_n,
            first,
            last,
            k_within,
            K,
            BLOCK_M,
            STAGES,
            EVEN_K,
            TMA,
        )
        finish_tile(
            acc, out, partials, counters, tile, steps, per_program, M, N, BLOCK_M, GROUP_M, SPLIT, COMBINE, PARTS, ROWS
        )
        at += last - first


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> StreamKPlan:
    """A tile for the shape, then equal shares."""
    assert isinstance(problem, LinearFP8)
    return stream_k(problem, choice_for(problem), device)


def run(inputs: Inputs, state: StreamKPlan) -> Outputs:
    """One launch, or two."""
    x, w, x_scale, w_scale = inputs["x"], inputs["w"], inputs["x_scale"], inputs["w_scale"]
    (m, k), n = x.shape, len(w)
    out = torch.empty((m, n), dtype=getattr(torch, state.out_dtype), device=x.device)
    partials, counters = workspace(state, out)
    is_interpreted = out.is_cpu
    is_block = len(w_scale) == triton.cdiv(n, GROUP) and len(x_scale) == triton.cdiv(k, GROUP)
    stride_xk, stride_xm = x_scale.stride(0) if len(x_scale) > 1 else 0, 1 if x_scale.shape[1] > 1 else 0
    stride_wn, stride_wk = w_scale.stride(0) if len(w_scale) > 1 else 0, 1 if w_scale.shape[1] > 1 else 0
    if state.tma:
        x = TensorDescriptor.from_tensor(x, [state.block_m, 128])
        w = TensorDescriptor.from_tensor(w, [128, 128])
    _linear_fp8[(state.num_programs,)](
        x,
        w,
        x_scale,
        w_scale,
        stride_xk,
        stride_xm,
        stride_wn,
        stride_wk,
        out,
        partials,
        counters,
        m,
        n,
        k,
        state.per_program,
        TMA=state.tma,
        GROUP_N=GROUP if is_block else 1,
        K_MULTIPLE=min(16, k & -k),
        BLOCK_M=state.block_m,
        GROUP_M=state.group_m,
        PARTS=state.parts,
        ROWS=state.combine_rows,
        STAGES=state.num_stages,
        SPLIT=state.is_split,
        COMBINE="arrival" if is_interpreted and state.combine == "together" else state.combine,
        EVEN_K=k % 128 == 0,
        DEPENDENT_LAUNCH=state.is_dependent and not is_interpreted,
        num_warps=state.num_warps,
    )
    combine(state, partials, out)
    return {"out": out}


def supports(problem: Problem, device: Device) -> str | None:
    """Its choices are for one architecture."""
    if device.kind != "cpu" and device.arch != "sm_90":
        return f"it was generated for sm_90, and this device is {device.arch}"
    return None


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("linear_fp8",),
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
    supports=supports,
)
