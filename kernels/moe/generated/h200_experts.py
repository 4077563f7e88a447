# SPDX-License-Identifier: Apache-2.0
# Written by kernelgate generate from kernels/moe/triton_experts.py.
# How, and its table of choices: h200_experts.json
"""Experts of a mixture in Triton: slots sorted on the device, two grouped products, and a weighted sum.

    y_e(x) = (silu(x . gate_e^T) * (x . up_e^T)) . w2_e^T
    out[t] = sum_i topk_weights[t, i] * y_{topk_ids[t, i]}(x[t])

    (router) | (quantise x) | sort slots | gate and up with SwiGLU | down | weighted sum

Rows of tokens are gathered within the first product and results scattered to their slots by the second. The sum is a
kernel of its own, so that a token's experts are always added in the same order. For one token nothing is sorted. The
number of programs is a bound from shapes: those without a tile end at once, so a captured graph replays with any
routing. 8-bit weights want 8-bit activations: x is quantised by a kernel, h where it is computed.
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

from ...device import Device
from ...kernel import Kernel, Origin
from ...problem import Inputs, Outputs, Problem
from ..problem import BLOCK, MoEGroupedGEMM, MoELayer, MoERouter


@dataclass(frozen=True)
class Choice:
    """All that is chosen rather than derived. `first`: the product with gate and up; `second`: the one with w2."""

    block_m: int
    """Rows of a tile (a token and its choice)."""
    first_columns: int
    """Columns of a tile: rows of one weight matrix."""
    first_k: int
    first_warps: int
    first_stages: int
    second_columns: int
    second_k: int
    second_warps: int
    second_stages: int
    group_m: int = 8
    """Tiles of rows that share the columns which they are on."""
    swap: bool = False
    """Whether weights are multiplied by tokens, and not tokens by weights."""
    use_tma: bool = False
    """Whether weights are loaded through descriptors (Hopper and later)."""
    split_k: int = 1
    """Parts that the second product's columns are cut into; each is written by itself."""
    stream: bool = False
    """Whether weights are read once, by one program each."""
    combine_columns: int = 1024
    hopper: bool = False
    """Whether both products are those in `_grouped_hopper`, over rows that are copied together."""
    hopper_wide: bool = False
    """Whether two consumers there have one accumulator each, and not three of them two."""
    hopper_dependent_launch: bool = False
    """As `dependent_launch`, for what only those products need."""


def facts(problem: MoEGroupedGEMM | MoELayer) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {
        "is_fp8": problem.is_fp8,
        "rows_of_64_experts": 64 * problem.tokens * problem.top_k // problem.num_experts,
        "columns": problem.intermediate_size,
    }


CHOSEN = (
    "block_m",
    "first_columns",
    "first_k",
    "first_warps",
    "first_stages",
    "second_columns",
    "second_k",
    "second_warps",
    "second_stages",
    "group_m",
    "swap",
    "use_tma",
    "split_k",
    "stream",
    "combine_columns",
    "hopper",
    "hopper_wide",
    "hopper_dependent_launch",
)


@functools.cache
def _table() -> tuple[tuple[dict[str, Any], Choice], ...]:
    """(when, what is chosen then), the first that matches counts; read once, from the manifest beside this file."""
    manifest = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    rows = manifest["dispatch"]
    return tuple((row["when"], Choice(**{name: row["use"][name] for name in CHOSEN})) for row in rows)


def _matches(when: dict[str, Any], found: dict[str, Any]) -> bool:
    """A fact is given as a value, or as a range, `min` and `max` included."""
    for name, wanted in when.items():
        low, high = (wanted.get("min"), wanted.get("max")) if isinstance(wanted, dict) else (wanted, wanted)
        if (low is not None and found[name] < low) or (high is not None and found[name] > high):
            return False
    return True


def choice_for(problem: MoEGroupedGEMM | MoELayer) -> Choice:
    """The choice of the table's first row that matches."""
    found = facts(problem)
    return next(chosen for when, chosen in _table() if _matches(when, found))


def suits_tma(problem: MoEGroupedGEMM | MoELayer) -> bool:
    """Whether rows of 16-bit values begin at multiples of 16 bytes."""
    return problem.hidden_size % 8 == 0 and problem.intermediate_size % 8 == 0


def fits_hopper(problem: MoEGroupedGEMM | MoELayer) -> bool:
    """Whether the type and the addresses are those of `_grouped_hopper`, and rows are sorted."""
    return not problem.is_fp8 and suits_tma(problem) and problem.tokens > 1


@dataclass(frozen=True)
class Tile:
    """The shape of one program of a grouped product."""

    block_m: int
    """Rows (a token and its choice)."""
    block_n: int
    """Columns: rows of one weight matrix."""
    block_k: int
    num_warps: int
    num_stages: int
    group_m: int = 8
    """Tiles of rows that share the columns which they are on."""
    swap: bool = False
    """Whether weights are multiplied by tokens, and not tokens by weights."""
    use_tma: bool = False
    """Whether weights are loaded through descriptors (Hopper and later)."""


@dataclass(frozen=True)
class ExpertsPlan:
    """What all kernels are launched with."""

    problem: MoEGroupedGEMM | MoELayer
    gate_up: Tile
    down: Tile
    split_k: int
    """Parts that the second product's columns are cut into; each is written by itself."""
    direct: bool
    """One token: its slots are the rows, and nothing is sorted."""
    stream: bool
    """Whether weights are read once, by one program each."""
    combine_columns: int
    hopper: bool
    """Whether both products are those in Gluon, over rows that are copied together."""
    fits_hopper: bool
    """Whether they can be."""
    hopper_wide: bool
    hopper_dependent_launch: bool
    hopper_programs: int
    """Persistent programs of them."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> ExpertsPlan:
    """Every launch decision, from shapes alone."""
    assert isinstance(problem, MoEGroupedGEMM | MoELayer)
    return plan_from(problem, choice_for(problem), device)


def plan_from(problem: MoEGroupedGEMM | MoELayer, choice: Choice, device: Device) -> ExpertsPlan:
    """What follows from a choice. 8-bit operands want steps of one block, and h one block of it in a tile."""
    return ExpertsPlan(
        problem=problem,
        gate_up=Tile(
            block_m=choice.block_m,
            block_n=BLOCK if problem.is_fp8 else choice.first_columns,
            block_k=BLOCK if problem.is_fp8 else choice.first_k,
            num_warps=choice.first_warps,
            num_stages=choice.first_stages,
            group_m=choice.group_m,
            swap=choice.swap,
            use_tma=choice.use_tma and suits_tma(problem),
        ),
        down=Tile(
            block_m=choice.block_m,
            block_n=min(BLOCK, choice.second_columns) if problem.is_fp8 else choice.second_columns,
            block_k=BLOCK if problem.is_fp8 else choice.second_k,
            num_warps=choice.second_warps,
            num_stages=choice.second_stages,
            group_m=choice.group_m,
            swap=choice.swap,
            use_tma=choice.use_tma and suits_tma(problem),
        ),
        split_k=choice.split_k,
        direct=isinstance(problem, MoELayer) and problem.tokens == 1,
        stream=choice.stream,
        combine_columns=choice.combine_columns,
        hopper=choice.hopper,
        fits_hopper=fits_hopper(problem),
        hopper_wide=choice.hopper_wide,
        hopper_dependent_launch=choice.hopper_dependent_launch,
        hopper_programs=device.num_sms,
    )


BLOCK_SLOTS = 2048
"""Slots that a program of `_sort_slots` looks at in one step."""


@triton.jit
def _sort_slots(topk_ids, sorted_slots, expert_ends, num_slots, BLOCK: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr):
    """Program e: slots of expert e. sorted_slots[row] = slot; rows[slot] = row; expert_ends[e]."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    expert = tl.program_id(0)
    before = tl.zeros([BLOCK], tl.int32)
    for first in range(0, num_slots, BLOCK):
        slot = first + tl.arange(0, BLOCK)
        chosen = tl.load(topk_ids + slot, mask=slot < num_slots, other=-1)
        before += ((chosen >= 0) & (chosen < expert)).to(tl.int32)
    row = tl.sum(before, 0)
    for first in range(0, num_slots, BLOCK):
        slot = first + tl.arange(0, BLOCK)
        is_ours = (tl.load(topk_ids + slot, mask=slot < num_slots, other=-1) == expert).to(tl.int32)
        own_row = row + tl.cumsum(is_ours, 0) - is_ours
        tl.store(sorted_slots + own_row, slot, mask=is_ours > 0)
        row += tl.sum(is_ours, 0)
    tl.store(expert_ends + expert, row)


@triton.jit
def find_tile(
    expert_ends,
    pid,
    NUM_EXPERTS: tl.constexpr,
    EXPERTS_BLOCK: tl.constexpr,
    NUM_COLUMN_BLOCKS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """(expert, first row, end of the expert's rows, column block) of a program; the expert is -1 for one too many.

    Tiles of BLOCK_M rows belong to one expert each. GROUP_M tiles that follow each other take all column blocks
    before the next ones begin: their rows stay in the cache, and so do weights that two of them share.
    """
    expert = tl.arange(0, EXPERTS_BLOCK)
    end = tl.load(expert_ends + expert, mask=expert < NUM_EXPERTS, other=0)
    start = tl.load(expert_ends + expert - 1, mask=(expert > 0) & (expert < NUM_EXPERTS), other=0)
    tiles = tl.cdiv(end - start, BLOCK_M)
    tile_ends = tl.cumsum(tiles, 0)
    total = tl.sum(tiles, 0)
    group = pid // (GROUP_M * NUM_COLUMN_BLOCKS)
    in_group = pid % (GROUP_M * NUM_COLUMN_BLOCKS)
    group_size = tl.maximum(tl.minimum(total - group * GROUP_M, GROUP_M), 1)
    tile = group * GROUP_M + in_group % group_size
    is_ours = (tile_ends > tile) & (tile_ends - tiles <= tile)
    found = tl.sum(tl.where(is_ours, expert, 0), 0)
    first_row = tl.sum(tl.where(is_ours, start + (tile - tile_ends + tiles) * BLOCK_M, 0), 0)
    end_row = tl.sum(tl.where(is_ours, end, 0), 0)
    is_needed = (tile < total) & (in_group // group_size < NUM_COLUMN_BLOCKS)
    return tl.where(is_needed, found, -1), first_row, end_row, in_group // group_size


def sort_slots(
    topk_ids: torch.Tensor, num_experts: int, dependent_launch: bool, is_first: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[tokens, top_k] ids -> (sorted_slots [tokens * top_k], expert_ends [num_experts], rows [tokens, top_k]), int32.

    Negative ids are left out. `rows` is filled where wanted. `dependent_launch`: the next kernel may be launched while
    this one runs, and unless this `is_first` it may be so itself.
    """
    num_slots = topk_ids.numel()
    sorted_slots = torch.empty(num_slots, dtype=torch.int32, device=topk_ids.device)
    rows = sorted_slots
    expert_ends = torch.empty(num_experts, dtype=torch.int32, device=topk_ids.device)
    _sort_slots[(num_experts,)](
        topk_ids,
        sorted_slots,
        expert_ends,
        num_slots,
        BLOCK=min(BLOCK_SLOTS, max(32, triton.next_power_of_2(num_slots))),
        DEPENDENT_LAUNCH=dependent_launch,
        num_warps=4,
        **launch_options(dependent_launch and not is_first),
    )
    return sorted_slots, expert_ends, rows


def most_tiles(num_slots: int, num_experts: int, block_m: int) -> int:
    """Tiles that these slots can make at most, however they are spread: each used expert may leave one open."""
    return min(num_slots, num_slots // block_m + min(num_experts, num_slots))


def launch_options(dependent_launch: bool) -> dict[str, bool]:
    """Options of a kernel that may be launched before the one ahead of it has ended."""
    return {"launch_pdl": True} if dependent_launch else {}


@triton.jit
def _tile_of(
    topk_ids,
    expert_ends,
    pid,
    NUM_EXPERTS: tl.constexpr,
    EXPERTS_BLOCK: tl.constexpr,
    COLUMN_BLOCKS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    GROUP_M: tl.constexpr,
    DIRECT: tl.constexpr,
):
    if DIRECT:
        row = pid // COLUMN_BLOCKS
        tile = (tl.load(topk_ids + row), row, row + 1, pid % COLUMN_BLOCKS)
    else:
        tile = find_tile(expert_ends, pid, NUM_EXPERTS, EXPERTS_BLOCK, COLUMN_BLOCKS, BLOCK_M, GROUP_M)
    return tile


@triton.jit
def _load_rows(row, is_row, first_column, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    """[BLOCK_M, BLOCK_K] of rows that begin at the pointers `row` [BLOCK_M, 1]."""
    column = first_column + tl.arange(0, BLOCK_K)
    mask = is_row[:, None]
    if not EVEN_K:
        mask = mask & (column < COLUMNS)[None, :]
    return tl.load(row + column[None, :], mask=mask, other=0.0)


@triton.jit
def _store_tile(pointer, row_start, is_row, column, values, COLUMNS: tl.constexpr, SWAP: tl.constexpr):
    """Columns of rows that begin `row_start` [BLOCK_M] elements behind `pointer`; values as `_multiply` gives them."""
    is_column = column < COLUMNS
    if SWAP:
        at, mask = row_start[None, :] + column[:, None], is_column[:, None] & is_row[None, :]
    else:
        at, mask = row_start[:, None] + column[None, :], is_row[:, None] & is_column[None, :]
    tl.store(pointer + at, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _in_8_bits(values, FP8_MAX: tl.constexpr, SWAP: tl.constexpr):
    """(values over their scale, one scale for each row): the row's largest magnitude becomes the type's."""
    largest = tl.max(tl.abs(values), 0 if SWAP else 1)
    scale = tl.where(largest == 0.0, 1.0, largest / FP8_MAX)
    scaled = values / (scale[None, :] if SWAP else scale[:, None])
    return tl.clamp(scaled, -FP8_MAX, FP8_MAX), scale


@triton.jit
def _load_weight(
    weight,
    first_row,
    first_column,
    row_limit,
    COLUMNS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    USE_TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    STREAM: tl.constexpr,
):
    """[BLOCK_N, BLOCK_K] of a matrix [*, COLUMNS] of all experts' rows; STREAM: it is read once, by one program."""
    if USE_TMA:
        tile = weight.load([first_row.to(tl.int32), first_column])
    else:
        row = tl.arange(0, BLOCK_N)
        column = first_column + tl.arange(0, BLOCK_K)
        pointers = weight + (first_row + row)[:, None] * COLUMNS + column[None, :]
        mask = (row < row_limit)[:, None]
        if not EVEN_K:
            mask = mask & (column < COLUMNS)[None, :]
        tile = tl.load(pointers, mask=mask, other=0.0, eviction_policy="evict_first" if STREAM else "")
    return tile


@triton.jit
def _multiply(weight, x, acc, SWAP: tl.constexpr):
    """acc + the product, [BLOCK_N, BLOCK_M] where SWAP, else [BLOCK_M, BLOCK_N]."""
    if SWAP:
        acc = tl.dot(weight, x.T, acc)
    else:
        acc = tl.dot(x, weight.T, acc)
    return acc


@triton.jit
def _multiply_scaled(weight, x, acc, weight_scale, x_scale, SWAP: tl.constexpr):
    """acc + the product of 8-bit operands: one scale for the weights, one for each row of x."""
    if SWAP:
        acc += tl.dot(weight, x.T) * (x_scale * weight_scale)[None, :]
    else:
        acc += tl.dot(x, weight.T) * (x_scale * weight_scale)[:, None]
    return acc


@triton.jit
def gate_up(
    x,
    x_scale,
    w13,
    w13_scale,
    topk_ids,
    sorted_slots,
    expert_ends,
    h,
    h_scale,
    NUM_EXPERTS: tl.constexpr,
    EXPERTS_BLOCK: tl.constexpr,
    HIDDEN: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    SLOTS_PER_TOKEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    STAGES: tl.constexpr,
    SWAP: tl.constexpr,
    DIRECT: tl.constexpr,
    USE_TMA: tl.constexpr,
    STREAM: tl.constexpr,
    FP8: tl.constexpr,
    QUANTIZE: tl.constexpr,
    FP8_MAX: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """h[row] = silu(x . gate^T) * (x . up^T) for BLOCK_M sorted rows and BLOCK_N columns of one expert.

    Row r is a row of x itself where SLOTS_PER_TOKEN is 0, else x[sorted_slots[r] // SLOTS_PER_TOKEN]. QUANTIZE, with
    BLOCK_N = 128, stores h in 8 bits with a scale for each row of the block.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    COLUMN_BLOCKS: tl.constexpr = (INTERMEDIATE + BLOCK_N - 1) // BLOCK_N
    EVEN_K: tl.constexpr = HIDDEN % BLOCK_K == 0
    expert, first_row, end_row, column_block = _tile_of(
        topk_ids, expert_ends, tl.program_id(0), NUM_EXPERTS, EXPERTS_BLOCK, COLUMN_BLOCKS, BLOCK_M, GROUP_M, DIRECT
    )
    if expert < 0:
        return
    row = first_row + tl.arange(0, BLOCK_M)
    is_row = row < end_row
    source = row
    if SLOTS_PER_TOKEN > 0:
        slot = row if DIRECT else tl.load(sorted_slots + row, mask=is_row, other=0)
        source = slot // SLOTS_PER_TOKEN
    x_row = x + source.to(tl.int64)[:, None] * HIDDEN
    first_column = column_block * BLOCK_N
    gate_row = expert.to(tl.int64) * (2 * INTERMEDIATE) + first_column
    if SWAP:
        gate = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    else:
        gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    up = gate
    for step in tl.range(0, tl.cdiv(HIDDEN, BLOCK_K), num_stages=STAGES):
        x_tile = _load_rows(x_row, is_row, step * BLOCK_K, HIDDEN, BLOCK_K, EVEN_K)
        gate_tile = _load_weight(
            w13,
            gate_row,
            step * BLOCK_K,
            INTERMEDIATE - first_column,
            HIDDEN,
            BLOCK_N,
            BLOCK_K,
            USE_TMA,
            EVEN_K,
            STREAM,
        )
        up_tile = _load_weight(
            w13,
            gate_row + INTERMEDIATE,
            step * BLOCK_K,
            INTERMEDIATE - first_column,
            HIDDEN,
            BLOCK_N,
            BLOCK_K,
            USE_TMA,
            EVEN_K,
            STREAM,
        )
        if FP8:
            row_scale = tl.load(x_scale + source.to(tl.int64) * (HIDDEN // 128) + step, mask=is_row, other=0.0)
            gate_scale = w13_scale + (gate_row // 128) * (HIDDEN // 128) + step
            up_scale = gate_scale + (INTERMEDIATE // 128) * (HIDDEN // 128)
            gate = _multiply_scaled(gate_tile, x_tile, gate, tl.load(gate_scale), row_scale, SWAP)
            up = _multiply_scaled(up_tile, x_tile, up, tl.load(up_scale), row_scale, SWAP)
        else:
            gate = _multiply(gate_tile, x_tile, gate, SWAP)
            up = _multiply(up_tile, x_tile, up, SWAP)
    result = gate / (1.0 + tl.exp(-gate)) * up
    if QUANTIZE:
        result, scale = _in_8_bits(result, FP8_MAX, SWAP)
        tl.store(h_scale + row.to(tl.int64) * (INTERMEDIATE // 128) + column_block, scale, mask=is_row)
    column = first_column + tl.arange(0, BLOCK_N)
    _store_tile(h, row.to(tl.int64) * INTERMEDIATE, is_row, column, result, INTERMEDIATE, SWAP)


@triton.jit
def down(
    h,
    h_scale,
    w2,
    w2_scale,
    topk_ids,
    sorted_slots,
    expert_ends,
    y,
    num_slots,
    NUM_EXPERTS: tl.constexpr,
    EXPERTS_BLOCK: tl.constexpr,
    HIDDEN: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    STAGES: tl.constexpr,
    SPLIT_K: tl.constexpr,
    SWAP: tl.constexpr,
    DIRECT: tl.constexpr,
    USE_TMA: tl.constexpr,
    STREAM: tl.constexpr,
    FP8: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """y[part, slot] = h[row] . w2^T over one of SPLIT_K parts of the columns, for BLOCK_M rows of one expert."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    COLUMN_BLOCKS: tl.constexpr = (HIDDEN + BLOCK_N - 1) // BLOCK_N
    EVEN_K: tl.constexpr = INTERMEDIATE % BLOCK_K == 0
    STEPS: tl.constexpr = (INTERMEDIATE + BLOCK_K - 1) // BLOCK_K
    PART_STEPS: tl.constexpr = (STEPS + SPLIT_K - 1) // SPLIT_K
    expert, first_row, end_row, column_block = _tile_of(
        topk_ids, expert_ends, tl.program_id(0), NUM_EXPERTS, EXPERTS_BLOCK, COLUMN_BLOCKS, BLOCK_M, GROUP_M, DIRECT
    )
    if expert < 0:
        return
    part = tl.program_id(1)
    row = first_row + tl.arange(0, BLOCK_M)
    is_row = row < end_row
    h_row = h + row.to(tl.int64)[:, None] * INTERMEDIATE
    first_column = column_block * BLOCK_N
    weight_row = expert.to(tl.int64) * HIDDEN + first_column
    if SWAP:
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    else:
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in tl.range(part * PART_STEPS, tl.minimum((part + 1) * PART_STEPS, STEPS), num_stages=STAGES):
        h_tile = _load_rows(h_row, is_row, step * BLOCK_K, INTERMEDIATE, BLOCK_K, EVEN_K)
        tile = _load_weight(
            w2,
            weight_row,
            step * BLOCK_K,
            HIDDEN - first_column,
            INTERMEDIATE,
            BLOCK_N,
            BLOCK_K,
            USE_TMA,
            EVEN_K,
            STREAM,
        )
        if FP8:
            row_scale = tl.load(h_scale + row.to(tl.int64) * (INTERMEDIATE // 128) + step, mask=is_row, other=0.0)
            weight_scale = tl.load(w2_scale + (weight_row // 128) * (INTERMEDIATE // 128) + step)
            acc = _multiply_scaled(tile, h_tile, acc, weight_scale, row_scale, SWAP)
        else:
            acc = _multiply(tile, h_tile, acc, SWAP)
    slot = row if DIRECT else tl.load(sorted_slots + row, mask=is_row, other=0)
    column = first_column + tl.arange(0, BLOCK_N)
    _store_tile(y, (part.to(tl.int64) * num_slots + slot) * HIDDEN, is_row, column, acc, HIDDEN, SWAP)


@triton.jit
def combine(
    y,
    topk_ids,
    topk_weights,
    out,
    num_tokens,
    HIDDEN: tl.constexpr,
    SLOTS_PER_TOKEN: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """out[token] = sum of topk_weights * y over its slots and over the parts of the products.

    y has a row for each slot; where IS_SORTED, slot s is in row rows[s] and every id counts.
    """
    if DEPENDENT_LAUNCH:
        gdc_wait()
    token = tl.program_id(0) + tl.arange(0, 1)
    column = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    is_token, is_column = token < num_tokens, (column < HIDDEN)[None, :]
    acc = tl.zeros([1, BLOCK_H], tl.float32)
    for i in tl.static_range(SLOTS_PER_TOKEN):
        slot = token * SLOTS_PER_TOKEN + i
        weight = tl.load(topk_weights + slot, mask=is_token, other=0.0)
        row, is_here = slot, tl.load(topk_ids + slot, mask=is_token, other=-1) >= 0
        total = tl.zeros([1, BLOCK_H], tl.float32)
        for part in tl.static_range(SPLIT_K):
            at = (row.to(tl.int64) + part * SLOTS_PER_TOKEN * num_tokens) * HIDDEN
            pointers = y + at[:, None] + column[None, :]
            total += tl.load(pointers, mask=is_here[:, None] & is_column, other=0.0).to(tl.float32)
        acc += total * weight[:, None]
    pointers = out + token.to(tl.int64)[:, None] * HIDDEN + column[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=is_token[:, None] & is_column)


@triton.jit
def quantize(x, x8, x_scale, COLUMNS: tl.constexpr, BLOCKS: tl.constexpr, FP8_MAX: tl.constexpr):
    """A row of x [*, COLUMNS] in 8 bits, with a scale for every 128 columns; BLOCKS, a power of two, covers them."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    column = block[:, None] * 128 + tl.arange(0, 128)[None, :]
    mask = column < COLUMNS
    values = tl.load(x + row * COLUMNS + column, mask=mask, other=0.0).to(tl.float32)
    scaled, scale = _in_8_bits(values, FP8_MAX, False)
    tl.store(x8 + row * COLUMNS + column, scaled.to(x8.dtype.element_ty), mask=mask)
    tl.store(x_scale + row * (COLUMNS // 128) + block, scale, mask=block < COLUMNS // 128)


TILE_FIELDS = tl.constexpr(4)
"""Columns of `tiles`: expert, first row, end of the expert's rows, block of columns."""


@triton.jit
def list_tiles(
    expert_ends,
    tiles,
    num_tiles,
    NUM_EXPERTS: tl.constexpr,
    EXPERTS_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    COLUMN_BLOCKS: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """Program e lists the tiles of expert e: those that share weights follow each other. num_tiles[0]: of all."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    expert = tl.program_id(0)
    each = tl.arange(0, EXPERTS_BLOCK)
    end = tl.load(expert_ends + each, mask=each < NUM_EXPERTS, other=0)
    start = tl.load(expert_ends + each - 1, mask=(each > 0) & (each < NUM_EXPERTS), other=0)
    row_tiles = tl.cdiv(end - start, BLOCK_M)
    before = tl.sum(tl.where(each < expert, row_tiles, 0), 0) * COLUMN_BLOCKS
    tl.store(num_tiles, tl.sum(row_tiles, 0) * COLUMN_BLOCKS)
    own_tiles = tl.sum(tl.where(each == expert, row_tiles, 0), 0)
    own_start = tl.sum(tl.where(each == expert, start, 0), 0)
    own_end = tl.sum(tl.where(each == expert, end, 0), 0)
    for first in range(0, own_tiles * COLUMN_BLOCKS, 512):
        i = first + tl.arange(0, 512)
        mask = i < own_tiles * COLUMN_BLOCKS
        row_tile = i % tl.maximum(own_tiles, 1)
        at = tiles + (before + i) * TILE_FIELDS
        tl.store(at, tl.zeros([512], tl.int32) + expert, mask=mask)
        tl.store(at + 1, own_start + row_tile * BLOCK_M, mask=mask)
        tl.store(at + 2, tl.zeros([512], tl.int32) + own_end, mask=mask)
        tl.store(at + 3, i // tl.maximum(own_tiles, 1), mask=mask)


@triton.jit
def gather_rows(
    x,
    sorted_slots,
    expert_ends,
    rows,
    NUM_EXPERTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SLOTS_PER_TOKEN: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """rows[r] = x[sorted_slots[r] // SLOTS_PER_TOKEN] for one r and BLOCK columns; none behind the last expert's."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(expert_ends + NUM_EXPERTS - 1):
        return
    token = (tl.load(sorted_slots + row) // SLOTS_PER_TOKEN).to(tl.int64)
    column = tl.program_id(1) * 1024 + tl.arange(0, 1024)
    mask = column < COLUMNS
    tl.store(rows + row * COLUMNS + column, tl.load(x + token * COLUMNS + column, mask=mask), mask=mask)


# Renamed after Triton 3.6.
tma_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier
_descriptor_type = gl.shared_memory_descriptor
reinterpret = getattr(_descriptor_type, "reinterpret", None) or _descriptor_type._reinterpret

ROWS = gl.constexpr(64)
"""Rows of one consumer."""
COLUMNS = gl.constexpr(128)
"""Rows of a weight matrix that one accumulator needs."""
BLOCK_K = gl.constexpr(64)
STAGES = gl.constexpr(4)
"""Steps in shared memory at once. H200, tuning, ibidem: 898 us with four, against 963 us with three."""
CONSUMER_REGISTERS = gl.constexpr(160)
"""Of a thread; with the producer's, in a warpgroup of its own, at most 512 in all. H200, tuning, experts' first product
in Qwen3: 898 us with three consumers, against 1259 us with two, both with two accumulators."""
WIDE_CONSUMER_REGISTERS = gl.constexpr(240)
PRODUCER_REGISTERS = gl.constexpr(24)


@gluon.jit
def _find_tile(tiles, number):
    tile = tiles + number * TILE_FIELDS
    return gl.load(tile), gl.load(tile + 1), gl.load(tile + 2), gl.load(tile + 3)


@gluon.jit
def _produce(
    x,
    weight,
    tiles,
    num_tiles,
    x_ring,
    weight_ring,
    full,
    empty,
    STEPS: gl.constexpr,
    EXPERT_ROWS: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    SECOND: gl.constexpr,
    UNITS: gl.constexpr,
):
    """The producer: one warp."""
    had_steps = 0
    for number in range(gl.program_id(0), gl.load(num_tiles), gl.num_programs(0)):
        expert, first_row, end_row, column_block = _find_tile(tiles, number)
        units = gl.minimum((end_row - first_row + ROWS - 1) // ROWS, UNITS)
        weight_row = expert * EXPERT_ROWS + column_block * BLOCK_ROWS
        for step in range(STEPS):
            stage, phase = had_steps % STAGES, (had_steps // STAGES) & 1
            bar = full.index(stage)
            mbarrier.wait(empty.index(stage), phase ^ 1)
            for n in gl.static_range(1, UNITS + 1):
                if units == n:
                    mbarrier.expect(bar, (n * ROWS + 2 * COLUMNS) * BLOCK_K * 2)
            tma_load(weight, [weight_row, step * BLOCK_K], bar, weight_ring.index(2 * stage))
            tma_load(weight, [weight_row + SECOND, step * BLOCK_K], bar, weight_ring.index(2 * stage + 1))
            for n in gl.static_range(UNITS):
                if n < units:
                    tma_load(x, [first_row + n * ROWS, step * BLOCK_K], bar, x_ring.index(stage * UNITS + n))
            had_steps += 1


@gluon.jit
def _product(
    had_steps,
    x_ring,
    weight_ring,
    full,
    empty,
    WHO: gl.constexpr,
    UNITS: gl.constexpr,
    STEPS: gl.constexpr,
    ACC: gl.constexpr,
):
    """Both accumulators of a tile; a stage is given back one step after its products have begun."""
    first = gl.zeros([ROWS, COLUMNS], gl.float32, ACC)
    second = gl.zeros([ROWS, COLUMNS], gl.float32, ACC)
    stage = had_steps % STAGES
    mbarrier.wait(full.index(stage), (had_steps // STAGES) & 1)
    x_tile = x_ring.index(stage * UNITS + WHO)
    first = warpgroup_mma(x_tile, weight_ring.index(2 * stage).permute((1, 0)), first, use_acc=False, is_async=True)
    second = warpgroup_mma(
        x_tile, weight_ring.index(2 * stage + 1).permute((1, 0)), second, use_acc=False, is_async=True
    )
    first, second = warpgroup_mma_wait(2, deps=[first, second])
    for step in range(had_steps + 1, had_steps + STEPS):
        before = stage
        stage = step % STAGES
        mbarrier.wait(full.index(stage), (step // STAGES) & 1)
        x_tile = x_ring.index(stage * UNITS + WHO)
        first = warpgroup_mma(x_tile, weight_ring.index(2 * stage).permute((1, 0)), first, is_async=True)
        second = warpgroup_mma(x_tile, weight_ring.index(2 * stage + 1).permute((1, 0)), second, is_async=True)
        first, second = warpgroup_mma_wait(2, deps=[first, second])
        barrier()  # all four warps have read the stage before
        mbarrier.arrive(empty.index(before), count=1)
    first, second = warpgroup_mma_wait(0, deps=[first, second])
    barrier()
    mbarrier.arrive(empty.index(stage), count=1)
    return first, second


@gluon.jit
def _product_wide(
    had_steps,
    x_ring,
    weight_ring,
    full,
    empty,
    WHO: gl.constexpr,
    UNITS: gl.constexpr,
    STEPS: gl.constexpr,
    ACC: gl.constexpr,
):
    """As `_product`, with one accumulator for both, parted at the end."""
    WIDE_ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 2 * COLUMNS, 16])
    ring = reinterpret(weight_ring, weight_ring.dtype, [STAGES, 2 * COLUMNS, BLOCK_K], weight_ring.layout)
    acc = gl.zeros([ROWS, 2 * COLUMNS], gl.float32, WIDE_ACC)
    stage = had_steps % STAGES
    mbarrier.wait(full.index(stage), (had_steps // STAGES) & 1)
    x_tile = x_ring.index(stage * UNITS + WHO)
    acc = warpgroup_mma(x_tile, ring.index(stage).permute((1, 0)), acc, use_acc=False, is_async=True)
    acc = warpgroup_mma_wait(1, deps=[acc])
    for step in range(had_steps + 1, had_steps + STEPS):
        before = stage
        stage = step % STAGES
        mbarrier.wait(full.index(stage), (step // STAGES) & 1)
        x_tile = x_ring.index(stage * UNITS + WHO)
        acc = warpgroup_mma(x_tile, ring.index(stage).permute((1, 0)), acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=[acc])
        barrier()  # all four warps have read the stage before
        mbarrier.arrive(empty.index(before), count=1)
    acc = warpgroup_mma_wait(0, deps=[acc])
    barrier()
    mbarrier.arrive(empty.index(stage), count=1)
    first, second = acc.reshape([ROWS, 2, COLUMNS]).permute((0, 2, 1)).split()
    return gl.convert_layout(first, ACC), gl.convert_layout(second, ACC)


@gluon.jit
def _rest(had_steps, full, empty, STEPS: gl.constexpr):
    """Give back each stage of a tile that has no row for this consumer."""
    for step in range(had_steps, had_steps + STEPS):
        mbarrier.wait(full.index(step % STAGES), (step // STAGES) & 1)
        barrier()
        mbarrier.arrive(empty.index(step % STAGES), count=1)


@gluon.jit
def _store(out, out_row, is_row, first_column, values, OUT_COLUMNS: gl.constexpr):
    column = first_column + gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, values.type.layout))
    pointers = out + out_row.to(gl.int64)[:, None] * OUT_COLUMNS + column[None, :]
    mask = is_row[:, None] & (column < OUT_COLUMNS)[None, :]
    gl.store(pointers, values.to(out.dtype.element_ty), mask=mask)


@gluon.jit
def _consume(
    tiles,
    num_tiles,
    out_rows,
    out,
    x_ring,
    weight_ring,
    full,
    empty,
    WHO: gl.constexpr,
    STEPS: gl.constexpr,
    OUT_COLUMNS: gl.constexpr,
    GATED: gl.constexpr,
    SCATTERS: gl.constexpr,
    UNITS: gl.constexpr,
    WIDE: gl.constexpr,
):
    """Consumer WHO: a warpgroup with rows [WHO * 64, WHO * 64 + 64) of every tile."""
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    had_steps = 0
    for number in range(gl.program_id(0), gl.load(num_tiles), gl.num_programs(0)):
        _expert, first_row, end_row, column_block = _find_tile(tiles, number)
        if first_row + WHO * ROWS < end_row:
            if WIDE:
                first, second = _product_wide(had_steps, x_ring, weight_ring, full, empty, WHO, UNITS, STEPS, ACC)
            else:
                first, second = _product(had_steps, x_ring, weight_ring, full, empty, WHO, UNITS, STEPS, ACC)
            row = first_row + WHO * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, ACC))
            is_row = row < end_row
            out_row = row
            if SCATTERS:
                out_row = gl.load(out_rows + row, mask=is_row, other=0)
            if GATED:
                result = first / (1.0 + gl.exp(-first)) * second
                _store(out, out_row, is_row, column_block * COLUMNS, result, OUT_COLUMNS)
            else:
                _store(out, out_row, is_row, column_block * 2 * COLUMNS, first, OUT_COLUMNS)
                _store(out, out_row, is_row, (column_block * 2 + 1) * COLUMNS, second, OUT_COLUMNS)
        else:
            _rest(had_steps, full, empty, STEPS)
        had_steps += STEPS


@gluon.jit
def grouped_hopper(
    x,
    weight,
    tiles,
    num_tiles,
    out_rows,
    out,
    STEPS: gl.constexpr,
    EXPERT_ROWS: gl.constexpr,
    OUT_COLUMNS: gl.constexpr,
    GATED: gl.constexpr,
    SCATTERS: gl.constexpr,
    WIDE: gl.constexpr,
    DEPENDENT_LAUNCH: gl.constexpr,
):
    """out[row] = silu(x[row] . gate^T) * (x[row] . up^T) where GATED, else x[row] . weight^T, in row out_rows[row]
    where SCATTERS. x [rows, K] and weight [experts * EXPERT_ROWS, K] are descriptors of [64, 64] and [128, 64].
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    UNITS: gl.constexpr = 2 if WIDE else 3
    x_ring = gl.allocate_shared_memory(x.dtype, [STAGES * UNITS, ROWS, BLOCK_K], x.layout)
    weight_ring = gl.allocate_shared_memory(weight.dtype, [STAGES * 2, COLUMNS, BLOCK_K], weight.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=UNITS)
    # Gate and up, or two blocks of columns that follow each other.
    BLOCK_ROWS: gl.constexpr = COLUMNS if GATED else 2 * COLUMNS
    SECOND: gl.constexpr = EXPERT_ROWS // 2 if GATED else COLUMNS
    if WIDE:
        gl.warp_specialize(
            [
                (
                    _consume,
                    (
                        tiles,
                        num_tiles,
                        out_rows,
                        out,
                        x_ring,
                        weight_ring,
                        full,
                        empty,
                        0,
                        STEPS,
                        OUT_COLUMNS,
                        GATED,
                        SCATTERS,
                        UNITS,
                        WIDE,
                    ),
                ),
                (
                    _consume,
                    (
                        tiles,
                        num_tiles,
                        out_rows,
                        out,
                        x_ring,
                        weight_ring,
                        full,
                        empty,
                        1,
                        STEPS,
                        OUT_COLUMNS,
                        GATED,
                        SCATTERS,
                        UNITS,
                        WIDE,
                    ),
                ),
                (
                    _produce,
                    (
                        x,
                        weight,
                        tiles,
                        num_tiles,
                        x_ring,
                        weight_ring,
                        full,
                        empty,
                        STEPS,
                        EXPERT_ROWS,
                        BLOCK_ROWS,
                        SECOND,
                        UNITS,
                    ),
                ),
            ],
            [4, 1],
            [WIDE_CONSUMER_REGISTERS, PRODUCER_REGISTERS],
        )
    else:
        gl.warp_specialize(
            [
                (
                    _consume,
                    (
                        tiles,
                        num_tiles,
                        out_rows,
                        out,
                        x_ring,
                        weight_ring,
                        full,
                        empty,
                        0,
                        STEPS,
                        OUT_COLUMNS,
                        GATED,
                        SCATTERS,
                        UNITS,
                        WIDE,
                    ),
                ),
                (
                    _consume,
                    (
                        tiles,
                        num_tiles,
                        out_rows,
                        out,
                        x_ring,
                        weight_ring,
                        full,
                        empty,
                        1,
                        STEPS,
                        OUT_COLUMNS,
                        GATED,
                        SCATTERS,
                        UNITS,
                        WIDE,
                    ),
                ),
                (
                    _consume,
                    (
                        tiles,
                        num_tiles,
                        out_rows,
                        out,
                        x_ring,
                        weight_ring,
                        full,
                        empty,
                        2,
                        STEPS,
                        OUT_COLUMNS,
                        GATED,
                        SCATTERS,
                        UNITS,
                        WIDE,
                    ),
                ),
                (
                    _produce,
                    (
                        x,
                        weight,
                        tiles,
                        num_tiles,
                        x_ring,
                        weight_ring,
                        full,
                        empty,
                        STEPS,
                        EXPERT_ROWS,
                        BLOCK_ROWS,
                        SECOND,
                        UNITS,
                    ),
                ),
            ],
            [4, 4, 1],
            [CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS],
        )


BLOCK_M = 192
"""Rows of a tile: 64 for each of three consumers."""
WIDE_BLOCK_M = 128
"""Of two."""
COLUMNS_LAUNCH = 128
"""Rows of a weight matrix that one accumulator needs."""
BLOCK_K_LAUNCH = 64
GATHER_BLOCK = 1024


def gathered(
    x: torch.Tensor, sorted_slots: torch.Tensor, expert_ends: torch.Tensor, slots_per_token: int, dependent: bool
) -> torch.Tensor:
    """[slots, hidden_size]: tokens' rows sorted by expert; those behind the last expert's are not written.

    `dependent`, here and below: kernels are launched while those ahead of them still run, and wait for them there.
    """
    columns = x.shape[1]
    rows = x.new_empty((len(sorted_slots), columns))
    gather_rows[(len(rows), math.ceil(columns / GATHER_BLOCK))](
        x,
        sorted_slots,
        expert_ends,
        rows,
        NUM_EXPERTS=len(expert_ends),
        COLUMNS=columns,
        SLOTS_PER_TOKEN=slots_per_token,
        DEPENDENT_LAUNCH=dependent,
        num_warps=4,
        **launch_options(dependent),
    )
    return rows


def hopper_gate_up(
    x: torch.Tensor,
    w13: torch.Tensor,
    expert_ends: torch.Tensor,
    h: torch.Tensor,
    programs: int,
    is_wide: bool,
    dependent: bool,
    is_first: bool,
) -> None:
    """h [rows, I] from x [rows, H], whose rows are sorted by expert, and w13 [experts, 2 I, H]."""
    block_m = WIDE_BLOCK_M if is_wide else BLOCK_M
    listed, num_tiles = _listed(
        len(x), expert_ends, block_m, math.ceil(h.shape[1] / COLUMNS_LAUNCH), dependent, is_first
    )
    _grouped(x, w13, (listed, num_tiles, expert_ends), h, programs, True, is_wide, dependent)


def hopper_down(
    h: torch.Tensor,
    w2: torch.Tensor,
    expert_ends: torch.Tensor,
    out_rows: torch.Tensor,
    y: torch.Tensor,
    programs: int,
    is_wide: bool,
    dependent: bool,
) -> None:
    """y[out_rows[r]] [rows, H] from h [rows, I] and w2 [experts, H, I]."""
    block_m, column_blocks = WIDE_BLOCK_M if is_wide else BLOCK_M, math.ceil(y.shape[1] / (2 * COLUMNS_LAUNCH))
    listed, num_tiles = _listed(len(h), expert_ends, block_m, column_blocks, dependent, False)
    _grouped(h, w2, (listed, num_tiles, out_rows), y, programs, False, is_wide, dependent)


def _listed(
    rows: int, expert_ends: torch.Tensor, block_m: int, column_blocks: int, dependent: bool, is_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tiles, how many); `is_first`: no kernel of ours is ahead."""
    experts = len(expert_ends)
    most = most_tiles(rows, experts, block_m) * column_blocks
    listed = torch.empty((most, TILE_FIELDS.value), dtype=torch.int32, device=expert_ends.device)
    num_tiles = torch.empty(1, dtype=torch.int32, device=expert_ends.device)
    list_tiles[(experts,)](
        expert_ends,
        listed,
        num_tiles,
        NUM_EXPERTS=experts,
        EXPERTS_BLOCK=triton.next_power_of_2(experts),
        BLOCK_M=block_m,
        COLUMN_BLOCKS=column_blocks,
        DEPENDENT_LAUNCH=dependent,
        num_warps=4,
        **launch_options(dependent and not is_first),
    )
    return listed, num_tiles


def _grouped(
    x: torch.Tensor,
    weight: torch.Tensor,
    order: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    out: torch.Tensor,
    programs: int,
    is_gated: bool,
    is_wide: bool,
    dependent: bool,
) -> None:
    """`order` is (tiles, how many, rows of the output)."""

    _, expert_rows, columns = weight.shape
    grouped_hopper[(min(programs, len(order[0])),)](
        _descriptor(x, 64),
        _descriptor(weight.view(-1, columns), COLUMNS_LAUNCH),
        order[0],
        order[1],
        order[2],
        out,
        STEPS=math.ceil(columns / BLOCK_K_LAUNCH),
        EXPERT_ROWS=expert_rows,
        OUT_COLUMNS=out.shape[1],
        GATED=is_gated,
        SCATTERS=not is_gated,
        WIDE=is_wide,
        DEPENDENT_LAUNCH=dependent,
        num_warps=4,
        **launch_options(dependent),
    )


def _descriptor(tensor: torch.Tensor, rows: int) -> Any:
    """Tiles of [rows, 64] from [*, columns]."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    return TensorDescriptor.from_tensor(tensor, [rows, BLOCK_K_LAUNCH], layout)


def router_of(problem: MoELayer) -> MoERouter:
    """The router that a layer's field names."""
    if problem.router == "softmax":
        return MoERouter(problem.tokens, problem.num_experts, problem.top_k)
    return MoERouter(
        problem.tokens, problem.num_experts, problem.top_k, "sigmoid", num_groups=8, top_groups=4, scaling_factor=2.5
    )


@dataclass(frozen=True)
class RouterPlan:
    """What the kernel is launched with."""

    problem: MoERouter


@triton.jit
def _open_groups(choosing, IS_SOFTMAX: tl.constexpr, TOP_GROUPS: tl.constexpr):
    """[tokens, groups] bool: the TOP_GROUPS groups with the best scores of [tokens, groups, members]."""
    group, member = tl.arange(0, choosing.shape[1]), tl.arange(0, choosing.shape[2])
    best = tl.max(choosing, 2)
    if not IS_SOFTMAX:
        first = tl.argmax(choosing, 2)
        rest = tl.where(member[None, None, :] == first[:, :, None], float("-inf"), choosing)
        best += tl.max(rest, 2)
    is_open = tl.zeros_like(best) > 0
    for _ in tl.static_range(TOP_GROUPS):
        chosen = group[None, :] == tl.argmax(best, 1)[:, None]
        is_open = is_open | chosen
        best = tl.where(chosen, float("-inf"), best)
    return is_open


@triton.jit
def _route(
    logits,
    bias,
    weights,
    ids,
    num_tokens,
    scaling_factor,
    NUM_EXPERTS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUPS: tl.constexpr,
    MEMBERS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_K_BLOCK: tl.constexpr,
    IS_SOFTMAX: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """Program t: weights and ids [BLOCK_T, TOP_K] of tokens [t * BLOCK_T, ..).

    LATE_SCORES: those of the chosen are computed once more, from their logits, instead of sought along with them.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    GROUP_SIZE: tl.constexpr = NUM_EXPERTS // NUM_GROUPS
    token = tl.program_id(0) + tl.arange(0, 1)
    group, member = tl.arange(0, GROUPS), tl.arange(0, MEMBERS)
    expert = group[:, None] * GROUP_SIZE + member[None, :]  # [GROUPS, MEMBERS]
    is_expert = ((group < NUM_GROUPS)[:, None] & (member < GROUP_SIZE)[None, :])[None, :, :]
    pointers = logits + token.to(tl.int64)[:, None, None] * NUM_EXPERTS + expert[None, :, :]
    mask = (token < num_tokens)[:, None, None] & is_expert
    logit = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    largest, total = logit, logit  # stand-ins, where there is nothing to normalise
    if IS_SOFTMAX:
        choosing = tl.where(is_expert, logit, float("-inf"))
        largest = tl.max(tl.max(choosing, 2), 1)
        score = tl.exp(choosing - largest[:, None, None])
        total = tl.sum(tl.sum(score, 2), 1)
        if not RENORMALIZE:
            score = score / total[:, None, None]
    else:
        score = 1.0 / (1.0 + tl.exp(-logit))
        correction = tl.load(bias + expert[None, :, :], mask=is_expert, other=0.0)
        choosing = tl.where(is_expert, score + correction, float("-inf"))
    if NUM_GROUPS > 1:
        choosing = tl.where(_open_groups(choosing, IS_SOFTMAX, TOP_GROUPS)[:, :, None], choosing, float("-inf"))
    choosing = tl.reshape(choosing, [1, GROUPS * MEMBERS])
    score = tl.reshape(score, [1, GROUPS * MEMBERS])
    place, column = tl.arange(0, GROUPS * MEMBERS)[None, :], tl.arange(0, TOP_K_BLOCK)[None, :]
    out_weights = tl.zeros([1, TOP_K_BLOCK], tl.float32)
    out_ids = tl.zeros([1, TOP_K_BLOCK], tl.int32)
    for i in tl.static_range(TOP_K):
        at = tl.argmax(choosing, 1)[:, None]
        out_weights = tl.where(column == i, tl.sum(tl.where(place == at, score, 0.0), 1)[:, None], out_weights)
        out_ids = tl.where(column == i, (at // MEMBERS) * GROUP_SIZE + at % MEMBERS, out_ids)
        choosing = tl.where(place == at, float("-inf"), choosing)
    if RENORMALIZE:
        out_weights = out_weights / tl.sum(out_weights, 1)[:, None]
    at = token.to(tl.int64)[:, None] * TOP_K + column
    stored = (token < num_tokens)[:, None] & (column < TOP_K)
    tl.store(weights + at, out_weights * scaling_factor, mask=stored)
    tl.store(ids + at, out_ids, mask=stored)


def route_tokens(inputs: Inputs, state: RouterPlan, dependent_launch: bool) -> Outputs:
    """One launch. `dependent_launch`: the next kernel may be launched while this one runs."""
    problem, logits = state.problem, inputs["router_logits"]
    shape = (problem.tokens, problem.top_k)
    weights = torch.empty(shape, dtype=torch.float32, device=logits.device)
    ids = torch.empty(shape, dtype=torch.int32, device=logits.device)
    _route[(triton.cdiv(problem.tokens, 1),)](
        logits,
        inputs.get("correction_bias", logits),
        weights,
        ids,
        problem.tokens,
        problem.scaling_factor,
        NUM_EXPERTS=problem.num_experts,
        NUM_GROUPS=problem.num_groups,
        GROUPS=triton.next_power_of_2(problem.num_groups),
        MEMBERS=triton.next_power_of_2(problem.num_experts // problem.num_groups),
        TOP_GROUPS=problem.top_groups,
        TOP_K=problem.top_k,
        TOP_K_BLOCK=triton.next_power_of_2(problem.top_k),
        IS_SOFTMAX=problem.scoring == "softmax",
        RENORMALIZE=problem.renormalize,
        DEPENDENT_LAUNCH=dependent_launch,
        num_warps=1,
    )
    return {"weights": weights, "ids": ids}


def run(inputs: Inputs, state: ExpertsPlan) -> Outputs:
    """One task or the other."""
    return _grouped_gemm(inputs, state) if isinstance(state.problem, MoEGroupedGEMM) else _layer(inputs, state)


def _grouped_gemm(inputs: Inputs, state: ExpertsPlan) -> Outputs:
    x, ends = inputs["x"], inputs["expert_ends"]
    assert isinstance(state.problem, MoEGroupedGEMM)
    if state.hopper and state.fits_hopper and not x.is_cpu:
        h = x.new_empty((len(x), state.problem.intermediate_size))
        hopper_gate_up(
            x, inputs["w13"], ends, h, state.hopper_programs, state.hopper_wide, state.hopper_dependent_launch, True
        )
        return {"h": h}
    dtype = getattr(torch, state.problem.dtype)
    h = torch.empty((len(x), state.problem.intermediate_size), dtype=dtype, device=x.device)
    _launch_gate_up(
        inputs, state, state.gate_up, (x, inputs.get("x_scale", ends)), (ends, ends, ends), (h, ends), 0, False
    )
    return {"h": h}


def _layer(inputs: Inputs, state: ExpertsPlan) -> Outputs:
    problem, x = state.problem, inputs["hidden"]
    assert isinstance(problem, MoELayer)
    dependent = not x.is_cpu
    slots = problem.tokens * problem.slots
    if problem.router == "given":
        ids, weights = inputs["topk_ids"], inputs["topk_weights"]
    else:
        routing = RouterPlan(problem=router_of(problem))
        chosen = route_tokens(inputs, routing, dependent)
        ids, weights = chosen["ids"], chosen["weights"]
    x_scale, h_scale = ids, ids  # stand-ins, where there is nothing to scale
    h_dtype = x.dtype
    if problem.is_fp8:
        h_dtype = inputs["w13"].dtype
        x, x_scale = _quantized(x, h_dtype)
        h_scale = x_scale.new_empty((slots, problem.intermediate_size // BLOCK))
    order = (ids, ids, ids)
    is_first = problem.router == "given" and not problem.is_fp8
    if not state.direct:
        order = (ids, *sort_slots(ids, problem.stored_experts, dependent, is_first)[:2])
    h = torch.empty((slots, problem.intermediate_size), dtype=h_dtype, device=x.device)
    if state.hopper and state.fits_hopper and not x.is_cpu:
        y = torch.empty((1, slots, problem.hidden_size), dtype=x.dtype, device=x.device)
        programs = state.hopper_programs
        overlaps = state.hopper_dependent_launch
        rows = gathered(x, order[1], order[2], problem.slots, overlaps)
        hopper_gate_up(rows, inputs["w13"], order[2], h, programs, state.hopper_wide, overlaps, False)
        hopper_down(h, inputs["w2"], order[2], order[1], y[0], programs, state.hopper_wide, overlaps)
        return {"out": _combined(state, y, ids, weights, inputs["hidden"], overlaps)}
    follows = dependent and not (state.direct and is_first)
    _launch_gate_up(inputs, state, state.gate_up, (x, x_scale), order, (h, h_scale), problem.slots, follows)
    y_dtype = torch.float32 if state.split_k > 1 else inputs["hidden"].dtype
    y = torch.empty((state.split_k, slots, problem.hidden_size), dtype=y_dtype, device=x.device)
    _launch_down(inputs, state, state.down, (h, h_scale), order, y, dependent)
    return {"out": _combined(state, y, ids, weights, inputs["hidden"], dependent)}


def _combined(
    state: ExpertsPlan, y: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, hidden: torch.Tensor, follows: bool
) -> torch.Tensor:
    """Each token's sum; `follows`: the kernel ahead lets this one be launched before it ends."""
    problem, out = state.problem, torch.empty_like(hidden)
    assert isinstance(problem, MoELayer)
    combine[triton.cdiv(problem.tokens, 1), triton.cdiv(problem.hidden_size, state.combine_columns)](
        y,
        ids,
        weights,
        out,
        problem.tokens,
        HIDDEN=problem.hidden_size,
        SLOTS_PER_TOKEN=problem.slots,
        SPLIT_K=len(y),
        BLOCK_H=state.combine_columns,
        DEPENDENT_LAUNCH=follows,
        num_warps=1 if state.combine_columns <= 256 else 4,
        **launch_options(follows),
    )
    return out


def _launch_gate_up(
    inputs: Inputs,
    state: ExpertsPlan,
    tile: Tile,
    x: tuple[torch.Tensor, torch.Tensor],
    order: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    h: tuple[torch.Tensor, torch.Tensor],
    slots_per_token: int,
    follows: bool,
) -> None:
    """`x` and `h` come with their scales; `order` is (topk_ids, sorted_slots, expert_ends)."""
    problem, interpreted = state.problem, h[0].is_cpu
    num_slots = problem.tokens * (slots_per_token or problem.top_k)
    quantizes = problem.is_fp8 and isinstance(problem, MoELayer)
    gate_up[(_num_programs(state, tile, num_slots, problem.intermediate_size),)](
        x[0],
        x[1],
        _as_seen(inputs["w13"], tile),
        inputs.get("w13_scale", order[0]),
        order[0],
        order[1],
        order[2],
        h[0],
        h[1],
        SLOTS_PER_TOKEN=slots_per_token,
        QUANTIZE=quantizes,
        FP8_MAX=_largest(h[0].dtype) if quantizes else 0.0,
        DEPENDENT_LAUNCH=not interpreted,
        NUM_EXPERTS=state.problem.stored_experts,
        EXPERTS_BLOCK=triton.next_power_of_2(state.problem.stored_experts),
        HIDDEN=state.problem.hidden_size,
        INTERMEDIATE=state.problem.intermediate_size,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        GROUP_M=tile.group_m,
        STAGES=tile.num_stages,
        SWAP=tile.swap,
        DIRECT=state.direct,
        USE_TMA=tile.use_tma and not interpreted,
        STREAM=state.stream,
        FP8=state.problem.is_fp8,
        num_warps=tile.num_warps,
        **launch_options(follows),
    )


def _launch_down(
    inputs: Inputs,
    state: ExpertsPlan,
    tile: Tile,
    h: tuple[torch.Tensor, torch.Tensor],
    order: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    y: torch.Tensor,
    dependent: bool,
) -> None:
    interpreted = y.is_cpu
    num_programs = _num_programs(state, tile, len(h[0]), state.problem.hidden_size)
    down[(num_programs, state.split_k)](
        h[0],
        h[1],
        _as_seen(inputs["w2"], tile),
        inputs.get("w2_scale", order[0]),
        order[0],
        order[1],
        order[2],
        y,
        len(h[0]),
        SPLIT_K=state.split_k,
        DEPENDENT_LAUNCH=dependent,
        NUM_EXPERTS=state.problem.stored_experts,
        EXPERTS_BLOCK=triton.next_power_of_2(state.problem.stored_experts),
        HIDDEN=state.problem.hidden_size,
        INTERMEDIATE=state.problem.intermediate_size,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        GROUP_M=tile.group_m,
        STAGES=tile.num_stages,
        SWAP=tile.swap,
        DIRECT=state.direct,
        USE_TMA=tile.use_tma and not interpreted,
        STREAM=state.stream,
        FP8=state.problem.is_fp8,
        num_warps=tile.num_warps,
        **launch_options(dependent),
    )


def _num_programs(state: ExpertsPlan, tile: Tile, num_slots: int, columns: int) -> int:
    """Tiles that may be needed times blocks of columns."""
    tiles = num_slots if state.direct else most_tiles(num_slots, state.problem.stored_experts, tile.block_m)
    groups = tiles if state.direct else math.ceil(tiles / tile.group_m) * tile.group_m
    return groups * math.ceil(columns / tile.block_n)


def _as_seen(weight: torch.Tensor, tile: Tile) -> Any:
    """The weights, or a descriptor of all their rows that loads BLOCK_N x BLOCK_K at once."""
    if not tile.use_tma or weight.is_cpu:
        return weight
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(weight.view(-1, weight.shape[-1]), [tile.block_n, tile.block_k])


def _quantized(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x [tokens, columns] in 8 bits with its scales [tokens, columns / 128]."""
    tokens, columns = x.shape
    x8 = torch.empty_like(x, dtype=dtype)
    scale = torch.empty((tokens, columns // BLOCK), dtype=torch.float32, device=x.device)
    blocks = triton.next_power_of_2(columns // BLOCK)
    quantize[(tokens,)](x, x8, scale, COLUMNS=columns, BLOCKS=blocks, FP8_MAX=_largest(dtype), num_warps=8)
    return x8, scale


def _largest(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).max)


def supports(problem: Problem, device: Device) -> str | None:
    """Its choices are for one architecture."""
    if device.kind != "cpu" and device.arch != "sm_90":
        return f"it was generated for sm_90, and this device is {device.arch}"
    return None


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("grouped_gemm", "layer"),
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
    supports=supports,
)
