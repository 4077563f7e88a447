"""triton_split_kv's first kernel in Gluon, for Hopper's warpgroup MMA: 64 rows, tiles of 64 tokens, a 16-bit cache.

Triton gives the scores of a chained dot to all warps along the rows, so two warpgroups compute the same 64 rows twice;
and it issues a tile's loads behind the last product that reads the buffer. Here both warpgroups share the tokens of
the scores and the columns of the output, and one step keeps the tensor cores fed while the next tile is on its way:

    softmax of tile i | P.V of tile i, then Q.K of tile i + 1 | once P.V is done: load tile i + 2 into its buffer

Shared memory: Q 72 KiB, two tiles 144 KiB, P 8 KiB; 224 of Hopper's 227 KiB. Accumulator: 128 registers a thread.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents

# Renamed after Triton 3.6.
async_load = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier

# Layouts of a program's 8 warps. Both products have 4 warps along the 64 rows and 2 along their columns.
ACC = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 2], instr_shape=[16, 256, 16]))
SCORES = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 2], instr_shape=[16, 32, 16]))
COPY = gl.constexpr(gl.BlockedLayout([1, 8], [4, 8], [8, 1], [1, 0]))  # 16 bytes a thread, 128 a row
SHARED = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2))
LINE = gl.constexpr(gl.BlockedLayout([1], [32], [8], [0]))

LN_2 = gl.constexpr(0.6931471805599453)


@gluon.jit
def _add(a, b):
    return a + b


@gluon.jit
def _load_pages(block_table_row, first_token, limit, PAGE_SIZE: gl.constexpr, BLOCK_N: gl.constexpr):
    """Page of every token of a tile [BLOCK_N], in the layout of the copy."""
    token = first_token + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, COPY))
    return gl.load(block_table_row + token // PAGE_SIZE, mask=token < limit, other=0)


@gluon.jit
def _load_tile(
    kv_cache, pages, first_token, limit, latent, rope,
    PAGE_SIZE: gl.constexpr, LATENT: gl.constexpr, ROPE: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Start the copy of a tile to shared memory; what lies past `limit` becomes 0."""
    token = first_token + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, COPY))
    slot = pages.to(gl.int64) * PAGE_SIZE + token % PAGE_SIZE
    row = (kv_cache + slot * (LATENT + ROPE))[:, None]
    used = (token < limit)[:, None]
    async_load(latent, row + gl.arange(0, LATENT, layout=gl.SliceLayout(0, COPY))[None, :], mask=used)
    async_load(rope, row + (LATENT + gl.arange(0, ROPE, layout=gl.SliceLayout(0, COPY)))[None, :], mask=used)
    async_copy.commit_group()


@gluon.jit
def _start_scores(q_latent, q_rope, latent, rope):
    """Start Q.K of a tile: two groups of asynchronous products."""
    zeros = gl.full([q_latent.shape[0], latent.shape[0]], 0.0, gl.float32, SCORES)
    scores = warpgroup_mma(q_latent, latent.permute((1, 0)), zeros, use_acc=False, is_async=True)
    return warpgroup_mma(q_rope, rope.permute((1, 0)), scores, is_async=True)


@gluon.jit
def _softmax(scores, first_token, last_seen, maximum, total, acc, p, scale_log2):
    """One online-softmax step in base 2; probabilities go to `p`, and `total` [rows, tokens] is summed at the end."""
    token = first_token + gl.arange(0, scores.shape[1], layout=gl.SliceLayout(0, SCORES))
    scores = gl.where(token[None, :] <= last_seen[:, None], scores * scale_log2, float("-inf"))
    new_maximum = gl.maximum(maximum, gl.max(scores, 1))
    shift = gl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # a row that has seen nothing yet
    probabilities = gl.exp2(scores - shift[:, None])
    decay = gl.exp2(maximum - shift)
    p.store(probabilities.to(p.dtype))
    total = total * decay[:, None] + probabilities
    acc = acc * gl.convert_layout(decay, gl.SliceLayout(1, ACC))[:, None]
    return new_maximum, total, acc


@gluon.jit
def _start_loads(
    q_rows, is_row, kv_cache, block_table_row, first_token, limit, q_latent, q_rope, latent, rope,
    PAGE_SIZE: gl.constexpr, LATENT: gl.constexpr, ROPE: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Start the copies of Q and of the first two tiles of a sequence: two groups."""
    async_load(q_latent, q_rows + gl.arange(0, LATENT, layout=gl.SliceLayout(0, COPY))[None, :], mask=is_row)
    async_load(q_rope, q_rows + (LATENT + gl.arange(0, ROPE, layout=gl.SliceLayout(0, COPY)))[None, :], mask=is_row)
    for i in gl.static_range(2):
        token = first_token + i * BLOCK_N
        pages = _load_pages(block_table_row, token, limit, PAGE_SIZE, BLOCK_N)
        _load_tile(kv_cache, pages, token, limit, latent.index(i), rope.index(i), PAGE_SIZE, LATENT, ROPE, BLOCK_N)


@gluon.jit
def _attend(
    kv_cache, block_table_row, token, limit, last_seen, scale_log2, q_latent, q_rope, latent, rope, p,
    PAGE_SIZE: gl.constexpr, LATENT: gl.constexpr, ROPE: gl.constexpr, BLOCK_H: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_H rows over tokens [token, limit), after `_start_loads`: unscaled out, maximum, sum."""
    pages = _load_pages(block_table_row, token + 2 * BLOCK_N, limit, PAGE_SIZE, BLOCK_N)
    maximum = gl.full([BLOCK_H], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.zeros([BLOCK_H, BLOCK_N], gl.float32, SCORES)
    acc = gl.zeros([BLOCK_H, LATENT], gl.float32, ACC)
    async_copy.wait_group(1)
    fence_async_shared()
    barrier()
    pending = _start_scores(q_latent, q_rope, latent.index(0), rope.index(0))
    buffer = 0
    for _ in range(gl.cdiv(limit - token, BLOCK_N) - 1):
        scores = warpgroup_mma_wait(0, deps=[pending])
        maximum, total, acc = _softmax(scores, token, last_seen, maximum, total, acc, p, scale_log2)
        fence_async_shared()
        barrier()
        product = warpgroup_mma(p, latent.index(buffer), acc, is_async=True)
        async_copy.wait_group(0)
        fence_async_shared()
        barrier()
        pending = _start_scores(q_latent, q_rope, latent.index(1 - buffer), rope.index(1 - buffer))
        acc = warpgroup_mma_wait(2, deps=[product])
        barrier()  # both warpgroups have read the buffer, and P
        at = token + 2 * BLOCK_N
        _load_tile(
            kv_cache, pages, at, limit, latent.index(buffer), rope.index(buffer), PAGE_SIZE, LATENT, ROPE, BLOCK_N
        )
        pages = _load_pages(block_table_row, at + BLOCK_N, limit, PAGE_SIZE, BLOCK_N)
        token += BLOCK_N
        buffer = 1 - buffer
    scores = warpgroup_mma_wait(0, deps=[pending])
    maximum, total, acc = _softmax(scores, token, last_seen, maximum, total, acc, p, scale_log2)
    fence_async_shared()
    barrier()
    acc = warpgroup_mma(p, latent.index(buffer), acc)
    async_copy.wait_group(0)  # of tiles past the end: they write zeros
    barrier()
    return acc, maximum, gl.sum(total, 1)


@gluon.jit
def _normalise(acc, maximum, total):
    """(out, lse in base 2); a row that has seen nothing gets 0 and -inf."""
    seen = total > 0
    scale = gl.where(seen, 1.0 / gl.where(seen, total, 1.0), 0.0)
    row_lse = gl.where(seen, maximum + gl.log2(gl.where(seen, total, 1.0)), float("-inf"))
    return acc * gl.convert_layout(scale, gl.SliceLayout(1, ACC))[:, None], row_lse


@gluon.jit
def _store_rows(out, lse, index, row_start, out_values, lse_values, ROWS: gl.constexpr, LATENT: gl.constexpr,
                BLOCK_H: gl.constexpr):  # fmt: skip
    """Rows of block `index` of [*, ROWS, 512] and [*, ROWS]."""
    base = index.to(gl.int64) * ROWS
    row = row_start + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, SCORES))
    gl.store(lse + base + row, lse_values, mask=row < ROWS)
    row = row_start + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, ACC))
    column = gl.arange(0, LATENT, layout=gl.SliceLayout(0, ACC))
    pointers = (out + (base + row) * LATENT)[:, None] + column[None, :]
    gl.store(pointers, out_values.to(out.dtype.element_ty), mask=(row < ROWS)[:, None])


@gluon.jit
def _find_part(
    seq_lens, batch, part, BATCH_BLOCK: gl.constexpr, BLOCK_N: gl.constexpr, NUM_PARTS: gl.constexpr,
    MIN_TILES: gl.constexpr,
):  # fmt: skip
    """Its first tile and its end among all tiles, the sequence that it begins in, and that sequence's first tile."""
    index = gl.arange(0, BATCH_BLOCK, layout=LINE)
    tiles = gl.cdiv(gl.load(seq_lens + index, mask=index < batch, other=0), BLOCK_N)
    ends = gl.associative_scan(tiles, 0, _add)
    total_tiles = gl.sum(tiles, 0)
    part_tiles = gl.maximum(gl.cdiv(total_tiles, NUM_PARTS), MIN_TILES)
    part_start = part * part_tiles
    part_end = gl.minimum(part_start + part_tiles, total_tiles)
    sequence = gl.sum((ends <= part_start).to(gl.int32), 0)
    start = gl.sum(gl.where(ends <= part_start, tiles, 0), 0)
    return part_start, part_end, sequence, start


@gluon.jit
def _next_sequence(seq_lens, sequence):
    """The next one that holds a token; there must be one."""
    sequence += 1
    seq_len = gl.load(seq_lens + sequence)
    while seq_len == 0:
        sequence += 1
        seq_len = gl.load(seq_lens + sequence)
    return sequence, seq_len


@gluon.jit
def decode_hopper(
    q, kv_cache, block_table, seq_lens, out, lse, partial_out, partial_lse, batch, max_pages, scale_log2,
    NUM_HEADS: gl.constexpr, SEQ_LEN_Q: gl.constexpr, PAGE_SIZE: gl.constexpr, LATENT: gl.constexpr, ROPE: gl.constexpr,
    BATCH_BLOCK: gl.constexpr, BLOCK_H: gl.constexpr, BLOCK_N: gl.constexpr, NUM_PARTS: gl.constexpr,
    MIN_TILES: gl.constexpr, DEPENDENT_LAUNCH: gl.constexpr,
):  # fmt: skip
    """As `_split_kv._decode`: program (i, p) owns rows [i * BLOCK_H, ..) and part p of all tiles."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    ROWS: gl.constexpr = SEQ_LEN_Q * NUM_HEADS
    dtype: gl.constexpr = q.dtype.element_ty
    q_latent = gl.allocate_shared_memory(dtype, [BLOCK_H, LATENT], SHARED)
    q_rope = gl.allocate_shared_memory(dtype, [BLOCK_H, ROPE], SHARED)
    latent = gl.allocate_shared_memory(dtype, [2, BLOCK_N, LATENT], SHARED)
    rope = gl.allocate_shared_memory(dtype, [2, BLOCK_N, ROPE], SHARED)
    p = gl.allocate_shared_memory(dtype, [BLOCK_H, BLOCK_N], SHARED)

    part = gl.program_id(1)
    part_start, part_end, sequence, start = _find_part(
        seq_lens, batch, part, BATCH_BLOCK, BLOCK_N, NUM_PARTS, MIN_TILES
    )
    row_start = gl.program_id(0) * BLOCK_H
    copy_row = row_start + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, COPY))
    is_row = (copy_row < ROWS)[:, None]
    row = row_start + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, SCORES))
    q_rows = (q + copy_row * (LATENT + ROPE))[:, None]
    q_stride: gl.constexpr = ROWS * (LATENT + ROPE)
    seq_len = gl.load(seq_lens + sequence, mask=start < part_end, other=0)
    token = (part_start - start) * BLOCK_N
    limit = gl.minimum(seq_len, (part_end - start) * BLOCK_N)
    if start < part_end:
        _start_loads(
            q_rows + sequence.to(gl.int64) * q_stride, is_row, kv_cache,
            block_table + sequence.to(gl.int64) * max_pages,
            token, limit, q_latent, q_rope, latent, rope, PAGE_SIZE, LATENT, ROPE, BLOCK_N,
        )  # fmt: skip
    while start < part_end:
        acc, maximum, total = _attend(
            kv_cache, block_table + sequence.to(gl.int64) * max_pages, token, limit,
            seq_len - SEQ_LEN_Q + row // NUM_HEADS, scale_log2, q_latent, q_rope, latent, rope, p,
            PAGE_SIZE, LATENT, ROPE, BLOCK_H, BLOCK_N,
        )  # fmt: skip
        this, this_start = sequence, start
        start += gl.cdiv(seq_len, BLOCK_N)
        if start < part_end:  # the loads of the next sequence run beside the stores of this one
            sequence, seq_len = _next_sequence(seq_lens, sequence)
            token = 0
            limit = gl.minimum(seq_len, (part_end - start) * BLOCK_N)
            _start_loads(
                q_rows + sequence.to(gl.int64) * q_stride, is_row, kv_cache,
                block_table + sequence.to(gl.int64) * max_pages,
                token, limit, q_latent, q_rope, latent, rope, PAGE_SIZE, LATENT, ROPE, BLOCK_N,
            )  # fmt: skip
        acc, row_lse = _normalise(acc, maximum, total)
        if (this_start >= part_start) & (start <= part_end):
            _store_rows(out, lse, this, row_start, acc, row_lse * LN_2, ROWS, LATENT, BLOCK_H)
        else:
            slot = part * 2 + (this_start >= part_start).to(gl.int32)
            _store_rows(partial_out, partial_lse, slot, row_start, acc, row_lse, ROWS, LATENT, BLOCK_H)
