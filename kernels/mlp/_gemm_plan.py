"""Launch decisions of this family's products: pure functions of a product's shape and a `Device`.

Figures are medians of the block of 8192 and 3584 on an H200, with cold L2; light is 37 us. Tiles of more than 64 tokens
and products of mode `rope` are not timed yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..device import Device

SKINNY_TOKENS = 64
"""Up to here all tokens are one tile, and the weight is read once."""
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
with three 77.2."""
WHOLE_ROW = 4096
"""Up to here a row is one step of `vector_gemm`. One token: 4 rows by steps of 1024 columns in
the first product and 2 rows in one step in the second one take 43.9 us; 2 rows in the first and 4 in the second one, by
8 warps, 45.0; three stages, and 8 rows by steps of 512 in the second one, 46.1; the ring 45.7."""
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
    """What a product is launched with."""

    product: Product
    kernel: Literal["vector", "ring", "skinny", "tile"]
    """`vector_gemm`, `hopper_skinny_gemm`, `skinny_gemm` or `tile_gemm`."""
    block_m: int
    block_n: int
    block_k: int
    num_stages: int
    num_warps: int
    norm_input: bool = False
    """Whether x is normed on the way (vector only)."""
    splits: int = 1
    """Parts of K (ring and skinny only)."""
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
    if product.tokens > SKINNY_TOKENS:
        return _tile_plan(product, device)
    if product.mode == "rope":
        return _skinny_plan(product, device)
    if product.tokens == 1:
        return _vector_plan(product, norm_input, device)
    if product.tokens <= RING_TOKENS and product.k % 8 == 0 and device.arch == "sm_90":
        return _ring_plan(product, device)
    return _skinny_plan(product, device)


def _vector_plan(product: Product, norm_input: bool, device: Device) -> GemmPlan:
    """Rows of the weight for every program."""
    whole = product.k <= WHOLE_ROW
    return GemmPlan(
        product=product,
        kernel="vector",
        block_m=1,
        block_n=2 if whole else 4,
        block_k=_next_power_of_2(product.k) if whole else 1024,
        num_stages=1,
        num_warps=4,
        norm_input=norm_input,
        dependent_launch=device.compute_capability >= 90,
    )


def _ring_plan(product: Product, device: Device) -> GemmPlan:
    """Rings as deep as a part of K is long."""
    splits = _splits(product, SKINNY_ROWS, RING_BLOCK_K, device)
    return GemmPlan(
        product=product,
        kernel="ring",
        block_m=max(8, _next_power_of_2(product.tokens)),
        block_n=SKINNY_ROWS,
        block_k=RING_BLOCK_K,
        num_stages=min(RING_STAGES, math.ceil(product.k / RING_BLOCK_K) // splits),
        num_warps=4,
        splits=splits,
        tma=True,
        dependent_launch=True,
    )


def _skinny_plan(product: Product, device: Device) -> GemmPlan:
    """TMA wants rows of a multiple of 16 bytes, and for `rope` a tile that is half a head."""
    block_m = max(16, _next_power_of_2(product.tokens))
    block_n = max(SKINNY_ROWS, product.half_block) if product.mode == "rope" else SKINNY_ROWS
    column_bytes = 2 * (block_m + 2 * block_n)
    held = 2 * PROGRAMS_PER_SM * column_bytes
    block_k = next((k for k in SKINNY_STEPS if k * held <= device.shared_memory_bytes), SKINNY_STEPS[-1])
    block_k = min(block_k, max(16, _next_power_of_2(product.k)))
    return GemmPlan(
        product=product,
        kernel="skinny",
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        num_stages=_skinny_stages(block_k * column_bytes, device),
        num_warps=4 if block_m * block_n <= 4096 else 8,
        splits=_splits(product, block_n, block_k, device),
        tma=device.compute_capability >= 90
        and product.k % 8 == 0
        and (product.mode != "rope" or product.half == block_n),
        dependent_launch=device.compute_capability >= 90,
        backend_options=_backend_options(device),
    )


def _splits(product: Product, block_n: int, block_k: int, device: Device) -> int:
    """Parts of K, so that programs are as many as are resident at once."""
    programs, steps = PROGRAMS_PER_SM * device.num_sms, math.ceil(product.k / block_k)
    return max(1, min(MOST_SPLITS, programs // math.ceil(product.columns / block_n), steps // LEAST_STEPS))


def _skinny_stages(step_bytes: int, device: Device) -> int:
    """Steps in flight, so that two programs fit an SM. One is in registers on AMD, and where mma.sync multiplies."""
    if device.kind == "hip":
        return 2 if device.shared_memory_bytes <= 64 * 1024 else 3
    in_registers = device.compute_capability < 90
    return max(2, min(5, device.shared_memory_bytes // (PROGRAMS_PER_SM * step_bytes) + in_registers))


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
        kernel="tile",
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
