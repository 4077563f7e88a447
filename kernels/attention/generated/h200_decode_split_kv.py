# SPDX-License-Identifier: Apache-2.0
# Written by kernelgate generate from kernels/attention/decode_split_kv.py.
# How, and its table of choices: h200_decode_split_kv.json
"""Paged decode and tree attention in Triton: split-KV over shares of all tokens, then combine.

With query head h, its KV head h // (num_heads / num_kv_heads), softmax scale a and the scales of an 8-bit cache:

    K = k_scale * k_cache    V = v_scale * v_cache
    out = softmax(a * q . K^T) . V        lse = ln sum exp(a * q . K^T)

The query heads of one KV head and the queries of a sequence are rows, `seq_len_q * group` of them: they share every
token that is loaded. A program owns a block of rows of one KV head and walks over tiles of tokens, which may span
several pages; their numbers are loaded one tile ahead. An 8-bit cache is converted to float16, exactly, and so is q.

Sequences of which whole ones fill the device have a program each. Otherwise the tiles of all sequences are laid end to
end and cut into equal parts, one a program; every program finds its part from `seq_lens` on the device. A sequence that
lies within one part is written at once. Of the others each part writes a partial result, divided by its own softmax
sum, and `combine` weighs them by their log-sum-exp, in base 2:

    out = sum_i 2^(lse_i - m) out_i / sum_i 2^(lse_i - m)        m = max_i lse_i
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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ...device import Device
from ...kernel import Kernel, Origin
from ...problem import Inputs, Outputs, Problem
from ..problem import PagedDecode


@triton.jit
def tiles_of_sequences(seq_lens, batch, BATCH_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tiles in every sequence [BATCH_BLOCK], 0 past the batch."""
    sequence = tl.arange(0, BATCH_BLOCK)
    return tl.cdiv(tl.load(seq_lens + sequence, mask=sequence < batch, other=0), BLOCK_N)


@triton.jit
def part_size(total_tiles, NUM_PARTS: tl.constexpr, MIN_TILES: tl.constexpr):
    """Tiles in each part; the last ones may hold fewer, or none."""
    return tl.maximum(tl.cdiv(total_tiles, NUM_PARTS), MIN_TILES)


@triton.jit
def in_head(is_row, column, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr):
    """The mask `is_row`, [.., 1], for COLUMNS of a head: a power of two, of which it may have fewer."""
    mask = is_row
    if HEAD_DIM % COLUMNS != 0:
        mask = is_row & (column < HEAD_DIM)
    return mask


LN_2 = tl.constexpr(math.log(2))


@triton.jit
def out_row(sequence, kv_head, row, SEQ_LEN_Q: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr):
    """Where row (query, head of the group) of a KV head stands among [batch, SEQ_LEN_Q, KV_HEADS * GROUP]."""
    query, head = row // GROUP, kv_head * GROUP + row % GROUP
    return (sequence.to(tl.int64) * SEQ_LEN_Q + query) * (KV_HEADS * GROUP) + head


@triton.jit
def combine(
    seq_lens,
    out,
    lse,
    partial_out,
    partial_lse,
    batch,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    SEQ_LEN_Q: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BATCH_BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    MIN_TILES: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """Program (b, i, j): rows [i * BLOCK_R, ..), columns [j * BLOCK_D, ..) of sequence b, unless `_decode` wrote it."""
    ROWS: tl.constexpr = SEQ_LEN_Q * GROUP
    ALL_ROWS: tl.constexpr = KV_HEADS * ROWS
    sequence = tl.program_id(0)
    tiles = tiles_of_sequences(seq_lens, batch, BATCH_BLOCK, BLOCK_N)
    size = part_size(tl.sum(tiles, 0), NUM_PARTS, MIN_TILES)
    start = tl.sum(tl.where(tl.arange(0, BATCH_BLOCK) < sequence, tiles, 0), 0)
    end = start + tl.cdiv(tl.load(seq_lens + sequence), BLOCK_N)
    first = start // size
    num_parts = tl.where(end > start, (end - 1) // size - first + 1, 0)
    if DEPENDENT_LAUNCH:
        gdc_wait()  # every program waits, or this kernel could end before `_decode` does
    if num_parts == 1:
        return
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_row = row < ALL_ROWS
    maximum = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    acc = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for block in range(0, num_parts, BLOCK_P):
        index = block + tl.arange(0, BLOCK_P)
        slot = (first + index) * 2 + (index == 0).to(tl.int32)
        at = slot.to(tl.int64)[:, None] * ALL_ROWS + row[None, :]  # [BLOCK_P, BLOCK_R]
        mask = (index < num_parts)[:, None] & is_row[None, :]
        part_lse = tl.load(partial_lse + at, mask=mask, other=float("-inf"))
        part_out = tl.load(
            partial_out + at[:, :, None] * HEAD_DIM + column[None, None, :],
            mask=in_head(mask[:, :, None], column[None, None, :], HEAD_DIM, BLOCK_D),
            other=0.0,
        )
        new_maximum = tl.maximum(maximum, tl.max(part_lse, 0))
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        weight = tl.exp2(part_lse - shift[None, :])
        decay = tl.exp2(maximum - shift)
        total = total * decay + tl.sum(weight, 0)
        acc = acc * decay[:, None] + tl.sum(weight[:, :, None] * part_out, 0)
        maximum = new_maximum
    seen = total > 0
    acc *= tl.where(seen, 1.0 / tl.where(seen, total, 1.0), 0.0)[:, None]
    at = out_row(sequence, row // ROWS, row % ROWS, SEQ_LEN_Q, KV_HEADS, GROUP)
    tl.store(
        out + at[:, None] * HEAD_DIM + column[None, :],
        acc.to(out.dtype.element_ty),
        mask=in_head(is_row[:, None], column[None, :], HEAD_DIM, BLOCK_D),
    )
    if tl.program_id(2) == 0:
        row_lse = tl.where(seen, maximum + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(lse + at, row_lse * LN_2, mask=is_row)


COMBINE_VALUES = 8192
"""Partial values that one step of the combination holds: 64 registers for each of its 128 threads."""
COMBINE_PARTS = 512
"""The most partial results that one step of the combination reads: few steps wait for each other."""
WAVES_UNSPLIT = 24
"""Sequences are not split where whole ones fill the device this often: the last wave then idles for 2% on average."""
FULL_WAVES = 0.95
"""Nor are sequences of equal lengths, more than a wave of them, that fill this share of their waves. H200, tuning, 64
sequences of 8192 tokens, 8 KV heads, 97% of two waves: 474 us, split into equal parts 494."""
WIDE_TILE_TOKENS = 32
"""The most tokens in a tile of heads above 128: with 64 of them and of rows, shared memory or registers overflow."""
ENOUGH_OF_DEVICE = 0.9
"""Parts that fill less of the device at once are made smaller, until they fill their waves so far."""
MOST_WAVES = 8
LEAST_TOKENS_OF_WAVE = 512
"""Of a part that is made smaller for it: what a further wave costs is to be little beside its work."""


@dataclass(frozen=True)
class Tile:
    """The shape of one program of the first kernel, and all else that is chosen rather than derived."""

    block_h: int
    """Rows (query, head of the group); at least 16, which tensor cores want."""
    block_n: int
    """Tokens in a tile."""
    num_warps: int
    num_stages: int
    programs_per_sm: int = 1
    min_tokens: int = 128
    """Least tokens in a part: fewer cost more to combine than a further program saves."""
    late_sum: bool = False
    """As `SplitKVPlan.late_sum`."""
    peel: bool = False
    """As `SplitKVPlan.peel`."""
    combine_values: int = COMBINE_VALUES
    """As the constant of that name."""


@dataclass(frozen=True)
class SplitKVPlan:
    """What both kernels are launched with."""

    problem: PagedDecode
    block_h: int
    block_n: int
    num_warps: int
    num_stages: int
    split: bool
    """False: one program for a whole sequence, and no second kernel."""
    num_parts: int
    """Equal parts that the tiles of all sequences are cut into, for each KV head and block of rows."""
    min_tiles: int
    """Least tiles in a part."""
    late_sum: bool
    """Whether the sums of softmax are taken across a tile's tokens at the end only."""
    peel: bool
    """Whether tiles that every row sees whole have a loop without a mask, as those of a tree always do."""
    combine_rows: int
    combine_columns: int
    combine_parts: int
    """Partial results that one step of the combination reads at once."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> SplitKVPlan:
    """Every launch decision, from shapes alone: `plan_inputs` may be meta tensors."""
    assert isinstance(problem, PagedDecode)
    return plan_from(problem, choice_for(problem), device)


def plan_from(problem: PagedDecode, tile: Tile, device: Device) -> SplitKVPlan:
    """What follows from a choice."""
    slots, columns = device.num_sms * tile.programs_per_sm, _columns(problem, tile)
    block_n = tokens_of_tile(problem, tile)
    min_tiles = max(1, tile.min_tokens // block_n)
    most_tiles = problem.batch * math.ceil(problem.max_seq_len / block_n)
    num_parts = min(_parts(slots, columns, most_tiles * block_n), math.ceil(most_tiles / min_tiles))
    whole = problem.max_seq_len <= tile.min_tokens or _fills_waves(problem, problem.batch * columns / slots)
    combine_parts = min(COMBINE_PARTS, max(4, _next_power_of_2(num_parts // problem.batch)))
    combine_columns = min(padded_head_dim(problem), max(16, tile.combine_values // combine_parts))
    return SplitKVPlan(
        problem=problem,
        block_h=tile.block_h,
        block_n=block_n,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        split=not whole,
        num_parts=problem.batch if whole else num_parts,
        min_tiles=min_tiles,
        late_sum=tile.late_sum,
        peel=tile.peel,
        combine_rows=max(1, tile.combine_values // (combine_parts * combine_columns)),
        combine_columns=combine_columns,
        combine_parts=combine_parts,
    )


def _fills_waves(problem: PagedDecode, waves: float) -> bool:
    """Whether programs of whole sequences, this many waves of them, leave little of the device idle at the end."""
    if problem.lengths == "equal":
        return waves > 1 and waves >= FULL_WAVES * math.ceil(waves)
    return waves >= WAVES_UNSPLIT


def tokens_of_tile(problem: PagedDecode, tile: Tile) -> int:
    """Tokens in a tile: a table of choices may give heads of 256 what was found for 128."""
    return tile.block_n if problem.head_dim <= 128 else min(tile.block_n, WIDE_TILE_TOKENS)


def _parts(slots: int, columns: int, tokens: int) -> int:
    """Equal parts for each of `columns` programs: as many as run at once, or as fill a few waves where those leave
    much of the device idle (96 columns, 264 slots: twice 96, or 11 times 96 in four waves)."""
    at_once = max(1, slots // columns)
    most = max(at_once, tokens // LEAST_TOKENS_OF_WAVE)
    by_waves = [min(most, max(1, waves * slots // columns)) for waves in range(1, MOST_WAVES + 1)]
    fills = [parts * columns / (math.ceil(parts * columns / slots) * slots) for parts in by_waves]
    enough = [parts for parts, fill in zip(by_waves, fills, strict=True) if fill >= ENOUGH_OF_DEVICE]
    return enough[0] if enough else by_waves[fills.index(max(fills))]


def _columns(problem: PagedDecode, tile: Tile) -> int:
    """Programs that read the same tokens."""
    return problem.num_kv_heads * math.ceil(problem.seq_len_q * problem.group / tile.block_h)


def facts(problem: PagedDecode) -> dict[str, int]:
    """What a table of choices tells problems apart by."""
    return {
        "rows": problem.seq_len_q * problem.group,
        "kv_bytes": 1 if problem.is_fp8 else 2,
        "head_dim": problem.head_dim,
        "head_tokens": problem.batch * problem.max_seq_len * problem.num_kv_heads,
    }


CHOSEN = (
    "block_h",
    "block_n",
    "num_warps",
    "num_stages",
    "programs_per_sm",
    "min_tokens",
    "late_sum",
    "peel",
    "combine_values",
)


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


def choice_for(problem: PagedDecode) -> Tile:
    """The choice of the table's first row that matches."""
    found = facts(problem)
    return next(chosen for when, chosen in _table() if _matches(when, found))


def padded_head_dim(problem: PagedDecode) -> int:
    """Of a head in a tile: a power of two."""
    return max(16, _next_power_of_2(problem.head_dim))


def _next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


LOG2_E = math.log2(math.e)
MOST_HEAD_DIM = 256
"""A program holds whole heads: wider ones want tiles of fewer rows and tokens than tensor cores take."""
NO_MASK, CAUSAL_MASK, TREE_MASK = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _load_pages(block_table_row, first_token, seq_len, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Pages of a tile: one number where a tile lies within a page, else one a token."""
    token = first_token if PAGE_SIZE % BLOCK_N == 0 else first_token + tl.arange(0, BLOCK_N)
    return tl.load(block_table_row + token // PAGE_SIZE, mask=token < seq_len, other=0)


@triton.jit
def _load_tokens(
    cache, at, token, seq_len, column, MASK: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr
):
    """A tile of k or v. Stale tokens may hold anything, NaN too: they and what lies past a head's columns are 0."""
    if MASK == NO_MASK and PADDED_DIM == HEAD_DIM:
        tile = tl.load(cache + at)
    elif MASK == NO_MASK:
        tile = tl.load(cache + at, mask=(column < HEAD_DIM)[None, :], other=0.0)
    else:
        used = in_head((token < seq_len)[:, None], column[None, :], HEAD_DIM, PADDED_DIM)
        tile = tl.load(cache + at, mask=used, other=0.0)
    return tile


@triton.jit
def _seen(token, seq_len, query, tree_mask, MASK: tl.constexpr, SEQ_LEN_Q: tl.constexpr):
    """[BLOCK_H, BLOCK_N]: whether each row's query sees each token."""
    own = token - (seq_len - SEQ_LEN_Q)  # among the sequence's own queries, negative before them
    if MASK == TREE_MASK:
        is_own = (own >= 0) & (own < SEQ_LEN_Q)
        at = tree_mask + query[:, None] * SEQ_LEN_Q + own[None, :]
        related = tl.load(at, mask=is_own[None, :] & (query < SEQ_LEN_Q)[:, None], other=0)
        seen = (own < 0)[None, :] | (related != 0)
    else:
        seen = own[None, :] <= query[:, None]
    return seen


@triton.jit
def _attend(
    q,
    k_cache,
    v_cache,
    block_table_row,
    tree_mask,
    query,
    first_tile,
    last_tile,
    seq_len,
    scale_log2,
    maximum,
    total,
    acc,
    MASK: tl.constexpr,
    SEQ_LEN_Q: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TOKEN: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    LATE_SUM: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One online softmax over tiles [first_tile, last_tile): (maximum, total, acc) with them.

    Without a mask all of their tokens must be of the sequence, and seen by every row.
    """
    column = tl.arange(0, PADDED_DIM)
    # The pages of the next tile are loaded one tile ahead: an address that waits for no load lets the tile's own
    # loads be pipelined.
    pages = _load_pages(block_table_row, first_tile * BLOCK_N, seq_len, PAGE_SIZE, BLOCK_N)
    for tile in tl.range(first_tile, last_tile, num_stages=STAGES):
        token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        slot = pages.to(tl.int64) * PAGE_SIZE + token % PAGE_SIZE  # [BLOCK_N]; caches exceed 2^31 elements
        at = (slot * TOKEN)[:, None] + column[None, :]
        k = _load_tokens(k_cache, at, token, seq_len, column, MASK, HEAD_DIM, PADDED_DIM)
        v = _load_tokens(v_cache, at, token, seq_len, column, MASK, HEAD_DIM, PADDED_DIM)
        pages = _load_pages(block_table_row, (tile + 1) * BLOCK_N, seq_len, PAGE_SIZE, BLOCK_N)

        scores = tl.dot(q, k.to(q.dtype).T) * scale_log2
        if MASK != NO_MASK:
            scores = tl.where(_seen(token, seq_len, query, tree_mask, MASK, SEQ_LEN_Q), scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        shift = new_maximum
        if MASK != NO_MASK:
            shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # a row that has seen nothing yet
        probabilities = tl.exp2(scores - shift[:, None])
        decay = tl.exp2(maximum - shift)
        if LATE_SUM:
            total = total * decay[:, None] + probabilities
        else:
            total = total * decay + tl.sum(probabilities, 1)
        acc = tl.dot(probabilities.to(q.dtype), v.to(q.dtype), acc=acc * decay[:, None])
        maximum = new_maximum
    return maximum, total, acc


@triton.jit
def _store_rows(out, lse, at, is_row, out_values, lse_values, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr):
    """Rows `at` of [*, HEAD_DIM] and [*]."""
    tl.store(lse + at, lse_values, mask=is_row)
    column = tl.arange(0, PADDED_DIM)
    pointers = out + at[:, None] * HEAD_DIM + column[None, :]
    tl.store(
        pointers,
        out_values.to(out.dtype.element_ty),
        mask=in_head(is_row[:, None], column[None, :], HEAD_DIM, PADDED_DIM),
    )


@triton.jit
def _attend_sequence(
    q,
    k_head,
    v_head,
    table_row,
    tree_mask,
    query,
    first,
    last,
    seq_len,
    scale_log2,
    v_scale,
    TREE: tl.constexpr,
    SEQ_LEN_Q: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TOKEN: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    LATE_SUM: tl.constexpr,
    PEEL: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Attention over tiles [first, last) of a sequence: (out, lse in base 2); a row that sees nothing: 0 and -inf."""
    maximum = tl.full([BLOCK_H], float("-inf"), tl.float32)  # of the scores in base 2
    total = tl.zeros([BLOCK_H, BLOCK_N] if LATE_SUM else [BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, PADDED_DIM], tl.float32)
    if TREE or PEEL:
        seen_by_all = tl.minimum(tl.maximum(seq_len - SEQ_LEN_Q, 0) // BLOCK_N, last)
        maximum, total, acc = _attend(
            q,
            k_head,
            v_head,
            table_row,
            tree_mask,
            query,
            first,
            seen_by_all,
            seq_len,
            scale_log2,
            maximum,
            total,
            acc,
            NO_MASK,
            SEQ_LEN_Q,
            PAGE_SIZE,
            TOKEN,
            HEAD_DIM,
            PADDED_DIM,
            BLOCK_N,
            LATE_SUM,
            STAGES,
        )
        first = tl.maximum(first, seen_by_all)
    maximum, total, acc = _attend(
        q,
        k_head,
        v_head,
        table_row,
        tree_mask,
        query,
        first,
        last,
        seq_len,
        scale_log2,
        maximum,
        total,
        acc,
        TREE_MASK if TREE else CAUSAL_MASK,
        SEQ_LEN_Q,
        PAGE_SIZE,
        TOKEN,
        HEAD_DIM,
        PADDED_DIM,
        BLOCK_N,
        LATE_SUM,
        STAGES,
    )
    if LATE_SUM:
        total = tl.sum(total, 1)
    seen = total > 0
    acc *= tl.where(seen, v_scale / tl.where(seen, total, 1.0), 0.0)[:, None]
    return acc, tl.where(seen, maximum + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))


@triton.jit
def _find_part(
    seq_lens,
    batch,
    part,
    SPLIT: tl.constexpr,
    BATCH_BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    MIN_TILES: tl.constexpr,
):
    """Its first tile and its end among all tiles, the sequence that it begins in, and that sequence's first tile."""
    if SPLIT:
        tiles = tiles_of_sequences(seq_lens, batch, BATCH_BLOCK, BLOCK_N)
        ends = tl.cumsum(tiles, 0)
        total_tiles = tl.sum(tiles, 0)
        size = part_size(total_tiles, NUM_PARTS, MIN_TILES)
        part_start, part_end = part * size, tl.minimum((part + 1) * size, total_tiles)
        sequence = tl.sum((ends <= part_start).to(tl.int32), 0)
        start = tl.sum(tl.where(ends <= part_start, tiles, 0), 0)
    else:
        part_start, start, sequence = 0, 0, part
        part_end = tl.maximum(tl.cdiv(tl.load(seq_lens + part), BLOCK_N), 1)  # an empty sequence is written, too
    return part_start, part_end, sequence, start


@triton.jit
def _decode(
    q,
    k_cache,
    v_cache,
    block_table,
    seq_lens,
    tree_mask,
    out,
    lse,
    partial_out,
    partial_lse,
    batch,
    max_pages,
    scale_log2,
    v_scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    SEQ_LEN_Q: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TREE: tl.constexpr,
    BATCH_BLOCK: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    MIN_TILES: tl.constexpr,
    LATE_SUM: tl.constexpr,
    PEEL: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
    """Program (i, p): a KV head and BLOCK_H of its rows, of every sequence that part p of the tiles touches.

    Blocks of rows are neighbours in the grid, then KV heads: they read the same tokens, or the same pages, at the same
    time. Without SPLIT part p is sequence p.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    ROWS: tl.constexpr = SEQ_LEN_Q * GROUP
    ROW_BLOCKS: tl.constexpr = (ROWS + BLOCK_H - 1) // BLOCK_H
    dtype: tl.constexpr = tl.float16 if k_cache.dtype.element_ty.primitive_bitwidth == 8 else q.dtype.element_ty
    kv_head = tl.program_id(0) // ROW_BLOCKS
    part = tl.program_id(1)
    row = tl.program_id(0) % ROW_BLOCKS * BLOCK_H + tl.arange(0, BLOCK_H)
    is_row = row < ROWS
    column = tl.arange(0, PADDED_DIM)
    part_start, part_end, sequence, start = _find_part(
        seq_lens, batch, part, SPLIT, BATCH_BLOCK, BLOCK_N, NUM_PARTS, MIN_TILES
    )
    while start < part_end:
        seq_len = tl.load(seq_lens + sequence)
        end = start + tl.cdiv(seq_len, BLOCK_N)
        if (end > start) | (not SPLIT):
            at = out_row(sequence, kv_head, row, SEQ_LEN_Q, KV_HEADS, GROUP)
            q_at = at[:, None] * HEAD_DIM + column[None, :]
            rows = tl.load(
                q + q_at, mask=in_head(is_row[:, None], column[None, :], HEAD_DIM, PADDED_DIM), other=0.0
            ).to(dtype)
            acc, row_lse = _attend_sequence(
                rows,
                k_cache + kv_head * HEAD_DIM,
                v_cache + kv_head * HEAD_DIM,
                block_table + sequence.to(tl.int64) * max_pages,
                tree_mask,
                row // GROUP,
                tl.maximum(part_start, start) - start,
                tl.minimum(part_end, end) - start,
                seq_len,
                scale_log2,
                v_scale,
                TREE,
                SEQ_LEN_Q,
                PAGE_SIZE,
                KV_HEADS * HEAD_DIM,
                HEAD_DIM,
                PADDED_DIM,
                BLOCK_H,
                BLOCK_N,
                LATE_SUM,
                PEEL,
                STAGES,
            )
            if (start >= part_start) & (end <= part_end):
                _store_rows(out, lse, at, is_row, acc, row_lse * LN_2, HEAD_DIM, PADDED_DIM)
            else:
                # Slot 0 of a part: the sequence that it continues. Slot 1: the one that it begins and leaves open.
                slot = part * 2 + (start >= part_start).to(tl.int32)
                partial_at = (slot.to(tl.int64) * KV_HEADS + kv_head) * ROWS + row
                _store_rows(partial_out, partial_lse, partial_at, is_row, acc, row_lse, HEAD_DIM, PADDED_DIM)
        start = end if SPLIT else part_end
        sequence += 1


def run(inputs: Inputs, state: SplitKVPlan) -> Outputs:
    """One launch, or two; see `plan` for the choice of every block size."""
    q, seq_lens, problem = inputs["q"], inputs["seq_lens"], state.problem
    batch, seq_len_q, _, head_dim = q.shape
    rows, num_kv_heads = seq_len_q * problem.group, problem.num_kv_heads
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[:-1], dtype=torch.float32)
    num_slots = 2 * state.num_parts if state.split else 0
    partial_out = q.new_empty((num_slots, num_kv_heads, rows, head_dim), dtype=torch.float32)
    partial_lse = q.new_empty((num_slots, num_kv_heads, rows), dtype=torch.float32)
    dependent_launch = state.split and not q.is_cpu
    is_tree = "tree_mask" in inputs
    _decode[(num_kv_heads * triton.cdiv(rows, state.block_h), state.num_parts)](
        q,
        inputs["k_cache"],
        inputs["v_cache"],
        inputs["block_table"],
        seq_lens,
        inputs["tree_mask"].view(torch.uint8) if is_tree else seq_lens,
        out,
        lse,
        partial_out,
        partial_lse,
        batch,
        inputs["block_table"].shape[1],
        problem.softmax_scale * problem.k_scale * LOG2_E,
        problem.v_scale,
        PADDED_DIM=padded_head_dim(problem),
        PAGE_SIZE=problem.page_size,
        TREE=is_tree,
        BLOCK_H=state.block_h,
        SPLIT=state.split,
        LATE_SUM=state.late_sum,
        PEEL=state.peel,
        STAGES=state.num_stages,
        num_warps=state.num_warps,
        KV_HEADS=num_kv_heads,
        GROUP=problem.group,
        SEQ_LEN_Q=seq_len_q,
        HEAD_DIM=head_dim,
        BATCH_BLOCK=triton.next_power_of_2(batch),
        BLOCK_N=state.block_n,
        NUM_PARTS=state.num_parts,
        MIN_TILES=state.min_tiles,
        DEPENDENT_LAUNCH=dependent_launch,
    )
    if state.split:
        all_rows = num_kv_heads * rows
        combine[(batch, triton.cdiv(all_rows, state.combine_rows), triton.cdiv(head_dim, state.combine_columns))](
            seq_lens,
            out,
            lse,
            partial_out,
            partial_lse,
            batch,
            BLOCK_R=state.combine_rows,
            BLOCK_D=state.combine_columns,
            BLOCK_P=state.combine_parts,
            num_warps=4,
            KV_HEADS=num_kv_heads,
            GROUP=problem.group,
            SEQ_LEN_Q=seq_len_q,
            HEAD_DIM=head_dim,
            BATCH_BLOCK=triton.next_power_of_2(batch),
            BLOCK_N=state.block_n,
            NUM_PARTS=state.num_parts,
            MIN_TILES=state.min_tiles,
            DEPENDENT_LAUNCH=dependent_launch,
            **({"launch_pdl": True} if dependent_launch else {}),
        )
    return {"out": out, "lse": lse} if problem.with_lse else {"out": out}


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem is past."""
    assert isinstance(problem, PagedDecode)
    if problem.head_dim > MOST_HEAD_DIM:
        return f"it takes head dimensions of up to {MOST_HEAD_DIM}; these have {problem.head_dim}"
    return None


def supports_here(problem: Problem, device: Device) -> str | None:
    """Its choices are for one architecture."""
    if device.kind != "cpu" and device.arch != "sm_90":
        return f"it was generated for sm_90, and this device is {device.arch}"
    return supports(problem, device)


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("decode", "tree"),
    run=run,
    plan=plan,
    supports=supports_here,
    requires=("triton",),
    uses_triton=True,
)
