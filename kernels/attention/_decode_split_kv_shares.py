"""How the tiles of all sequences, laid end to end, are shared among programs: on the device, from lengths alone.

Parts are equal, so that a batch of any lengths takes all programs the same time; a captured graph replays with other
lengths. Programs of one size do not take quite the same time, for SMs do not: where parts are long, the last eighth of
the tiles is cut into TAIL_PARTS smaller ones, which go to the SMs that are done first.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tiles_of_sequences(seq_lens, batch, BATCH_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tiles in every sequence [BATCH_BLOCK], 0 past the batch."""
    sequence = tl.arange(0, BATCH_BLOCK)
    return tl.cdiv(tl.load(seq_lens + sequence, mask=sequence < batch, other=0), BLOCK_N)


@triton.jit
def part_sizes(total_tiles, NUM_PARTS: tl.constexpr, TAIL_PARTS: tl.constexpr, MIN_TILES: tl.constexpr):
    """Tiles in each of the first NUM_PARTS parts, and in each of the TAIL_PARTS after them."""
    if TAIL_PARTS == 0:
        large = tl.maximum(tl.cdiv(total_tiles, NUM_PARTS), MIN_TILES)
        small = large
    else:
        large = tl.maximum((total_tiles - total_tiles // 8) // NUM_PARTS, MIN_TILES)
        small = tl.maximum(tl.cdiv(total_tiles - large * NUM_PARTS, TAIL_PARTS), MIN_TILES)
    return large, small


@triton.jit
def part_bounds(part, total_tiles, NUM_PARTS: tl.constexpr, TAIL_PARTS: tl.constexpr, MIN_TILES: tl.constexpr):
    """[first, last) of all tiles; empty where there are too few."""
    large, small = part_sizes(total_tiles, NUM_PARTS, TAIL_PARTS, MIN_TILES)
    first = tl.minimum(part, NUM_PARTS) * large + tl.maximum(part - NUM_PARTS, 0) * small
    size = tl.where(part < NUM_PARTS, large, small)
    return first, tl.minimum(first + size, total_tiles)


@triton.jit
def part_of(tile, total_tiles, NUM_PARTS: tl.constexpr, TAIL_PARTS: tl.constexpr, MIN_TILES: tl.constexpr):
    """The part that a tile is in."""
    large, small = part_sizes(total_tiles, NUM_PARTS, TAIL_PARTS, MIN_TILES)
    in_tail = tile - NUM_PARTS * large
    return tl.where(in_tail < 0, tile // large, NUM_PARTS + tl.maximum(in_tail, 0) // small)
