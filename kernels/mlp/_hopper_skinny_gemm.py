"""`_skinny_gemm` in Gluon for Hopper: a ring of shared memory whose first round is fetched before x is there.

What only Gluon can say is when a program waits for the kernel ahead of it: between its first STAGES weight tiles, which
are then on their way to shared memory, and its first tile of x. Weight rows are wgmma's rows, tokens its columns. For
products without ROPE; parts of K are added up as there.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# Renamed after Triton 3.6.
tma_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier


@gluon.jit
def _sums(
    x, weight, first_row, second_row, begin, count, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr, STAGES: gl.constexpr, WAITS: gl.constexpr,
):  # fmt: skip
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
    x, weight, out, residual, partial, counters, next_counters, num_next_counters, M,
    N: gl.constexpr, K: gl.constexpr, GATED: gl.constexpr, HAS_RESIDUAL: gl.constexpr, SPLITS: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr, BLOCK_C: gl.constexpr,
    WAITS: gl.constexpr,
):  # fmt: skip
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
    first, second = _sums(x, weight, first_row, second_row, begin, count, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, WAITS)
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
    values, first_column, out, residual, M, N: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_M: gl.constexpr,
    HAS_RESIDUAL: gl.constexpr,
):  # fmt: skip
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
