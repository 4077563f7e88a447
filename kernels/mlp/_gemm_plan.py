"""What follows from a choice of tiles for one of this family's products: pure functions, of a shape and a `Device`.

What was chosen by hand is in `_gemm_tiles`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..device import Device
from ._rounding import next_power_of_2

FEW_TOKENS = 64
"""Up to here all tokens are one tile, and the weight is read once."""
SKINNY_TOKENS = 128
"""Up to here they can be: `skinny_gemm` splits K where tiles are few, 56 for 132 SMs of 100 tokens x 18944 x 3584."""
MOST_SPLITS = 8
SPLIT_BYTES = 256 << 10
"""Most bytes of partial sums that the part which arrives last adds."""
LEAST_STEPS = 4
"""Of a part of K: fewer would not fill the pipeline."""


@dataclass(frozen=True)
class Product:
    """x [tokens, k] . weight^T, and what becomes of it: see `_gemm_epilogues`."""

    tokens: int
    n: int
    """Columns of the output; for `rope` heads of q, k and v together."""
    k: int
    gated: bool = False
    """Whether the product is SwiGLU's."""
    rope: bool = False
    """Whether its heads are normed and turned."""
    epsilon: float = 0.0
    has_residual: bool = False
    has_norm: bool = False
    """Whether heads of q and k are normed."""
    num_heads: int = 0
    num_kv_heads: int = 0
    half: int = 1
    """Half of a head."""
    half_block: int = 1
    """`half`, rounded up to a power of two: columns of a tile that half a head takes."""


@dataclass(frozen=True)
class Tile:
    """What is chosen of a product, rather than derived. Without `vector`, `ring` and `tiled` it is `skinny_gemm`'s."""

    block_n: int
    block_k: int
    num_stages: int
    num_warps: int
    vector: bool = False
    """Whether `vector_gemm` multiplies: one token only."""
    ring: bool = False
    """Whether `hopper_skinny_gemm` does: few tokens, on Hopper, where rows are a multiple of 16 bytes."""
    tiled: bool = False
    """Whether `tile_gemm` does."""
    block_m: int = 128
    """Tokens of a tile of `tile_gemm`."""
    programs_per_sm: int = 2
    """Of the kernels for few tokens, whose parts of K are as many; persistent ones of `tile_gemm`."""
    group_m: int = 16
    """Rows of tiles that are worked on together (tiles only)."""
    wide: bool = False
    """As `GemmPlan.wide`."""
    flatten: bool = False
    """As `GemmPlan.flatten`."""
    tma: bool = False
    """Whether operands come by tensor descriptors where rows are a multiple of 16 bytes."""
    prefetch: int = 1
    """As `GemmPlan.prefetch`."""
    dependent_launch: bool = False
    """As `GemmPlan.dependent_launch`."""
    matrix_instr_nonkdim: int = 0
    """AMD: rows of the matrix instruction; 0 leaves it to the compiler."""
    waves_per_eu: int = 0
    """AMD: waves that share a SIMD's registers; 0 leaves it to the compiler."""
    kpack: int = 1
    """AMD: vectors of K that a thread has beside each other, for one wide read from LDS."""


@dataclass(frozen=True)
class GemmPlan:
    """What a product is launched with."""

    product: Product
    vector: bool
    ring: bool
    tiled: bool
    block_m: int
    block_n: int
    block_k: int
    num_stages: int
    num_warps: int
    norm_input: bool
    """Whether x is normed on the way (vector only)."""
    splits: int
    """Parts of K (ring and skinny only)."""
    group_m: int
    wide: bool
    """Whether a program's two tiles of the weight are one operand (tiles by tensor descriptors only)."""
    tma: bool
    flatten: bool
    """Whether a tile's first loads are issued behind the last products of the one before. Not for `rope`: Triton 3.6
    cannot flatten a loop whose epilogue has branches with results."""
    tiles_n: int
    """Tiles over the weight's rows."""
    num_programs: int
    """Persistent programs (tiles only)."""
    prefetch: int
    """Lines of 128 bytes of every row of the weight that a dependent launch fetches to L2 ahead (skinny only)."""
    dependent_launch: bool
    """Whether the device can launch a kernel before the one ahead has ended (NVIDIA, from sm_90)."""
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only."""


def columns_of(product: Product) -> int:
    """Columns of each of the two tiles over the whole product."""
    if product.rope:
        return product.n * product.half_block
    return product.n if product.gated else math.ceil(product.n / 2)


def num_counters(plan: GemmPlan) -> int:
    """Counters of parts of K that have arrived."""
    return plan.tiles_n if plan.splits > 1 else 0


def gemm_plan(product: Product, tile: Tile, norm_input: bool, device: Device) -> GemmPlan:
    """`norm_input`: whether x is normed on the way. TMA wants rows of a multiple of 16 bytes, and for `rope` a tile
    that is half a head."""
    block_n = max(tile.block_n, product.half_block)
    tma = tile.tma and product.k % 8 == 0 and (not product.rope or product.half == block_n >= 16)
    ring = tile.ring and tma
    block_k = tile.block_k
    if tile.vector:
        block_k = min(block_k, next_power_of_2(product.k))
    elif not ring:
        block_k = min(block_k, max(16, next_power_of_2(product.k)))
    least_rows = 8 if ring else 16
    block_m = _block_m(product, tile, least_rows)
    tiles_n = math.ceil(columns_of(product) / block_n)
    splits = 1 if tile.vector or tile.tiled else _splits(product, tile, (block_m, block_n, block_k), device)
    num_stages = tile.num_stages
    if ring:  # rings as deep as a part of K is long
        num_stages = min(num_stages, math.ceil(product.k / block_k) // splits)
    return GemmPlan(
        product=product,
        vector=tile.vector,
        ring=ring,
        tiled=tile.tiled,
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        num_stages=num_stages,
        num_warps=tile.num_warps,
        norm_input=norm_input and tile.vector,
        splits=splits,
        group_m=tile.group_m,
        wide=tma and tile.wide,
        tma=tma,
        flatten=not product.rope and tma and tile.flatten,
        tiles_n=tiles_n,
        num_programs=min(math.ceil(product.tokens / block_m) * tiles_n, device.num_sms * tile.programs_per_sm),
        prefetch=tile.prefetch,
        dependent_launch=tile.dependent_launch,
        backend_options={
            "matrix_instr_nonkdim": tile.matrix_instr_nonkdim,
            "waves_per_eu": tile.waves_per_eu,
            "kpack": tile.kpack,
        }
        if device.kind == "hip"
        else {},
    )


def _block_m(product: Product, tile: Tile, least: int) -> int:
    """Tokens of a tile: all of them where they are few, rounded up to what a matrix instruction takes."""
    if tile.tiled:
        return tile.block_m
    return 1 if tile.vector else max(least, next_power_of_2(product.tokens))


def _splits(product: Product, tile: Tile, block: tuple[int, int, int], device: Device) -> int:
    """Parts of K, so that programs are as many as are resident at once."""
    block_m, block_n, block_k = block
    programs, steps = tile.programs_per_sm * device.num_sms, math.ceil(product.k / block_k)
    most = min(MOST_SPLITS, SPLIT_BYTES // (2 * block_m * block_n * 4), steps // LEAST_STEPS)
    return max(1, min(most, programs // math.ceil(columns_of(product) / block_n)))
