"""prefill_hopper's kernel in Gluon, for Hopper's warpgroup MMA: 128 queries, tiles of 64 tokens, 16-bit inputs.

Two warpgroups own 64 rows each, so that a row's softmax needs no other warpgroup and its probabilities go from
registers into P.V. Three buffers, and the scores of the next tile on their way while this one's softmax is computed:

    load tile i + 2 | start Q.K of tile i + 1 | softmax of tile i | P.V of tile i

Shared memory: Q 48 KiB, three tiles of K and V 120 KiB.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait

from ._split_kv_hopper import COPY, LINE, LN_2, SHARED, async_load, barrier

# 8 warps along the rows.
ACC = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[8, 1], instr_shape=[16, 128, 16]))
SCORES = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[8, 1], instr_shape=[16, 64, 16]))
PROBABILITIES = gl.constexpr(gl.DotOperandLayout(operand_index=0, parent=ACC, k_width=2))
STAGES = gl.constexpr(3)


@gluon.jit
def _add(a, b):
    return a + b


@gluon.jit
def _find_tile(cu_seqlens_q, batch, tile, BATCH_BLOCK: gl.constexpr, BLOCK_M: gl.constexpr):
    """(sequence, first query within it) of a tile; `sequence` is `batch` past the last one."""
    index = gl.arange(0, BATCH_BLOCK, layout=LINE)
    is_sequence = index < batch
    start = gl.load(cu_seqlens_q + index, mask=is_sequence, other=0)
    end = gl.load(cu_seqlens_q + index + 1, mask=is_sequence, other=0)
    tiles = gl.cdiv(end - start, BLOCK_M)
    is_before = is_sequence & (gl.associative_scan(tiles, 0, _add) <= tile)
    return gl.sum(is_before.to(gl.int32), 0), (tile - gl.sum(gl.where(is_before, tiles, 0), 0)) * BLOCK_M


@gluon.jit
def _load_rows(target, source, first, end, STRIDE: gl.constexpr, ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """Start the copy of rows [first, first + ROWS) of `source` to shared memory; what lies past `end` becomes 0."""
    row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, COPY))
    pointers = (source + first.to(gl.int64) * STRIDE) + (row * STRIDE)[:, None]
    pointers += gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, COPY))[None, :]
    async_load(target, pointers, mask=(first + row < end)[:, None])


@gluon.jit
def _load_tile(
    k, v, first, kv_len, nope, rope, values,
    HEADS: gl.constexpr, NOPE: gl.constexpr, ROPE: gl.constexpr, V_DIM: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Start the copy of a tile of K and V, one group; `k` and `v` point at the sequence's first row."""
    _load_rows(nope, k, first, kv_len, HEADS * (NOPE + ROPE), BLOCK_N, NOPE)
    _load_rows(rope, k + NOPE, first, kv_len, HEADS * (NOPE + ROPE), BLOCK_N, ROPE)
    _load_rows(values, v, first, kv_len, HEADS * V_DIM, BLOCK_N, V_DIM)
    async_copy.commit_group()


@gluon.jit
def _start_scores(q_nope, q_rope, nope, rope):
    """Start Q.K of a tile: two groups of asynchronous products."""
    zeros = gl.full([q_nope.shape[0], nope.shape[0]], 0.0, gl.float32, SCORES)
    scores = warpgroup_mma(q_nope, nope.permute((1, 0)), zeros, use_acc=False, is_async=True)
    return warpgroup_mma(q_rope, rope.permute((1, 0)), scores, is_async=True)


@gluon.jit
def _softmax(scores, first, seen_by_all, last_seen, maximum, total, acc, scale_log2, dtype: gl.constexpr):
    """One online-softmax step in base 2: (probabilities, maximum, total, acc)."""
    token = first + gl.arange(0, scores.shape[1], layout=gl.SliceLayout(0, SCORES))
    if first + scores.shape[1] > seen_by_all:
        scores = gl.where(token[None, :] <= last_seen[:, None], scores, float("-inf"))
    # Every query sees token 0, which is in the first tile: the maximum is finite from there on.
    new_maximum = gl.maximum(maximum, gl.max(scores, 1) * scale_log2)
    probabilities = gl.exp2(scores * scale_log2 - new_maximum[:, None])
    decay = gl.exp2(maximum - new_maximum)
    total = total * decay + gl.sum(probabilities, 1)
    acc = acc * gl.convert_layout(decay, gl.SliceLayout(1, ACC))[:, None]
    return gl.convert_layout(probabilities.to(dtype), PROBABILITIES), new_maximum, total, acc


@gluon.jit
def _attend(
    k, v, end, seen_by_all, last_seen, scale_log2, q_nope, q_rope, nope, rope, values,
    HEADS: gl.constexpr, NOPE: gl.constexpr, ROPE: gl.constexpr, V_DIM: gl.constexpr, BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_M queries over tokens [0, end), the copy of Q begun: unscaled out, maximum, sum."""
    token = end * 0
    for i in gl.static_range(2):
        _load_tile(
            k, v, token + i * BLOCK_N, end, nope.index(i), rope.index(i), values.index(i),
            HEADS, NOPE, ROPE, V_DIM, BLOCK_N,
        )  # fmt: skip
    maximum = gl.full([BLOCK_M], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.zeros([BLOCK_M], gl.float32, gl.SliceLayout(1, SCORES))
    acc = gl.zeros([BLOCK_M, V_DIM], gl.float32, ACC)
    dtype: gl.constexpr = q_nope.dtype
    async_copy.wait_group(1)
    fence_async_shared()
    barrier()
    scores = warpgroup_mma_wait(0, deps=[_start_scores(q_nope, q_rope, nope.index(0), rope.index(0))])
    this, following, free = 0, 1, 2  # buffers of tiles i, i + 1 and i + 2
    for _ in range(gl.cdiv(end, BLOCK_N) - 1):
        async_copy.wait_group(0)
        fence_async_shared()
        barrier()  # tile i + 1 is there for all warps, and all have read tile i - 1
        _load_tile(
            k, v, token + 2 * BLOCK_N, end, nope.index(free), rope.index(free), values.index(free),
            HEADS, NOPE, ROPE, V_DIM, BLOCK_N,
        )  # fmt: skip
        pending = _start_scores(q_nope, q_rope, nope.index(following), rope.index(following))
        p, maximum, total, acc = _softmax(scores, token, seen_by_all, last_seen, maximum, total, acc, scale_log2, dtype)
        product = warpgroup_mma(p, values.index(this), acc, is_async=True)
        scores = warpgroup_mma_wait(1, deps=[pending])
        acc = warpgroup_mma_wait(0, deps=[product])
        token += BLOCK_N
        this, following, free = following, free, this
    p, maximum, total, acc = _softmax(scores, token, seen_by_all, last_seen, maximum, total, acc, scale_log2, dtype)
    acc = warpgroup_mma(p, values.index(this), acc)
    async_copy.wait_group(0)  # of tiles past the end: they write zeros
    return acc, maximum, total


@gluon.jit
def _store_rows(
    out, lse, head, q_start, first_query, q_len, acc, maximum, total,
    HEADS: gl.constexpr, V_DIM: gl.constexpr, BLOCK_M: gl.constexpr,
):  # fmt: skip
    """Divide by the sums, and store BLOCK_M queries of one head."""
    query = first_query + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, SCORES))
    row = (q_start + query).to(gl.int64) * HEADS + head
    gl.store(lse + row, (maximum + gl.log2(total)) * LN_2, mask=query < q_len)
    acc = acc * gl.convert_layout(1.0 / total, gl.SliceLayout(1, ACC))[:, None]
    query = first_query + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, ACC))
    row = (q_start + query).to(gl.int64) * HEADS + head
    pointers = out + (row * V_DIM)[:, None] + gl.arange(0, V_DIM, layout=gl.SliceLayout(0, ACC))[None, :]
    gl.store(pointers, acc.to(out.dtype.element_ty), mask=(query < q_len)[:, None])


@gluon.jit
def prefill_hopper(
    q, k, v, out, lse, cu_seqlens_q, cu_seqlens_kv, batch, num_tiles, scale_log2,
    HEADS: gl.constexpr, HEADS_AT_ONCE: gl.constexpr, NOPE: gl.constexpr, ROPE: gl.constexpr, V_DIM: gl.constexpr,
    BATCH_BLOCK: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """As `prefill_triton._prefill`: programs of a few heads are neighbours, of each the last queries first."""
    group = gl.program_id(0) // (num_tiles * HEADS_AT_ONCE)
    within = gl.program_id(0) % (num_tiles * HEADS_AT_ONCE)
    heads_here = gl.minimum(HEADS_AT_ONCE, HEADS - group * HEADS_AT_ONCE)
    head = group * HEADS_AT_ONCE + within % heads_here
    sequence, first_query = _find_tile(cu_seqlens_q, batch, num_tiles - 1 - within // heads_here, BATCH_BLOCK, BLOCK_M)
    if sequence >= batch:
        return
    q_start = gl.load(cu_seqlens_q + sequence)
    q_len = gl.load(cu_seqlens_q + sequence + 1) - q_start
    kv_start = gl.load(cu_seqlens_kv + sequence)
    kv_len = gl.load(cu_seqlens_kv + sequence + 1) - kv_start
    dtype: gl.constexpr = q.dtype.element_ty
    q_nope = gl.allocate_shared_memory(dtype, [BLOCK_M, NOPE], SHARED)
    q_rope = gl.allocate_shared_memory(dtype, [BLOCK_M, ROPE], SHARED)
    nope = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, NOPE], SHARED)
    rope = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, ROPE], SHARED)
    values = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, V_DIM], SHARED)

    q_rows = q + (q_start.to(gl.int64) * HEADS + head) * (NOPE + ROPE)
    kv_row = kv_start.to(gl.int64) * HEADS + head
    seen_by_all = kv_len - q_len + first_query + 1
    end = gl.minimum(kv_len, seen_by_all + BLOCK_M - 1)
    last_seen = seen_by_all - 1 + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, SCORES))
    _load_rows(q_nope, q_rows, first_query, q_len, HEADS * (NOPE + ROPE), BLOCK_M, NOPE)
    _load_rows(q_rope, q_rows + NOPE, first_query, q_len, HEADS * (NOPE + ROPE), BLOCK_M, ROPE)
    acc, maximum, total = _attend(
        k + kv_row * (NOPE + ROPE), v + kv_row * V_DIM, end, seen_by_all, last_seen, scale_log2,
        q_nope, q_rope, nope, rope, values, HEADS, NOPE, ROPE, V_DIM, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    _store_rows(out, lse, head, q_start, first_query, q_len, acc, maximum, total, HEADS, V_DIM, BLOCK_M)
