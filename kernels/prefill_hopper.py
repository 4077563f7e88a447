"""Prefill of attention and MLA in Gluon for Hopper: two warpgroups compute, a warp fetches.

A persistent program walks over its items, 128 queries of one head each: see `prefill_items`. Its producer, one warp,
copies Q, K and V tiles by TMA into rings of shared memory. Its two consumers, a warpgroup each, own 64 of the queries.
A consumer starts the scores of a tile and, behind them, P.V of the tile before; it works on the softmax of these scores
while P.V runs, as in FlashAttention-3 (arXiv 2407.08608), whose consumers also take turns on the tensor cores. That
gained nothing here: H200, tuning, 8192 tokens of MLA's 128 heads: 4362 us in turns, 4284 without. Tiles go from the
last to the first: those behind a mask come first, those of a window's edge last. A step passes its probabilities on to
the next one rounded, or as they are (LATE_ROUNDING): 16-bit values that a loop carries are taken apart and put together
again, 64 of 516 instructions a tile; those that are rounded late wait behind the scores' first product. Q and K may
have ROPE columns more than V, MLA's: buffers and a product of their own.

Each buffer has two barriers: `full`, which TMA completes, and `empty`, at which both consumers arrive. A barrier's
phase follows from a count of the tiles (for Q of the items) that a partition has had; the counts of all partitions
agree, because each walks over the same items, and passes over those that see no key.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

# Renamed after Triton 3.6.
tma_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier

LN_2 = gl.constexpr(0.6931471805599453)
ROWS = gl.constexpr(64)
"""Queries of one consumer."""
ITEM_FIELDS = gl.constexpr(9)
"""Columns of `items`; see `prefill_items.Item`."""


@gluon.jit
def _find_item(items, turn):
    """Of this program's turn: row of q, queries, row of k, keys, position, tiles, head. Zeros where there is none."""
    row = items + (turn * gl.num_programs(0) + gl.program_id(0)) * ITEM_FIELDS
    first_q = gl.load(row)
    num_queries = gl.load(row + 1)
    first_kv = gl.load(row + 2)
    num_keys = gl.load(row + 3)
    position = gl.load(row + 4)
    right = gl.load(row + 5)
    whole = gl.load(row + 6)
    left = gl.load(row + 7)
    head = gl.load(row + 8)
    return first_q, num_queries, first_kv, num_keys, position, right, whole, left, head


@gluon.jit
def _last_key(num_keys, position, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr):
    """First key of the last tile that an item sees."""
    end = num_keys
    if CAUSAL:
        end = gl.minimum(num_keys, position + 2 * ROWS)
    return (end - 1) // BLOCK_N * BLOCK_N


@gluon.jit
def _produce(
    q, k, v, q_rope, k_rope, items, num_turns, q_tile, k_ring, v_ring, q_rope_tile, k_rope_ring,
    q_full, q_empty, k_full, k_empty, v_full, v_empty, NUM_HEADS: gl.constexpr, NUM_KV_HEADS: gl.constexpr,
    BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, ROPE: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """The producer: one warp."""
    QK_DIM: gl.constexpr = HEAD_DIM + ROPE
    had_items, had_tiles = 0, 0
    for turn in range(num_turns):
        first_q, _num_queries, first_kv, num_keys, position, right, whole, left, head = _find_item(items, turn)
        num_tiles = right + whole + left
        if num_tiles > 0:
            mbarrier.wait(q_empty, (had_items & 1) ^ 1)
            mbarrier.expect(q_full, 2 * ROWS * QK_DIM * 2)
            tma_load(q, [first_q, head * QK_DIM], q_full, q_tile.index(0))
            tma_load(q, [first_q + ROWS, head * QK_DIM], q_full, q_tile.index(1))
            if ROPE > 0:
                tma_load(q_rope, [first_q, head * QK_DIM + HEAD_DIM], q_full, q_rope_tile.index(0))
                tma_load(q_rope, [first_q + ROWS, head * QK_DIM + HEAD_DIM], q_full, q_rope_tile.index(1))
            had_items += 1
            row = first_kv + _last_key(num_keys, position, BLOCK_N, CAUSAL)
            kv_head = head // (NUM_HEADS // NUM_KV_HEADS)
            for _tile in range(num_tiles):
                stage = had_tiles % STAGES
                phase = (had_tiles // STAGES) & 1
                mbarrier.wait(k_empty.index(stage), phase ^ 1)
                mbarrier.expect(k_full.index(stage), BLOCK_N * QK_DIM * 2)
                tma_load(k, [row, kv_head * QK_DIM], k_full.index(stage), k_ring.index(stage))
                if ROPE > 0:
                    tma_load(k_rope, [row, kv_head * QK_DIM + HEAD_DIM], k_full.index(stage), k_rope_ring.index(stage))
                mbarrier.wait(v_empty.index(stage), phase ^ 1)
                mbarrier.expect(v_full.index(stage), BLOCK_N * HEAD_DIM * 2)
                tma_load(v, [row, kv_head * HEAD_DIM], v_full.index(stage), v_ring.index(stage))
                row -= BLOCK_N
                had_tiles += 1


@gluon.jit
def _start_scores(
    q_tile, q_rope_tile, k_ring, k_rope_ring, stage,
    BLOCK_N: gl.constexpr, ROPE: gl.constexpr, SCORES: gl.constexpr,
):  # fmt: skip
    """Start Q.K of a tile: one group of asynchronous products, or two."""
    zeros = gl.full([ROWS, BLOCK_N], 0.0, gl.float32, SCORES)
    pending = warpgroup_mma(q_tile, k_ring.index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)
    if ROPE > 0:
        pending = warpgroup_mma(q_rope_tile, k_rope_ring.index(stage).permute((1, 0)), pending, is_async=True)
    return pending


@gluon.jit
def _softmax(
    scores, key, position, num_keys, maximum, total, scale_log2,
    CAUSAL: gl.constexpr, WINDOW: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """One online-softmax step in base 2: probabilities, decay of what came before, maximum, total."""
    layout: gl.constexpr = scores.type.layout
    if MASKED:
        keys = (key + gl.arange(0, scores.shape[1], layout=gl.SliceLayout(0, layout)))[None, :]
        visible = keys < num_keys
        if CAUSAL:
            visible = keys <= position[:, None]
        if WINDOW > 0:
            visible = visible & (keys > position[:, None] - WINDOW)
        scores = gl.where(visible, scores, float("-inf"))
    new_maximum = gl.maximum(maximum, gl.max(scores, 1) * scale_log2)
    shift = new_maximum
    if MASKED:
        shift = gl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # a query that has seen nothing yet
    probabilities = gl.exp2(scores * scale_log2 - shift[:, None])
    decay = gl.exp2(maximum - shift)
    return probabilities, decay, new_maximum, total * decay + gl.sum(probabilities, 1)


@gluon.jit
def _steps(
    count, acc, p, maximum, total, had_tiles, key, position, num_keys, scale_log2, q_tile, k_ring, v_ring,
    q_rope_tile, k_rope_ring, k_full, k_empty, v_full, v_empty, STAGES: gl.constexpr, BLOCK_N: gl.constexpr,
    ROPE: gl.constexpr, CAUSAL: gl.constexpr, WINDOW: gl.constexpr, MASKED: gl.constexpr, SCORES: gl.constexpr,
    LATE_ROUNDING: gl.constexpr, dtype: gl.constexpr,
):  # fmt: skip
    """`count` tiles: the scores of each beside P.V of the one before it. `p` are its probabilities."""
    LEFT: gl.constexpr = gl.DotOperandLayout(0, acc.type.layout, 2)
    for _tile in range(count):
        stage, phase = had_tiles % STAGES, (had_tiles // STAGES) & 1
        before = (had_tiles - 1) % STAGES
        mbarrier.wait(k_full.index(stage), phase)
        pending = _start_scores(q_tile, q_rope_tile, k_ring, k_rope_ring, stage, BLOCK_N, ROPE, SCORES)
        left = gl.convert_layout(p.to(dtype), LEFT) if LATE_ROUNDING else p
        product = warpgroup_mma(left, v_ring.index(before), acc, is_async=True)
        scores = warpgroup_mma_wait(1, deps=[pending])
        barrier()  # all four warps have read K
        mbarrier.arrive(k_empty.index(stage), count=1)
        probabilities, decay, maximum, total = _softmax(
            scores, key, position, num_keys, maximum, total, scale_log2, CAUSAL, WINDOW, MASKED
        )
        # Wanted by the next P.V only; but a loop that polls is what ptxas moves no wait for products across, and it
        # would have them waited for before the softmax.
        mbarrier.wait(v_full.index(stage), phase)
        acc, left = warpgroup_mma_wait(0, deps=[product, left])
        barrier()  # and V
        mbarrier.arrive(v_empty.index(before), count=1)
        acc = acc * gl.convert_layout(decay, gl.SliceLayout(1, acc.type.layout))[:, None]
        p = probabilities if LATE_ROUNDING else gl.convert_layout(probabilities.to(dtype), LEFT)
        had_tiles += 1
        key -= BLOCK_N
    return acc, p, maximum, total, had_tiles, key


@gluon.jit
def _attend(
    acc, maximum, total, had_tiles, right, whole, left, key, position, num_keys, scale_log2, q_tile, k_ring, v_ring,
    q_rope_tile, k_rope_ring, q_empty, k_full, k_empty, v_full, v_empty, dtype: gl.constexpr,
    STAGES: gl.constexpr, BLOCK_N: gl.constexpr, ROPE: gl.constexpr, CAUSAL: gl.constexpr, WINDOW: gl.constexpr,
    SCORES: gl.constexpr, LATE_ROUNDING: gl.constexpr,
):  # fmt: skip
    """All tiles of an item whose Q has come: unscaled output, maximum, sum, and how many tiles there have been."""
    LEFT: gl.constexpr = gl.DotOperandLayout(0, acc.type.layout, 2)
    stage, phase = had_tiles % STAGES, (had_tiles // STAGES) & 1
    mbarrier.wait(k_full.index(stage), phase)
    pending = _start_scores(q_tile, q_rope_tile, k_ring, k_rope_ring, stage, BLOCK_N, ROPE, SCORES)
    scores = warpgroup_mma_wait(0, deps=[pending])
    barrier()
    mbarrier.arrive(k_empty.index(stage), count=1)
    probabilities, _decay, maximum, total = _softmax(
        scores, key, position, num_keys, maximum, total, scale_log2, CAUSAL, WINDOW, True
    )
    p = probabilities if LATE_ROUNDING else gl.convert_layout(probabilities.to(dtype), LEFT)
    mbarrier.wait(v_full.index(stage), phase)
    had_tiles += 1
    key -= BLOCK_N
    acc, p, maximum, total, had_tiles, key = _steps(
        right - 1, acc, p, maximum, total, had_tiles, key, position, num_keys, scale_log2, q_tile, k_ring, v_ring,
        q_rope_tile, k_rope_ring, k_full, k_empty, v_full, v_empty, STAGES, BLOCK_N, ROPE, CAUSAL, WINDOW, True,
        SCORES, LATE_ROUNDING, dtype,
    )  # fmt: skip
    acc, p, maximum, total, had_tiles, key = _steps(
        whole, acc, p, maximum, total, had_tiles, key, position, num_keys, scale_log2, q_tile, k_ring, v_ring,
        q_rope_tile, k_rope_ring, k_full, k_empty, v_full, v_empty, STAGES, BLOCK_N, ROPE, CAUSAL, WINDOW, False,
        SCORES, LATE_ROUNDING, dtype,
    )  # fmt: skip
    if WINDOW > 0:
        acc, p, maximum, total, had_tiles, key = _steps(
            left, acc, p, maximum, total, had_tiles, key, position, num_keys, scale_log2, q_tile, k_ring, v_ring,
            q_rope_tile, k_rope_ring, k_full, k_empty, v_full, v_empty, STAGES, BLOCK_N, ROPE, CAUSAL, WINDOW,
            True, SCORES, LATE_ROUNDING, dtype,
        )  # fmt: skip
    barrier()
    mbarrier.arrive(q_empty, count=1)
    before = (had_tiles - 1) % STAGES
    if LATE_ROUNDING:
        p = gl.convert_layout(p.to(dtype), LEFT)
    acc = warpgroup_mma(p, v_ring.index(before), acc)
    barrier()
    mbarrier.arrive(v_empty.index(before), count=1)
    return acc, maximum, total, had_tiles


@gluon.jit
def _consume(
    items, num_turns, out, lse, scale_log2, q_tile, k_ring, v_ring, q_rope_tile, k_rope_ring,
    q_full, q_empty, k_full, k_empty, v_full, v_empty, WHO: gl.constexpr, NUM_HEADS: gl.constexpr,
    BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, ROPE: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
    WINDOW: gl.constexpr, RETURN_LSE: gl.constexpr, LATE_ROUNDING: gl.constexpr,
):  # fmt: skip
    """Consumer WHO, 0 or 1: a warpgroup with queries [WHO * 64, WHO * 64 + 64) of every item."""
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    had_items, had_tiles = 0, 0
    for turn in range(num_turns):
        first_q, num_queries, _first_kv, num_keys, first_position, right, whole, left, head = _find_item(items, turn)
        query = WHO * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, SCORES))
        position = gl.minimum(first_position + query, num_keys - 1)  # past the last query: any
        acc = gl.zeros([ROWS, HEAD_DIM], gl.float32, ACC)
        maximum = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
        total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, SCORES))
        if right + whole + left > 0:
            mbarrier.wait(q_full, had_items & 1)
            had_items += 1
            acc, maximum, total, had_tiles = _attend(
                acc, maximum, total, had_tiles, right, whole, left,
                _last_key(num_keys, first_position, BLOCK_N, CAUSAL), position, num_keys, scale_log2,
                q_tile.index(WHO), k_ring, v_ring, q_rope_tile.index(WHO), k_rope_ring,
                q_empty, k_full, k_empty, v_full, v_empty, out.dtype.element_ty, STAGES, BLOCK_N, ROPE, CAUSAL, WINDOW,
                SCORES, LATE_ROUNDING,
            )  # fmt: skip
        _store(acc, maximum, total, out, lse, first_q, head, num_queries, WHO, NUM_HEADS, HEAD_DIM, RETURN_LSE)


@gluon.jit
def _store(
    acc, maximum, total, out, lse, first_q, head, num_queries,
    WHO: gl.constexpr, NUM_HEADS: gl.constexpr, HEAD_DIM: gl.constexpr, RETURN_LSE: gl.constexpr,
):  # fmt: skip
    """Divide by the sum and write; a query that has seen nothing gets 0 and -inf."""
    ACC: gl.constexpr = acc.type.layout
    seen = total > 0
    factor = gl.where(seen, 1.0 / gl.where(seen, total, 1.0), 0.0)
    values = acc * gl.convert_layout(factor, gl.SliceLayout(1, ACC))[:, None]
    query = WHO * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, ACC))
    at = ((first_q + query).to(gl.int64) * NUM_HEADS + head) * HEAD_DIM
    pointers = (out + at)[:, None] + gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, ACC))[None, :]
    gl.store(pointers, values.to(out.dtype.element_ty), mask=(query < num_queries)[:, None])
    if RETURN_LSE:
        row_lse = gl.where(seen, (maximum + gl.log2(gl.where(seen, total, 1.0))) * LN_2, float("-inf"))
        query = WHO * ROWS + gl.arange(0, ROWS, layout=total.type.layout)
        at = (first_q + query).to(gl.int64) * NUM_HEADS + head
        gl.store(lse + at, row_lse, mask=query < num_queries)


@gluon.jit
def _barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """COUNT barriers, whose phases take ARRIVALS to complete."""
    barriers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(barriers.index(i), count=ARRIVALS)
    return barriers


@gluon.jit
def prefill_hopper(
    q, k, v, q_rope, k_rope, items, num_turns, out, lse, scale_log2,
    NUM_HEADS: gl.constexpr, NUM_KV_HEADS: gl.constexpr, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr,
    ROPE: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr, WINDOW: gl.constexpr, RETURN_LSE: gl.constexpr,
    LATE_ROUNDING: gl.constexpr,
):  # fmt: skip
    """Program i: `items` [num_turns, programs, ITEM_FIELDS] at i. Without ROPE `q_rope` and `k_rope` are not used."""
    q_tile = gl.allocate_shared_memory(q.dtype, [2, ROWS, HEAD_DIM], q.layout)
    k_ring = gl.allocate_shared_memory(k.dtype, [STAGES, BLOCK_N, HEAD_DIM], k.layout)
    v_ring = gl.allocate_shared_memory(v.dtype, [STAGES, BLOCK_N, HEAD_DIM], v.layout)
    q_rope_tile = q_tile
    k_rope_ring = k_ring
    if ROPE > 0:
        q_rope_tile = gl.allocate_shared_memory(q.dtype, [2, ROWS, ROPE], q_rope.layout)
        k_rope_ring = gl.allocate_shared_memory(k.dtype, [STAGES, BLOCK_N, ROPE], k_rope.layout)
    q_full, q_empty = _barriers(1, 1).index(0), _barriers(1, 2).index(0)
    k_full, k_empty = _barriers(STAGES, 1), _barriers(STAGES, 2)
    v_full, v_empty = _barriers(STAGES, 1), _barriers(STAGES, 2)
    gl.warp_specialize(
        [
            (_consume, (
                items, num_turns, out, lse, scale_log2, q_tile, k_ring, v_ring, q_rope_tile, k_rope_ring,
                q_full, q_empty, k_full, k_empty, v_full, v_empty, 0, NUM_HEADS, BLOCK_N, HEAD_DIM, ROPE,
                STAGES, CAUSAL, WINDOW, RETURN_LSE, LATE_ROUNDING,
            )),
            (_consume, (
                items, num_turns, out, lse, scale_log2, q_tile, k_ring, v_ring, q_rope_tile, k_rope_ring,
                q_full, q_empty, k_full, k_empty, v_full, v_empty, 1, NUM_HEADS, BLOCK_N, HEAD_DIM, ROPE,
                STAGES, CAUSAL, WINDOW, RETURN_LSE, LATE_ROUNDING,
            )),
            (_produce, (
                q, k, v, q_rope, k_rope, items, num_turns, q_tile, k_ring, v_ring, q_rope_tile, k_rope_ring,
                q_full, q_empty, k_full, k_empty, v_full, v_empty, NUM_HEADS, NUM_KV_HEADS,
                BLOCK_N, HEAD_DIM, ROPE, STAGES, CAUSAL,
            )),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
