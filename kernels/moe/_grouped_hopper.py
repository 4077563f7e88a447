"""The experts' products in Gluon for Hopper: warpgroups that multiply, and a warp that fetches for them by TMA.

A persistent program walks over tiles: 192 rows of one expert and 2 * 128 rows of its weights. Each of three
consumers, a warpgroup, owns 64 of the rows, and two accumulators [64, 128]: gate and up, or two blocks of columns. A
consumer whose rows the expert does not have rests, so that a tile costs what its rows need. Rows must lie sorted by
expert. A stage has two barriers: `full`, which TMA completes, and `empty`, at which all consumers arrive.

WIDE: a tile has 128 rows, and each of two consumers one accumulator [64, 256], so that it reads its rows from shared
memory once a step. Instructions of 256 columns need more registers than a thread of four warpgroups has.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ._list_triton import TILE_FIELDS

# Renamed after Triton 3.6.
tma_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier
_descriptor_type = gl.shared_memory_descriptor
reinterpret = getattr(_descriptor_type, "reinterpret", None) or _descriptor_type._reinterpret  # noqa: SLF001

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
    x, weight, tiles, num_tiles, x_ring, weight_ring, full, empty,
    STEPS: gl.constexpr, EXPERT_ROWS: gl.constexpr, BLOCK_ROWS: gl.constexpr, SECOND: gl.constexpr,
    UNITS: gl.constexpr,
):  # fmt: skip
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
    had_steps, x_ring, weight_ring, full, empty,
    WHO: gl.constexpr, UNITS: gl.constexpr, STEPS: gl.constexpr, ACC: gl.constexpr,
):  # fmt: skip
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
    had_steps, x_ring, weight_ring, full, empty,
    WHO: gl.constexpr, UNITS: gl.constexpr, STEPS: gl.constexpr, ACC: gl.constexpr,
):  # fmt: skip
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
    tiles, num_tiles, out_rows, out, x_ring, weight_ring, full, empty,
    WHO: gl.constexpr, STEPS: gl.constexpr, OUT_COLUMNS: gl.constexpr, GATED: gl.constexpr, SCATTERS: gl.constexpr,
    UNITS: gl.constexpr, WIDE: gl.constexpr,
):  # fmt: skip
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
    x, weight, tiles, num_tiles, out_rows, out,
    STEPS: gl.constexpr, EXPERT_ROWS: gl.constexpr, OUT_COLUMNS: gl.constexpr, GATED: gl.constexpr,
    SCATTERS: gl.constexpr, WIDE: gl.constexpr, DEPENDENT_LAUNCH: gl.constexpr,
):  # fmt: skip
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
                (_consume, (tiles, num_tiles, out_rows, out, x_ring, weight_ring, full, empty,
                            0, STEPS, OUT_COLUMNS, GATED, SCATTERS, UNITS, WIDE)),
                (_consume, (tiles, num_tiles, out_rows, out, x_ring, weight_ring, full, empty,
                            1, STEPS, OUT_COLUMNS, GATED, SCATTERS, UNITS, WIDE)),
                (_produce, (x, weight, tiles, num_tiles, x_ring, weight_ring, full, empty,
                            STEPS, EXPERT_ROWS, BLOCK_ROWS, SECOND, UNITS)),
            ],
            [4, 1],
            [WIDE_CONSUMER_REGISTERS, PRODUCER_REGISTERS],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (_consume, (tiles, num_tiles, out_rows, out, x_ring, weight_ring, full, empty,
                            0, STEPS, OUT_COLUMNS, GATED, SCATTERS, UNITS, WIDE)),
                (_consume, (tiles, num_tiles, out_rows, out, x_ring, weight_ring, full, empty,
                            1, STEPS, OUT_COLUMNS, GATED, SCATTERS, UNITS, WIDE)),
                (_consume, (tiles, num_tiles, out_rows, out, x_ring, weight_ring, full, empty,
                            2, STEPS, OUT_COLUMNS, GATED, SCATTERS, UNITS, WIDE)),
                (_produce, (x, weight, tiles, num_tiles, x_ring, weight_ring, full, empty,
                            STEPS, EXPERT_ROWS, BLOCK_ROWS, SECOND, UNITS)),
            ],
            [4, 4, 1],
            [CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS],
        )  # fmt: skip
