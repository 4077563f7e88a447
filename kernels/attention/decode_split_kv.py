"""Paged decode and tree attention in Triton: split-KV over shares of all tokens, then combine.

The maths is in `_decode_problem` and `_tree_problem`. The query heads of one KV head and the queries of a sequence are
rows, `seq_len_q * group` of them, padded to BLOCK_H: they share every token that is loaded. A program owns BLOCK_H rows
of one KV head and walks over tiles of BLOCK_N tokens, which may span several pages; their numbers are loaded one tile
ahead. An 8-bit cache is converted to float16, exactly, and so is q: float16 holds more digits than bfloat16, and
values of up to 65504. Tiles have powers of two as columns: those past a head's own are not read, and 0.

Lengths vary, so the tiles of all sequences are laid end to end and shared out (stream-K): `_decode_split_kv_shares`.
A sequence that lies within one part is written at once. Of the others each part writes a partial result, already
divided by its own softmax sum, and `combine` weighs the partial results by their log-sum-exp:

    out = sum_i 2^(lse_i - m) out_i / sum_i 2^(lse_i - m)        m = max_i lse_i, in base 2

Where whole sequences suffice to fill the device each has one program, and `combine` is not launched. From sm_90 it is
launched while `_decode` still runs. The mask of a tree is read for the tiles that hold drafts; those before need none.

Flash-decoding: https://crfm.stanford.edu/2023/10/12/flashdecoding.html
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._decode_split_kv_combine import LN_2, combine, out_row
from ._decode_split_kv_plan import SplitKVPlan, padded_head_dim, plan
from ._decode_split_kv_shares import part_size, tiles_of_sequences
from ._in_head import in_head
from .problem import PagedDecode

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
    cache, at, token, seq_len, column, MASK: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
):  # fmt: skip
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
    q, k_cache, v_cache, block_table_row, tree_mask, query, first_tile, last_tile, seq_len, scale_log2,
    maximum, total, acc,
    MASK: tl.constexpr, SEQ_LEN_Q: tl.constexpr, PAGE_SIZE: tl.constexpr, TOKEN: tl.constexpr, HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr, BLOCK_N: tl.constexpr, LATE_SUM: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
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
def _store_rows(
    out, lse, at, is_row, out_values, lse_values, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
):  # fmt: skip
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
    q, k_head, v_head, table_row, tree_mask, query, first, last, seq_len, scale_log2, v_scale,
    TREE: tl.constexpr, SEQ_LEN_Q: tl.constexpr, PAGE_SIZE: tl.constexpr, TOKEN: tl.constexpr, HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, LATE_SUM: tl.constexpr,
    PEEL: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Attention over tiles [first, last) of a sequence: (out, lse in base 2); a row that sees nothing: 0 and -inf."""
    maximum = tl.full([BLOCK_H], float("-inf"), tl.float32)  # of the scores in base 2
    total = tl.zeros([BLOCK_H, BLOCK_N] if LATE_SUM else [BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, PADDED_DIM], tl.float32)
    if TREE or PEEL:
        seen_by_all = tl.minimum(tl.maximum(seq_len - SEQ_LEN_Q, 0) // BLOCK_N, last)
        maximum, total, acc = _attend(
            q, k_head, v_head, table_row, tree_mask, query, first, seen_by_all, seq_len, scale_log2,
            maximum, total, acc,
            NO_MASK, SEQ_LEN_Q, PAGE_SIZE, TOKEN, HEAD_DIM, PADDED_DIM, BLOCK_N, LATE_SUM, STAGES,
        )  # fmt: skip
        first = tl.maximum(first, seen_by_all)
    maximum, total, acc = _attend(
        q, k_head, v_head, table_row, tree_mask, query, first, last, seq_len, scale_log2,
        maximum, total, acc,
        TREE_MASK if TREE else CAUSAL_MASK, SEQ_LEN_Q, PAGE_SIZE, TOKEN, HEAD_DIM, PADDED_DIM, BLOCK_N, LATE_SUM,
        STAGES,
    )  # fmt: skip
    if LATE_SUM:
        total = tl.sum(total, 1)
    seen = total > 0
    acc *= tl.where(seen, v_scale / tl.where(seen, total, 1.0), 0.0)[:, None]
    return acc, tl.where(seen, maximum + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))


@triton.jit
def _find_part(
    seq_lens, batch, part, SPLIT: tl.constexpr, BATCH_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
    NUM_PARTS: tl.constexpr, MIN_TILES: tl.constexpr,
):  # fmt: skip
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
    q, k_cache, v_cache, block_table, seq_lens, tree_mask, out, lse, partial_out, partial_lse,
    batch, max_pages, scale_log2, v_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, SEQ_LEN_Q: tl.constexpr, HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, TREE: tl.constexpr, BATCH_BLOCK: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, NUM_PARTS: tl.constexpr, MIN_TILES: tl.constexpr,
    LATE_SUM: tl.constexpr, PEEL: tl.constexpr, STAGES: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
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
                rows, k_cache + kv_head * HEAD_DIM, v_cache + kv_head * HEAD_DIM,
                block_table + sequence.to(tl.int64) * max_pages, tree_mask, row // GROUP,
                tl.maximum(part_start, start) - start, tl.minimum(part_end, end) - start, seq_len, scale_log2, v_scale,
                TREE, SEQ_LEN_Q, PAGE_SIZE, KV_HEADS * HEAD_DIM, HEAD_DIM, PADDED_DIM, BLOCK_H, BLOCK_N, LATE_SUM, PEEL,
                STAGES,
            )  # fmt: skip
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
    """One launch, or two; see `_decode_split_kv_plan.plan` for the choice of every block size."""
    q, seq_lens, problem = inputs["q"], inputs["seq_lens"], state.problem
    batch, seq_len_q, _, head_dim = q.shape
    rows, num_kv_heads = seq_len_q * problem.group, problem.num_kv_heads
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[:-1], dtype=torch.float32)
    num_slots = 2 * state.num_parts if state.split else 0
    partial_out = q.new_empty((num_slots, num_kv_heads, rows, head_dim), dtype=torch.float32)
    partial_lse = q.new_empty((num_slots, num_kv_heads, rows), dtype=torch.float32)
    dependent_launch = state.dependent_launch and state.split and not q.is_cpu
    shared = {
        "KV_HEADS": num_kv_heads,
        "GROUP": problem.group,
        "SEQ_LEN_Q": seq_len_q,
        "HEAD_DIM": head_dim,
        "BATCH_BLOCK": triton.next_power_of_2(batch),
        "BLOCK_N": state.block_n,
        "NUM_PARTS": state.num_parts,
        "MIN_TILES": state.min_tiles,
        "DEPENDENT_LAUNCH": dependent_launch,
    }
    is_tree = "tree_mask" in inputs
    _decode[(num_kv_heads * triton.cdiv(rows, state.block_h), state.num_parts)](
        q, inputs["k_cache"], inputs["v_cache"], inputs["block_table"], seq_lens,
        inputs["tree_mask"].view(torch.uint8) if is_tree else seq_lens,
        out, lse, partial_out, partial_lse,
        batch, inputs["block_table"].shape[1], problem.softmax_scale * problem.k_scale * LOG2_E, problem.v_scale,
        PADDED_DIM=padded_head_dim(problem), PAGE_SIZE=problem.page_size, TREE=is_tree, BLOCK_H=state.block_h,
        SPLIT=state.split, LATE_SUM=state.late_sum, PEEL=state.peel, STAGES=state.num_stages, num_warps=state.num_warps,
        **shared, **state.backend_options,
    )  # fmt: skip
    if state.split:
        all_rows = num_kv_heads * rows
        combine[(batch, triton.cdiv(all_rows, state.combine_rows), triton.cdiv(head_dim, state.combine_columns))](
            seq_lens, out, lse, partial_out, partial_lse, batch,
            BLOCK_R=state.combine_rows, BLOCK_D=state.combine_columns, BLOCK_P=state.combine_parts,
            num_warps=4, **shared, **({"launch_pdl": True} if dependent_launch else {}),
        )  # fmt: skip
    return {"out": out, "lse": lse} if problem.with_lse else {"out": out}


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem is past."""
    assert isinstance(problem, PagedDecode)
    if problem.head_dim > MOST_HEAD_DIM:
        return f"it takes head dimensions of up to {MOST_HEAD_DIM}; these have {problem.head_dim}"
    return None


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("decode", "tree"),
    run=run,
    plan=plan,
    supports=supports,
    requires=("triton",),
    uses_triton=True,
)
