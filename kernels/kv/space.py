"""What a search may choose for this family: tiles, their order and how their rows are cached on the way."""

from __future__ import annotations

from collections.abc import Mapping

from ..device import Device
from ..space import Space, Value
from . import _gather_plan, _mla_append_plan, _rope_append_plan
from ._plan import MODIFIERS, POLICIES, VECTOR_BYTES, GatherPlan, RowsPlan, cdiv, next_power_of_2
from .problem import KV_LORA_RANK, QK_ROPE_HEAD_DIM, Append, Gather, MLAAppend, Rope, RopeAppend

MOST_BYTES_PER_THREAD = 256
"""Read before anything is written: 64 registers, and as many for what becomes of them."""

ROPE_APPEND_ABOUT = """RoPE, the append to a paged cache, and both in one launch, in Triton.

A program owns some heads of keys, values or queries of some tokens. It reads its tile once, turns it in registers,
scales and rounds what goes to an e4m3 cache, and writes it once. A negative slot masks its token's stores. Neox pairs
are two tiles of half a head with the same layout; interleaved ones are one tile whose pairs lie in one thread: neither
exchanges values between threads.
"""
MLA_APPEND_ABOUT = """MLA's RoPE and append in one launch, in Triton.

Of every block of tokens one program writes the cache rows, the others turn some heads of the queries each. Tiles are
read once and written once; what goes to an e4m3 cache is scaled and rounded in registers.
"""
GATHER_ABOUT = """Gather of a paged cache, in Triton: programs own equal blocks of output tokens, whatever the lengths.

Each token finds its sequence by counting the ends at or below it, then its page; its row is copied by 16 bytes.
"""


def _rows_values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return {
        "block_tokens": (1, 2, 4, 8, 16, 32),
        "block_heads": (1, 2, 4, 8, 16, 32),
        "num_warps": (1, 2, 4, 8),
        "token_first": (False, True),
        "load_policy": POLICIES,
        "store_modifier": MODIFIERS,
    }


def _gather_values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return {
        "block_tokens": (1, 2, 4, 8, 16, 32, 64),
        "seq_block": (8, 16, 32, 64, 128),
        "num_warps": (1, 2, 4, 8),
        "column_parts": (1, 2, 4),
        "load_policy": POLICIES,
        "store_modifier": MODIFIERS,
    }


def _why_not_tile(tile_bytes: int, num_warps: int, programs: int, device: Device) -> str | None:
    a_thread = tile_bytes // (num_warps * device.warp_size)
    if a_thread < VECTOR_BYTES:
        return f"a thread reads {a_thread} bytes, and can {VECTOR_BYTES} at a time"
    if a_thread > MOST_BYTES_PER_THREAD:
        return f"a thread holds {a_thread} bytes"
    if programs < device.num_sms and tile_bytes > VECTOR_BYTES * device.warp_size:
        return f"{programs} programs leave SMs idle, and have what could be parted"
    return None


def _why_not_rows(tokens: int, heads: int, most_heads: int, tile: RowsPlan) -> str | None:
    if tile.block_tokens > next_power_of_2(tokens):
        return f"there are {tokens} tokens, and a tile of {tile.block_tokens}"
    if tile.block_heads > next_power_of_2(most_heads):
        return f"there are {most_heads} heads, and a tile of {tile.block_heads}"
    if tile.token_first and cdiv(heads, tile.block_heads) == 1:
        return "with one block of heads there is one order"
    return None


def _why_not_rope_append(problem: RopeAppend | Append | Rope, tile: RowsPlan, device: Device) -> str | None:
    heads = _rope_append_plan.heads_of(problem)
    most_heads = max(getattr(problem, "num_heads", 0), problem.num_kv_heads)
    row_bytes = problem.head_dim * 2
    programs = cdiv(problem.tokens, tile.block_tokens) * cdiv(heads, tile.block_heads)
    return _why_not_rows(problem.tokens, heads, most_heads, tile) or _why_not_tile(
        tile.block_tokens * tile.block_heads * row_bytes, tile.num_warps, programs, device
    )


def _why_not_mla_append(problem: MLAAppend, tile: RowsPlan, device: Device) -> str | None:
    programs = cdiv(problem.tokens, tile.block_tokens) * (1 + cdiv(problem.num_heads, tile.block_heads))
    latent_bytes = tile.block_tokens * KV_LORA_RANK * 2 // (tile.num_warps * device.warp_size)
    if latent_bytes > MOST_BYTES_PER_THREAD:
        return f"a thread holds {latent_bytes} bytes of latent rows"
    return _why_not_rows(problem.tokens, problem.num_heads, problem.num_heads, tile) or _why_not_tile(
        tile.block_tokens * tile.block_heads * QK_ROPE_HEAD_DIM * 2, tile.num_warps, programs, device
    )


def _why_not_gather(problem: Gather, tile: GatherPlan, device: Device) -> str | None:
    parts = tile.column_parts
    if parts > 1 and problem.width % (16 * parts):
        return f"{parts} parts of {problem.width} columns are no multiple of 16 bytes"
    if tile.seq_block > max(8, next_power_of_2(problem.batch)):
        return f"there are {problem.batch} sequences, and {tile.seq_block} are looked at in a step"
    bytes_of_part = tile.block_tokens * _gather_plan.row_bytes(problem) // parts
    programs = cdiv(problem.tokens, tile.block_tokens) * parts
    return _why_not_tile(bytes_of_part, tile.num_warps, programs, device)


SPACES = (
    Space(
        template="triton_gather",
        what="gather",
        about=GATHER_ABOUT,
        choice=GatherPlan,
        values=_gather_values,
        why_not=_why_not_gather,
        choice_for=_gather_plan.choice_for,
        plan_from=_gather_plan.plan_from,
        facts=_gather_plan.facts,
        tasks=("gather",),
    ),
    Space(
        template="triton_rope_append",
        what="rope_append",
        about=ROPE_APPEND_ABOUT,
        choice=RowsPlan,
        values=_rows_values,
        why_not=_why_not_rope_append,
        choice_for=_rope_append_plan.choice_for,
        plan_from=_rope_append_plan.plan_from,
        facts=_rope_append_plan.facts,
        tasks=("rope_append", "append", "rope"),
    ),
    Space(
        template="triton_mla_append",
        what="mla_append",
        about=MLA_APPEND_ABOUT,
        choice=RowsPlan,
        values=_rows_values,
        why_not=_why_not_mla_append,
        choice_for=_mla_append_plan.choice_for,
        plan_from=_mla_append_plan.plan_from,
        facts=_mla_append_plan.facts,
        tasks=("mla_append",),
    ),
)
