"""The second kernel of decode_split_kv: weighs the partial results of a sequence by their log-sum-exp."""

from __future__ import annotations

import math

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from ._decode_split_kv_shares import part_size, tiles_of_sequences
from ._in_head import in_head

LN_2 = tl.constexpr(math.log(2))


@triton.jit
def out_row(sequence, kv_head, row, SEQ_LEN_Q: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr):
    """Where row (query, head of the group) of a KV head stands among [batch, SEQ_LEN_Q, KV_HEADS * GROUP]."""
    query, head = row // GROUP, kv_head * GROUP + row % GROUP
    return (sequence.to(tl.int64) * SEQ_LEN_Q + query) * (KV_HEADS * GROUP) + head


@triton.jit
def combine(
    seq_lens, out, lse, partial_out, partial_lse, batch,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, SEQ_LEN_Q: tl.constexpr, HEAD_DIM: tl.constexpr,
    BATCH_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr, NUM_PARTS: tl.constexpr, MIN_TILES: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
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
            mask=in_head(mask[:, :, None], column[None, None, :], HEAD_DIM, BLOCK_D), other=0.0,
        )  # fmt: skip
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
        out + at[:, None] * HEAD_DIM + column[None, :], acc.to(out.dtype.element_ty),
        mask=in_head(is_row[:, None], column[None, :], HEAD_DIM, BLOCK_D),
    )  # fmt: skip
    if tl.program_id(2) == 0:
        row_lse = tl.where(seen, maximum + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(lse + at, row_lse * LN_2, mask=is_row)
