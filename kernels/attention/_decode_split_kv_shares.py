"""How the tiles of all sequences, laid end to end, are shared among programs: on the device, from lengths alone.

Parts are equal, so that a batch of any lengths takes all programs the same time; a captured graph replays with other
lengths. Smaller parts at the end, for the SMs that are done first, cost more than they saved: H200, tuning, 64
sequences of 8192 tokens, 8 KV heads: 514 us, of equal parts 494.
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
def part_size(total_tiles, NUM_PARTS: tl.constexpr, MIN_TILES: tl.constexpr):
    """Tiles in each part; the last ones may hold fewer, or none."""
    return tl.maximum(tl.cdiv(total_tiles, NUM_PARTS), MIN_TILES)
