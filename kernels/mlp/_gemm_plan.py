"""Launch decisions of this family's products: pure functions of a product's shape and a `Device`. None is timed yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..device import Device

SKINNY_TOKENS = 64
"""Up to here all tokens are one tile, and the weight is read once."""
FUSED_NORM_TOKENS = 16
"""Up to here every program of a product norms all tokens itself: more would cost it more than a kernel for the norm."""
SKINNY_STEP_BYTES = 16384
"""Of the weight, in one step of a program; with four steps in flight two programs fit an SM."""
PREFETCHED_BYTES = 65536
"""Of a program's part of the weight, before the kernel ahead of it is through."""
VECTOR_TOKENS = 0
"""Up to here (0 or 1) `vector_gemm` multiplies. Not timed yet."""
VECTOR_TILES = {"swiglu": (4, 1024, 4), "plain": (2, 4096, 4), "rope": (64, 64, 4)}
"""Rows, columns of a step and warps of `vector_gemm`. A whole row of 3584 columns is one step. Not timed yet."""
STREAM_TOKENS = 0
"""Up to here (64 at most) `hopper_skinny_gemm` multiplies where the device has it. Not timed yet."""
STREAM_TILES = {8: (64, 4, 4, 3), 16: (64, 4, 4, 3), 32: (64, 4, 4, 2), 64: (64, 4, 4, 2)}
"""Columns, warps, stages and programs an SM of `hopper_skinny_gemm`, by its rows of tokens: the ring of a program is
what is on its way to it, 64 KB, and the programs of an SM fill its shared memory. Not timed yet."""
STREAM_BLOCK_K = 64
MOST_SPLITS = 8
LEAST_STEPS = 4
"""Of a part of K: fewer would not fill the pipeline."""


@dataclass(frozen=True)
class Product:
    """x [tokens, k] . weight^T, and what becomes of it: see `_gemm_epilogues`."""

    mode: str
    """`swiglu`, `plain` or `rope`."""
    tokens: int
    n: int
    """Columns of the output; for `rope` heads of q, k and v together."""
    k: int
    epsilon: float = 0.0
    has_residual: bool = False
    has_norm: bool = False
    """Whether heads of q and k are normed."""
    num_heads: int = 0
    num_kv_heads: int = 0
    half: int = 1
    """Half of a head."""

    @property
    def half_block(self) -> int:
        """`half`, rounded up to a power of two: columns of a tile that half a head takes."""
        return _next_power_of_2(self.half)

    @property
    def columns(self) -> int:
        """Columns of each of the two tiles over the whole product."""
        if self.mode == "rope":
            return self.n * self.half_block
        return self.n if self.mode == "swiglu" else math.ceil(self.n / 2)


@dataclass(frozen=True)
class GemmPlan:
    """What `vector_gemm`, `skinny_gemm` or `tile_gemm` is launched with."""

    product: Product
    skinny: bool
    block_m: int
    block_n: int
    block_k: int
    num_stages: int
    num_warps: int
    vector: bool = False
    """Whether x is one row and `vector_gemm` is launched (then `skinny` as well)."""
    norm_input: bool = False
    """Whether x is normed on the way (skinny only)."""
    splits: int = 1
    """Parts of K (skinny only)."""
    swap: bool = False
    """Whether the weight's rows are the matrix instruction's rows, and tokens its columns (skinny only)."""
    hopper: bool = False
    """Whether `hopper_skinny_gemm` is launched, which swaps and takes tiles by TMA (skinny only)."""
    prefetch_lines: int = 1
    """Of each weight row, 128 bytes each, ahead of a dependent launch's wait (skinny only)."""
    group_m: int = 16
    """Rows of tiles that are worked on together (tiles only)."""
    tma: bool = False
    """Whether operands come by tensor descriptors."""
    flatten: bool = False
    """Whether a tile's first loads are issued behind the last products of the one before. Not for `rope`: Triton 3.6
    cannot flatten a loop whose epilogue has branches with results."""
    num_programs: int = 1
    """Persistent programs (tiles only)."""
    dependent_launch: bool = False
    """Whether the device can launch a kernel before the one ahead has ended (NVIDIA, from sm_90)."""
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only."""

    @property
    def tiles_n(self) -> int:
        """Tiles over the weight's rows."""
        return math.ceil(self.product.columns / self.block_n)

    @property
    def num_counters(self) -> int:
        """Counters of parts that have arrived."""
        return self.tiles_n if self.splits > 1 else 0


def gemm_plan(product: Product, norm_input: bool, device: Device) -> GemmPlan:
    """`norm_input`: whether x is to be normed on the way where that pays."""
    if product.tokens <= VECTOR_TOKENS and device.kind != "cpu":
        return _vector_plan(product, norm_input, device)
    if product.tokens <= STREAM_TOKENS and product.mode != "rope" and product.k % 8 == 0 and _is_hopper(device):
        return _stream_plan(product, device)
    if product.tokens <= SKINNY_TOKENS:
        return _skinny_plan(product, norm_input, device)
    return _tile_plan(product, device)


def _is_hopper(device: Device) -> bool:
    return device.arch == "sm_90"


def _vector_plan(product: Product, norm_input: bool, device: Device) -> GemmPlan:
    """One token: rows of the weight for every program."""
    block_n, block_k, num_warps = VECTOR_TILES[product.mode]
    block_n = max(block_n, product.half_block) if product.mode == "rope" else block_n
    return GemmPlan(
        product=product,
        skinny=True,
        vector=True,
        block_m=1,
        block_n=block_n,
        block_k=min(block_k, _next_power_of_2(product.k)),
        num_stages=1,
        num_warps=num_warps,
        norm_input=norm_input,
        prefetch_lines=min(_next_power_of_2(math.ceil(product.k / 64)), max(1, PREFETCHED_BYTES // (256 * block_n))),
        dependent_launch=device.compute_capability >= 90,
    )


def _stream_plan(product: Product, device: Device) -> GemmPlan:
    """As many programs as the shared memory of all SMs holds rings."""
    block_m = max(8, _next_power_of_2(product.tokens))
    block_n, num_warps, num_stages, programs = STREAM_TILES[block_m]
    tiles = math.ceil(product.columns / block_n)
    return GemmPlan(
        product=product,
        skinny=True,
        hopper=True,
        swap=True,
        tma=True,
        block_m=block_m,
        block_n=block_n,
        block_k=STREAM_BLOCK_K,
        num_stages=num_stages,
        num_warps=num_warps,
        splits=max(1, min(programs * device.num_sms // tiles, math.ceil(product.k / STREAM_BLOCK_K) // LEAST_STEPS)),
        dependent_launch=True,
    )


def _skinny_plan(product: Product, norm_input: bool, device: Device) -> GemmPlan:
    """As many programs as are resident at once: two an SM. A wider tile of tokens gets more rows of the weight, or
    reading the tokens again and again would cost more than the weight itself."""
    block_m = max(16, _next_power_of_2(product.tokens))
    most_programs = 2 * device.num_sms
    block_n = max(block_m, product.half_block) if product.mode == "rope" else block_m
    while block_n < 64 and math.ceil(product.columns / block_n) > 1.5 * most_programs:
        block_n *= 2
    rows_bytes = 2 * 2 * block_n
    block_k = min(max(64, min(256, SKINNY_STEP_BYTES // rows_bytes)), max(16, _next_power_of_2(product.k)))
    tiles = math.ceil(product.columns / block_n)
    norm_input = norm_input and product.tokens <= FUSED_NORM_TOKENS
    splits = min(MOST_SPLITS, most_programs // tiles, math.ceil(product.k / block_k) // LEAST_STEPS)
    return GemmPlan(
        product=product,
        skinny=True,
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        num_stages=_skinny_stages(2 * block_k * (block_m + 2 * block_n), block_m, device),
        num_warps=4 if block_m * block_n <= 4096 else 8,
        norm_input=norm_input,
        splits=1 if norm_input else max(1, splits),
        prefetch_lines=min(_next_power_of_2(math.ceil(product.k / 64)), max(1, PREFETCHED_BYTES // (256 * block_n))),
        dependent_launch=device.compute_capability >= 90,
        backend_options=_backend_options(device),
    )


def _skinny_stages(step_bytes: int, block_m: int, device: Device) -> int:
    """Steps in flight, so that two programs fit an SM. One is in registers on AMD, and where few rows take mma.sync."""
    if device.kind == "hip":
        return 2 if device.shared_memory_bytes <= 64 * 1024 else 3
    in_registers = device.compute_capability < 90 or block_m < 64
    return max(2, min(5, device.shared_memory_bytes // (2 * step_bytes) + in_registers))


def _tile_plan(product: Product, device: Device) -> GemmPlan:
    """The largest tiles that give every SM one. TMA wants rows of a multiple of 16 bytes."""
    tma = device.compute_capability >= 90 and product.k % 8 == 0
    block_m, sizes, block_k, num_warps = _tile_shapes(device)
    if product.mode == "rope":
        sizes = (product.half_block,) if tma else tuple(n for n in sizes if n >= product.half_block) or sizes[:1]
        sizes = tuple(max(n, product.half_block) for n in sizes)
        tma = tma and product.half == product.half_block >= 16
    rows = math.ceil(product.tokens / block_m)
    fitting = (n for n in sizes if rows * math.ceil(product.columns / n) >= device.num_sms)
    block_n = next(fitting, sizes[-1])
    block_k = min(block_k, max(16, _next_power_of_2(product.k)))
    tiles = math.ceil(product.tokens / block_m) * math.ceil(product.columns / block_n)
    return GemmPlan(
        product=product,
        skinny=False,
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        num_stages=_tile_stages(2 * block_k * (block_m + 2 * block_n), 2 * block_m * block_n, device),
        num_warps=num_warps,
        tma=tma,
        flatten=tma and product.mode != "rope",
        num_programs=min(tiles, device.num_sms),
        dependent_launch=device.compute_capability >= 90,
        backend_options=_backend_options(device),
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


def _backend_options(device: Device) -> dict[str, int]:
    return {"matrix_instr_nonkdim": 16} if device.kind == "hip" and device.warp_size == 64 else {}


def _next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
