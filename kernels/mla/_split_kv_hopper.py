"""triton_split_kv's first kernel in Gluon, for Hopper: two warpgroups that compute in turn, and one that fetches.

Triton gives the scores of a chained dot to all warps along the rows, so two warpgroups compute the same 64 rows twice,
and the tensor cores wait for every softmax. Here 64 rows meet tiles of 64 tokens, of a 16-bit cache.

Tile i of a sequence lies in buffer i % 2. Consumer w owns buffer w: it alone computes the scores of its tiles, 64 x 64,
and their softmax. Each consumer holds one half of the output's columns, 64 x 256, and adds P.V of every tile to it, in
order. So the softmax of one runs beside products of the other; FlashMLA calls this a seesaw (docs/20250422, in
https://github.com/deepseek-ai/FlashMLA). Consumer w, for each of its tiles i:

    Q.K of tile i: rope and half w
    take: wait for P of tile i - 1, decay; acc = acc * decay + P.V; give back half w of the other buffer
    Q.K of tile i: the other half; give back rope
    softmax: P to registers and to shared memory, for the other consumer
    acc = acc * decay + P.V; give back half w of its buffer

Barriers; `use` counts the uses of a buffer, `items` the sequences, over all that a program does:

    full[b, part]   each of the producer's 128 threads, once its copies of a use have landed; by TMA one thread for all,
                    and the bytes; the owner waits before Q.K
    rope_empty[b]   the owner, once a use; the producer waits
    half_empty[b, h]  consumer h, whichever buffer it is, after P.V; the producer waits
    p_full[b]       the owner, once a use, when P and `rows` are written; the other consumer waits in `take`
    q_full, q_empty each producer thread, and both consumers, once a sequence

P of a buffer and its rows may be overwritten without a barrier: the owner does so after Q.K of the buffer's next tile,
of which one half was loaded after the other consumer had given it back, behind the P.V that read them.

Shared memory: Q without rope 64 KiB, two tiles 144 KiB, P 16 KiB; Q's rope columns lie in registers.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents

from ._split_kv_hopper_loads import (
    DIM,
    HALF,
    PRODUCER_THREADS,
    ROPE_DIM,
    ROWS_OF_BLOCK,
    SHARED,
    TOKENS,
    find_part,
    produce,
    tiles_here,
)

# Renamed after Triton 3.6.
barrier = getattr(gl, "barrier", None) or gl.thread_barrier

ACC = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 256, 16]))
SCORES = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16]))
Q_ROPE = gl.constexpr(gl.DotOperandLayout(0, SCORES.value, 2))
LEFT = gl.constexpr(gl.DotOperandLayout(0, ACC.value, 2))
SHARED_ROWS = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [0]))
CONSUMER_REGISTERS = gl.constexpr(224)
LN_2 = gl.constexpr(0.6931471805599453)


@gluon.jit
def _take(acc, other_uses, halves, p, rows, p_full, half_empty, WHO: gl.constexpr):
    """Add P.V of the other consumer's tile; the maximum and the sum with it."""
    mbarrier.wait(p_full.index(1 - WHO), other_uses & 1)
    layout: gl.constexpr = gl.SliceLayout(1, SCORES)
    maximum = rows.index((1 - WHO) * 3).load(layout)
    total = rows.index((1 - WHO) * 3 + 1).load(layout)
    decay = rows.index((1 - WHO) * 3 + 2).load(layout)
    acc = acc * gl.convert_layout(decay, gl.SliceLayout(1, ACC))[:, None]
    acc = warpgroup_mma(p.index(1 - WHO), halves.index((1 - WHO) * 2 + WHO), acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=[acc])
    barrier()  # all four warps have read V, P and rows
    mbarrier.arrive(half_empty.index((1 - WHO) * 2 + WHO), count=1)
    return acc, maximum, total


@gluon.jit
def _zero(uses):
    """0, which LLVM does not know: else it takes 64 descriptors of a tile's operands from the loop, which spill."""
    return gl.inline_asm_elementwise("and.b32 $0, $1, 0;", "=r,r", [uses], dtype=gl.int32, is_pure=True, pack=1)


@gluon.jit
def _start_rope(q_rope, ropes, full, uses, WHO: gl.constexpr):
    mbarrier.wait(full.index(4 + WHO), uses & 1)
    fence_async_shared()
    zeros = gl.full([ROWS_OF_BLOCK, TOKENS], 0.0, gl.float32, SCORES)
    return warpgroup_mma(q_rope, ropes.index(WHO).permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _start_half(pending, q_halves, halves, full, uses, WHO: gl.constexpr, WHICH: gl.constexpr):
    mbarrier.wait(full.index(WHO * 2 + WHICH), uses & 1)
    fence_async_shared()
    key = halves.index(WHO * 2 + WHICH + _zero(uses)).permute((1, 0))
    return warpgroup_mma(q_halves.index(WHICH + _zero(uses)), key, pending, is_async=True)


@gluon.jit
def _add_own(
    acc, pending, q_rope, maximum, total, last_seen, scale_log2, halves, p, rows, p_full, rope_empty, half_empty,
    WHO: gl.constexpr,
):  # fmt: skip
    """Softmax of the scores, and P.V of the same tile; `last_seen` counts from the tile's first token."""
    scores, q_rope = warpgroup_mma_wait(0, deps=[pending, q_rope])
    barrier()
    mbarrier.arrive(rope_empty.index(WHO), count=1)
    column = gl.arange(0, TOKENS, layout=gl.SliceLayout(0, SCORES))
    scores = gl.where(column[None, :] <= last_seen[:, None], scores, float("-inf"))
    new_maximum = gl.maximum(maximum, gl.max(scores, 1) * scale_log2)
    shift = gl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # a row that has seen nothing yet
    probabilities = gl.exp2(scores * scale_log2 - shift[:, None])
    decay = gl.exp2(maximum - shift)
    rounded = probabilities.to(p.dtype)
    p.index(WHO).store(rounded)
    total = total * decay + gl.sum(probabilities, 1)
    rows.index(WHO * 3).store(new_maximum)
    rows.index(WHO * 3 + 1).store(total)
    rows.index(WHO * 3 + 2).store(decay)
    fence_async_shared()
    barrier()
    mbarrier.arrive(p_full.index(WHO), count=1)
    acc = acc * gl.convert_layout(decay, gl.SliceLayout(1, ACC))[:, None]
    left = gl.convert_layout(rounded, LEFT)
    acc = warpgroup_mma(left, halves.index(WHO * 2 + WHO), acc, is_async=True)
    acc, left = warpgroup_mma_wait(0, deps=[acc, left])
    barrier()
    mbarrier.arrive(half_empty.index(WHO * 2 + WHO), count=1)
    return acc, q_rope, new_maximum, total


@gluon.jit
def _step(
    acc, q_rope, maximum, total, uses, other_uses, last_seen, scale_log2, q_halves, halves, ropes, p, rows,
    full, p_full, rope_empty, half_empty, takes, WHO: gl.constexpr,
):  # fmt: skip
    """One tile of its own, after the other's tile before it where it takes that."""
    pending = _start_rope(q_rope, ropes, full, uses, WHO)
    pending = _start_half(pending, q_halves, halves, full, uses, WHO, WHO)
    if takes:
        acc, maximum, total = _take(acc, other_uses, halves, p, rows, p_full, half_empty, WHO)
    pending = _start_half(pending, q_halves, halves, full, uses, WHO, 1 - WHO)
    return _add_own(
        acc, pending, q_rope, maximum, total, last_seen, scale_log2, halves, p, rows, p_full, rope_empty, half_empty,
        WHO,
    )  # fmt: skip


@gluon.jit
def _store(
    acc, maximum, total, out, lse, index, lse_factor, ROWS: gl.constexpr, WHO: gl.constexpr,
):  # fmt: skip
    """Its half of rows of block `index` of [*, ROWS, 512]; consumer 0 also [*, ROWS]. Nothing seen: 0 and -inf."""
    seen = total > 0
    factor = gl.where(seen, 1.0 / gl.where(seen, total, 1.0), 0.0)
    acc = acc * gl.convert_layout(factor, gl.SliceLayout(1, ACC))[:, None]
    base = index.to(gl.int64) * ROWS
    if WHO == 0:
        row_lse = gl.where(seen, (maximum + gl.log2(gl.where(seen, total, 1.0))) * lse_factor, float("-inf"))
        row = gl.program_id(0) * ROWS_OF_BLOCK + gl.arange(0, ROWS_OF_BLOCK, layout=gl.SliceLayout(1, SCORES))
        gl.store(lse + base + row, row_lse, mask=row < ROWS)
    row = gl.program_id(0) * ROWS_OF_BLOCK + gl.arange(0, ROWS_OF_BLOCK, layout=gl.SliceLayout(1, ACC))
    column = WHO * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(0, ACC))
    pointers = (out + (base + row) * (2 * HALF))[:, None] + column[None, :]
    gl.store(pointers, acc.to(out.dtype.element_ty), mask=(row < ROWS)[:, None])


@gluon.jit
def _consume(
    q, seq_lens, out, lse, partial_out, partial_lse, scale_log2, part, part_start, part_end, sequence, start,
    q_halves, halves, ropes, p, rows, q_full, q_empty, full, rope_empty, half_empty, p_full,
    WHO: gl.constexpr, NUM_HEADS: gl.constexpr, SEQ_LEN_Q: gl.constexpr,
):  # fmt: skip
    """Consumer WHO, 0 or 1: a warpgroup."""
    ROWS: gl.constexpr = SEQ_LEN_Q * NUM_HEADS
    uses, other_uses, items = 0, 0, 0
    rope_row = gl.program_id(0) * ROWS_OF_BLOCK + gl.arange(0, ROWS_OF_BLOCK, layout=gl.SliceLayout(1, Q_ROPE))
    rope_column = 2 * HALF + gl.arange(0, ROPE_DIM, layout=gl.SliceLayout(0, Q_ROPE))
    row = gl.program_id(0) * ROWS_OF_BLOCK + gl.arange(0, ROWS_OF_BLOCK, layout=gl.SliceLayout(1, SCORES))
    while start < part_end:
        seq_len = gl.load(seq_lens + sequence)
        first, count = tiles_here(start, seq_len, part_start, part_end)
        end = start + gl.cdiv(seq_len, TOKENS)
        if count > 0:
            pointers = (q + (sequence.to(gl.int64) * ROWS + rope_row) * DIM)[:, None] + rope_column[None, :]
            q_rope = gl.load(pointers, mask=(rope_row < ROWS)[:, None], other=0.0)
            last_seen = seq_len - SEQ_LEN_Q + row // NUM_HEADS - (first + WHO) * TOKENS
            acc = gl.zeros([ROWS_OF_BLOCK, HALF], gl.float32, ACC)
            maximum = gl.full([ROWS_OF_BLOCK], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
            total = gl.zeros([ROWS_OF_BLOCK], gl.float32, gl.SliceLayout(1, SCORES))
            mbarrier.wait(q_full, items & 1)
            fence_async_shared()
            for step in range((count + 1 - WHO) // 2):
                # Consumer 0 has no tile to take before its first.
                takes = True if WHO == 1 else step > 0
                acc, q_rope, maximum, total = _step(
                    acc, q_rope, maximum, total, uses, other_uses, last_seen, scale_log2, q_halves, halves, ropes, p,
                    rows, full, p_full, rope_empty, half_empty, takes, WHO,
                )  # fmt: skip
                uses += 1
                if WHO == 1:
                    other_uses += 1
                else:
                    other_uses += gl.minimum(step, 1)
                last_seen -= 2 * TOKENS
            mbarrier.arrive(q_empty, count=1)
            if count % 2 == WHO:  # the last tile is the other's
                acc, maximum, total = _take(acc, other_uses, halves, p, rows, p_full, half_empty, WHO)
                other_uses += 1
            items += 1
            if (start >= part_start) & (end <= part_end):
                _store(acc, maximum, total, out, lse, sequence, LN_2, ROWS, WHO)
            else:
                # As in `_split_kv._decode`.
                slot = part * 2 + (start >= part_start).to(gl.int32)
                _store(acc, maximum, total, partial_out, partial_lse, slot, 1.0, ROWS, WHO)
        start = end
        sequence += 1


@gluon.jit
def _barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """COUNT barriers, whose phases take ARRIVALS to complete."""
    barriers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(barriers.index(i), count=ARRIVALS)
    return barriers


@gluon.jit
def decode_hopper(
    q, kv_cache, block_table, seq_lens, out, lse, partial_out, partial_lse, batch, max_pages, scale_log2,
    cache_halves, cache_ropes, NUM_HEADS: gl.constexpr, SEQ_LEN_Q: gl.constexpr, PAGE_SIZE: gl.constexpr,
    LATENT: gl.constexpr, ROPE: gl.constexpr, BATCH_BLOCK: gl.constexpr, BLOCK_H: gl.constexpr, BLOCK_N: gl.constexpr,
    NUM_PARTS: gl.constexpr, MIN_TILES: gl.constexpr, DEPENDENT_LAUNCH: gl.constexpr,
    TMA: gl.constexpr,
):  # fmt: skip
    """As `_split_kv._decode`, with 4 warps: program (i, p) owns rows [i * 64, ..) and part p of all tiles."""
    gl.static_assert(BLOCK_H == ROWS_OF_BLOCK and BLOCK_N == TOKENS and LATENT == 2 * HALF and ROPE == TOKENS)
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    dtype: gl.constexpr = q.dtype.element_ty
    q_halves = gl.allocate_shared_memory(dtype, [2, ROWS_OF_BLOCK, HALF], SHARED)
    halves = gl.allocate_shared_memory(dtype, [4, TOKENS, HALF], SHARED)  # 2 * buffer + half
    ropes = gl.allocate_shared_memory(dtype, [2, TOKENS, ROPE], SHARED)
    p = gl.allocate_shared_memory(dtype, [2, ROWS_OF_BLOCK, TOKENS], SHARED)
    rows = gl.allocate_shared_memory(gl.float32, [6, ROWS_OF_BLOCK], SHARED_ROWS)  # maximum, sum, decay of each buffer
    q_full, q_empty = _barriers(1, PRODUCER_THREADS).index(0), _barriers(1, 2).index(0)
    full = _barriers(6, PRODUCER_THREADS)  # of `halves`, then of `ropes`
    rope_empty, half_empty, p_full = _barriers(2, 1), _barriers(4, 1), _barriers(2, 1)
    part = gl.program_id(1)
    part_start, part_end, sequence, start = find_part(seq_lens, batch, part, BATCH_BLOCK, NUM_PARTS, MIN_TILES)
    gl.warp_specialize(
        [
            (produce, (
                q, kv_cache, cache_halves, cache_ropes, block_table, seq_lens, max_pages, part_start, part_end,
                sequence, start, q_halves, halves, ropes, q_full, q_empty, full, rope_empty, half_empty,
                SEQ_LEN_Q * NUM_HEADS, PAGE_SIZE, TMA,
            )),
            (_consume, (
                q, seq_lens, out, lse, partial_out, partial_lse, scale_log2, part, part_start, part_end, sequence,
                start, q_halves, halves, ropes, p, rows, q_full, q_empty, full, rope_empty, half_empty, p_full,
                0, NUM_HEADS, SEQ_LEN_Q,
            )),
            (_consume, (
                q, seq_lens, out, lse, partial_out, partial_lse, scale_log2, part, part_start, part_end, sequence,
                start, q_halves, halves, ropes, p, rows, q_full, q_empty, full, rope_empty, half_empty, p_full,
                1, NUM_HEADS, SEQ_LEN_Q,
            )),
        ],
        [4, 4],
        [CONSUMER_REGISTERS, CONSUMER_REGISTERS],
    )  # fmt: skip
