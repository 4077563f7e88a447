"""Tiles of the Triton kernels, as chosen by hand: pure functions of a problem's shape and a `Device`, never of slots.

All of these kernels move bytes and compute next to nothing. With many tokens what counts is how many bytes are on
their way to each SM at once: the data sheet's 4.8 TB/s are 36 KB an SM for every microsecond that an access takes, and
tiles of 8 KB by 128 threads leave registers for six programs and more beside each other. With few tokens it is how soon
all SMs have enough to do: tiles shrink until there are eight programs for each, and warps with them, so that a thread
still moves 16 bytes at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device

BYTES_PER_THREAD = 64
"""Read by a thread at most: four accesses of 16 bytes, all under way at once."""
VECTOR_BYTES = 16
PROGRAMS_PER_SM = 8
"""Fewer, and the tile shrinks."""
MAX_WARPS = 4


@dataclass(frozen=True)
class RowsPlan:
    """A tile of the kernels that rotate and append: so many tokens, so many heads of each."""

    block_tokens: int
    block_heads: int
    num_warps: int
    token_first: bool = False
    """Whether neighbouring programs have the same heads of neighbouring tokens, not neighbouring heads."""
    load_policy: str = ""
    """Eviction policy of rows, which are read once."""
    store_modifier: str = ""
    """Cache modifier of rows that are written."""


@dataclass(frozen=True)
class GatherPlan:
    """A tile of the kernel that gathers: so many tokens, whole."""

    block_tokens: int
    seq_block: int
    """Sequences whose ends are looked at in one step of the search for a token's own."""
    num_warps: int
    column_parts: int = 1
    """Programs that share the rows of a block of tokens."""
    load_policy: str = ""
    """Eviction policy of rows, which are read once."""
    store_modifier: str = ""
    """Cache modifier of rows that are written."""


POLICIES = ("", "evict_first")
"""Eviction policies that a search may choose."""
MODIFIERS = ("", ".cs", ".wt")
"""Cache modifiers of stores that a search may choose."""


def rows_plan(tokens: int, heads: int, row_bytes: int, device: Device) -> RowsPlan:
    """`heads` of `row_bytes` each for every token: the largest tile that keeps every SM busy."""
    block_heads = min(next_power_of_2(heads), 8 if row_bytes > 128 else 16)
    block_tokens = max(1, MAX_WARPS * device.warp_size * BYTES_PER_THREAD // (block_heads * next_power_of_2(row_bytes)))
    wanted = PROGRAMS_PER_SM * device.num_sms
    block_tokens = min(block_tokens, next_power_of_2(tokens))
    while block_tokens > 1 and cdiv(tokens, block_tokens) * cdiv(heads, block_heads) < wanted:
        block_tokens //= 2
    while block_heads > 2 and cdiv(tokens, block_tokens) * cdiv(heads, block_heads) < wanted:
        block_heads //= 2
    return RowsPlan(block_tokens, block_heads, warps(block_tokens * block_heads * row_bytes, device))


def gather_plan(tokens: int, batch: int, row_bytes: int, device: Device) -> GatherPlan:
    """Rows are long: four of them make a tile where there are tokens enough."""
    block_tokens = max(1, MAX_WARPS * device.warp_size * BYTES_PER_THREAD // next_power_of_2(row_bytes))
    while block_tokens > 1 and cdiv(tokens, block_tokens) < PROGRAMS_PER_SM * device.num_sms:
        block_tokens //= 2
    return GatherPlan(block_tokens, min(128, next_power_of_2(batch)), warps(block_tokens * row_bytes, device))


def warps(tile_bytes: int, device: Device) -> int:
    """As many as read the tile by two vectors a thread."""
    return min(MAX_WARPS, next_power_of_2(max(1, tile_bytes // (2 * VECTOR_BYTES * device.warp_size))))


def cdiv(a: int, b: int) -> int:
    """Quotient, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least that is not smaller; at least 1."""
    return 1 << max(0, n - 1).bit_length()
