"""Tiles of this family's products as chosen by hand: pure functions of a product's shape and a `Device`.

Figures are medians of the block of 8192 and 3584 on an H200, with cold L2; light is 37 us. Tiles of more than 64 tokens
and products with `rope` are not timed yet.
"""

from __future__ import annotations

import math

from ..device import Device
from ._gemm_plan import FEW_TOKENS, SKINNY_TOKENS, Product, Tile, columns_of
from ._rounding import next_power_of_2

RING_TOKENS = 16
"""Up to here `hopper_skinny_gemm` multiplies where the device has it. 16 tokens: 49.3 us against `skinny_gemm`'s 52.2;
64 tokens: 69.7 against 63.4."""
RING_BLOCK_K = 64
RING_STAGES = 6
"""Beside a second program on the SM. 16 tokens: 49.3 us; 4 beside two programs 53.1, 3 beside three 56.5."""
SKINNY_ROWS = 64
"""Of each of a program's two tiles of the weight: wgmma's rows. 64 tokens: 63.4 us, with 128 rows 67.3."""
SKINNY_STEPS = (128, 64)
"""Columns of a step, the first that two programs of an SM can hold two of. 16 tokens: 52.2 us, with 64 columns 53.1;
64 tokens: 63.4 and 65.1."""
PROGRAMS_PER_SM = 2
"""Of a product for few tokens: each reads all tokens and hands on its sums. 64 tokens, steps of 64 columns: 65.1 us,
with three 77.2. With 128 tokens the registers of an SM hold one."""
WHOLE_ROW = 4096
"""Up to here a row is one step of `vector_gemm`. One token: 4 rows by steps of 1024 columns in
the first product and 2 rows in one step in the second one take 43.9 us; 2 rows in the first and 4 in the second one, by
8 warps, 45.0; three stages, and 8 rows by steps of 512 in the second one, 46.1; the ring 45.7."""


def tile_by_hand(product: Product, device: Device) -> Tile:
    """By the number of tokens."""
    if product.tokens > FEW_TOKENS and not _is_skinny(product, device):
        return _tile(product, device)
    if product.rope:
        return _skinny_tile(product, device)
    if product.tokens == 1:
        return _vector_tile(product, device)
    if product.tokens <= RING_TOKENS and product.k % 8 == 0 and device.arch == "sm_90":
        return _ring_tile()
    return _skinny_tile(product, device)


def _is_skinny(product: Product, device: Device) -> bool:
    """Whether a program's registers hold the sums of all tokens: not on RDNA, and not of both halves of wide heads."""
    is_rdna = device.kind == "hip" and device.warp_size == 32
    return product.tokens <= SKINNY_TOKENS and product.half_block <= SKINNY_ROWS and not is_rdna


def _vector_tile(product: Product, device: Device) -> Tile:
    """Rows of the weight for every program."""
    whole = product.k <= WHOLE_ROW
    return Tile(
        block_n=2 if whole else 4,
        block_k=WHOLE_ROW if whole else 1024,
        num_stages=1,
        num_warps=4,
        vector=True,
        block_m=FEW_TOKENS,
        dependent_launch=device.compute_capability >= 90,
        matrix_instr_nonkdim=_nonkdim(device),
    )


def _ring_tile() -> Tile:
    return Tile(
        block_n=SKINNY_ROWS,
        block_k=RING_BLOCK_K,
        num_stages=RING_STAGES,
        num_warps=4,
        ring=True,
        block_m=FEW_TOKENS,
        programs_per_sm=PROGRAMS_PER_SM,
        tma=True,
        dependent_launch=True,
    )


def _skinny_tile(product: Product, device: Device) -> Tile:
    block_m = max(16, next_power_of_2(product.tokens))
    rows, programs_per_sm = SKINNY_ROWS, PROGRAMS_PER_SM
    if product.tokens > FEW_TOKENS and device.kind == "hip":  # many CUs want many tiles
        rows = SKINNY_ROWS // 2
    elif product.tokens > FEW_TOKENS:
        programs_per_sm = 1
    block_n = max(rows, product.half_block)
    column_bytes = 2 * (block_m + 2 * block_n)
    held = 2 * programs_per_sm * column_bytes
    block_k = next((k for k in SKINNY_STEPS if k * held <= device.shared_memory_bytes), SKINNY_STEPS[-1])
    block_k = _step(block_k, product)
    return Tile(
        block_n=block_n,
        block_k=block_k,
        num_stages=_skinny_stages(programs_per_sm * block_k * column_bytes, device),
        num_warps=4 if block_m * block_n <= 4096 else 8,
        block_m=FEW_TOKENS,
        programs_per_sm=programs_per_sm,
        tma=device.compute_capability >= 90,
        dependent_launch=device.compute_capability >= 90,
        matrix_instr_nonkdim=_nonkdim(device),
    )


def _step(block_k: int, product: Product) -> int:
    """No more columns than there are; few where rows begin at odd places: registers load their values singly."""
    return min(32 if product.k % 2 else block_k, max(16, next_power_of_2(product.k)))


def _skinny_stages(step_bytes: int, device: Device) -> int:
    """Steps in flight, of all programs of an SM together. One is in registers on AMD, and where mma.sync multiplies."""
    if device.kind == "hip":
        return 2 if device.shared_memory_bytes <= 64 * 1024 else 3
    in_registers = device.compute_capability < 90
    return max(2, min(5, device.shared_memory_bytes // step_bytes + in_registers))


def _tile(product: Product, device: Device) -> Tile:
    """Tiles of which each SM reads the fewest rows, of x and of the weight, until the last one ends."""
    tma = device.compute_capability >= 90 and product.k % 8 == 0
    block_m, sizes, block_k, num_warps = _tile_shapes(device)
    if product.rope:
        block_m = 64 if product.half_block > 64 else block_m  # 128 rows of both halves of such heads spill
        sizes = (product.half_block,) if tma else tuple(n for n in sizes if n >= product.half_block) or sizes[:1]
        sizes = tuple(max(n, product.half_block) for n in sizes)
    rows = math.ceil(product.tokens / block_m)

    def rows_of_sm(block_n: int) -> int:
        tiles = rows * math.ceil(columns_of(product) / block_n)
        return math.ceil(tiles / device.num_sms) * (block_m + 2 * block_n)

    block_n = min(sizes, key=rows_of_sm)
    block_k = _step(block_k, product)
    return Tile(
        block_n=block_n,
        block_k=block_k,
        num_stages=_tile_stages(2 * block_k * (block_m + 2 * block_n), 2 * block_m * block_n, device),
        num_warps=num_warps,
        tiled=True,
        block_m=block_m,
        programs_per_sm=1,
        flatten=True,
        tma=device.compute_capability >= 90,
        dependent_launch=device.compute_capability >= 90,
        matrix_instr_nonkdim=_nonkdim(device),
    )


def _tile_shapes(device: Device) -> tuple[int, tuple[int, ...], int, int]:
    """(rows of x, columns of each of both tiles from the best downwards, step of K, warps)."""
    if device.kind == "hip":
        if device.warp_size == 32:  # RDNA: half the registers for a warp
            return 64, (64, 32), 32, 8
        return 128, (128, 64, 32), 64, 8
    if device.compute_capability >= 90 and device.shared_memory_bytes > 200 * 1024:
        return 128, (128, 64, 32), 64, 8
    return 128, (64, 32), 64 if device.shared_memory_bytes > 150 * 1024 else 32, 8


def _tile_stages(step_bytes: int, epilogue_bytes: int, device: Device) -> int:
    """Steps in flight beside what the epilogue exchanges between threads."""
    if device.kind == "hip":
        return 2 if device.shared_memory_bytes < 3 * step_bytes else 3
    return max(2, min(5, (device.shared_memory_bytes - epilogue_bytes - 1024) // step_bytes))


def _nonkdim(device: Device) -> int:
    return 16 if device.kind == "hip" and device.warp_size == 64 else 0
