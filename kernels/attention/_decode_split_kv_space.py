"""What a search may choose for paged decode and trees: all launch decisions of `decode_split_kv`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ..device import Device
from ..problem import Inputs
from ..space import Space, Value, Work, mfma_values, why_not_mfma
from ._decode_split_kv_plan import COMBINE_VALUES, Tile, choice_for, facts, padded_head_dim, plan_from, tokens_of_tile
from .problem import PagedDecode, TreeDecode

MIN_TOKENS = 128
"""`Tile.min_tokens` where it decides nothing."""
LEAST_IN_FLIGHT = 64 * 1024
"""Bytes of tiles on their way to an SM, at least: 4.8 TB/s are 36 KB a microsecond for each of 132 SMs."""
MOST_REGISTERS = 208
"""Of a thread, for the accumulator, the scores and the sums: 255 is what NVIDIA's instructions can name. CDNA has 512,
half of them for accumulation."""

ABOUT = """Paged decode and tree attention in Triton: split-KV over shares of all tokens, then combine.

With query head h, its KV head h // (num_heads / num_kv_heads), softmax scale a and the scales of an 8-bit cache:

    K = k_scale * k_cache    V = v_scale * v_cache
    out = softmax(a * q . K^T) . V        lse = ln sum exp(a * q . K^T)

The query heads of one KV head and the queries of a sequence are rows, `seq_len_q * group` of them: they share every
token that is loaded. A program owns a block of rows of one KV head and walks over tiles of tokens, which may span
several pages; their numbers are loaded one tile ahead. An 8-bit cache is converted to float16, exactly, and so is q.

Sequences of which whole ones fill the device have a program each. Otherwise the tiles of all sequences are laid end to
end and cut into equal parts, one a program; every program finds its part from `seq_lens` on the device. A sequence that
lies within one part is written at once. Of the others each part writes a partial result, divided by its own softmax
sum, and `combine` weighs them by their log-sum-exp, in base 2:

    out = sum_i 2^(lse_i - m) out_i / sum_i 2^(lse_i - m)        m = max_i lse_i
"""


def _values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    is_amd = device.kind == "hip"
    return {
        "block_h": (16, 32, 64, 128),
        "block_n": (16, 32, 64, 128) if is_amd else (32, 64, 128),
        "num_warps": (2, 4, 8) if is_amd else (4, 8),
        "num_stages": (1, 2) if is_amd else (2, 3, 4, 5, 6),
        "programs_per_sm": (1, 2, 3, 4),
        "min_tokens": (MIN_TOKENS, 256),
        "whole": (False, True),
        "late_sum": (False, True),
        "peel": (False, True),
        "combine_values": (4096, COMBINE_VALUES),
        "dependent_launch": (device.compute_capability >= 90,),
        "waves_per_eu": (0, 1, 2, 3) if is_amd else (0,),
        **mfma_values(device),
    }


def _why_not(problem: PagedDecode, tile: Tile, device: Device) -> str | None:
    rows = problem.seq_len_q * problem.group
    is_tree = isinstance(problem, TreeDecode)
    if tile.block_h > 16 and tile.block_h >= 2 * rows:
        return f"half of the {tile.block_h} rows of a block would be empty: there are {rows}"
    if tile.block_h < min(rows, 64):
        return f"{rows} rows in blocks of {tile.block_h} read every token more often than in larger ones"
    if tile.peel and is_tree:
        return "the tiles of a tree that every row sees whole have a loop of their own in any case"
    if tile.late_sum and tile.block_h > 32:
        return f"the sums of {tile.block_h} rows would take as many registers as the scores"
    return (
        why_not_mfma(tile.matrix_instr_nonkdim, tile.block_h, tile.block_n)
        or _why_not_tile(problem, tile, device)
        or _why_not_split(problem, tile, device)
    )


def _why_not_tile(problem: PagedDecode, tile: Tile, device: Device) -> str | None:
    """What a program holds, and what is on its way to it."""
    if tile.block_h // 16 * tile.block_n // 8 < tile.num_warps:
        return f"{tile.num_warps} warps share {tile.block_h} x {tile.block_n} scores: fewer than 16 x 8 each"
    if tile.block_n != tokens_of_tile(problem, tile):
        return f"heads of {problem.head_dim} have {tokens_of_tile(problem, tile)} tokens in a tile"
    values = padded_head_dim(problem) + tile.block_n * (2 if tile.late_sum else 1)
    registers = tile.block_h * values // (tile.num_warps * device.warp_size)
    most = 2 * MOST_REGISTERS if device.kind == "hip" else MOST_REGISTERS
    if registers > most:
        return f"accumulator and scores alone take {registers} registers of a thread"
    if device.arch == "sm_90" and tile.block_h >= 64 and tile.num_warps * 16 > tile.block_h:
        return f"{tile.num_warps} warps for {tile.block_h} rows: a warp multiplies 16"
    in_flight = tile.block_n * 2 * padded_head_dim(problem) * (1 if problem.is_fp8 else 2) * max(1, tile.num_stages - 1)
    if in_flight > device.shared_memory_bytes:
        return f"{in_flight} bytes of shared memory for its tiles, of {device.shared_memory_bytes}"
    in_flight *= tile.programs_per_sm
    if in_flight > device.shared_memory_bytes:
        return f"{tile.programs_per_sm} programs an SM take {in_flight} bytes of shared memory for their tiles"
    if device.kind == "cuda" and tile.block_h <= 32 and in_flight < LEAST_IN_FLIGHT:
        return f"{in_flight} bytes on their way to an SM keep no memory busy"
    return None


def _why_not_split(problem: PagedDecode, tile: Tile, device: Device) -> str | None:
    """What is given out to programs, and how it is put together again."""
    plan = plan_from(problem, tile, device)
    columns = problem.num_kv_heads * math.ceil(problem.seq_len_q * problem.group / tile.block_h)
    if not tile.whole and plan_from(problem, replace(tile, whole=True), device).split:
        return "sequences are split in any case"
    if not plan.split:
        if (tile.min_tokens, tile.combine_values) != (MIN_TOKENS, COMBINE_VALUES):
            return "nothing is split nor combined"
        more = replace(tile, programs_per_sm=tile.programs_per_sm + 1)
        is_most = plan_from(problem, more, device).split or _why_not_tile(problem, more, device)
        return None if is_most else f"it is the same with {more.programs_per_sm} programs an SM"
    if tile.min_tokens < tile.block_n:
        return f"a part of {tile.min_tokens} tokens holds no whole tile of {tile.block_n}"
    slots = device.num_sms * tile.programs_per_sm
    if tile.min_tokens != MIN_TOKENS and plan.num_parts == max(1, slots // columns):
        return f"every part holds more than {tile.min_tokens} tokens in any case"
    return None


def _work(problem: PagedDecode, tile: Tile, device: Device) -> Work:
    """Rows are padded to blocks. What a part leaves to combine is written and read in fp32: about all rows of every
    part that does not end with its sequence."""
    rows = problem.seq_len_q * problem.group
    row_blocks = math.ceil(rows / tile.block_h)
    plan = plan_from(problem, tile, device)
    partial = rows * problem.num_kv_heads * (problem.head_dim + 1) * 4
    return Work(
        flops_factor=row_blocks * tile.block_h / rows * padded_head_dim(problem) / problem.head_dim,
        extra_bytes=2 * plan.num_parts * partial if plan.split else 0,
        reread_factor=row_blocks,
        hidden_launches=int(plan.split and tile.dependent_launch),
    )


def _drawn(problem: PagedDecode) -> Inputs:
    import torch

    lengths = {"seq_lens": torch.tensor(problem.drawn_lengths(), dtype=torch.int32)}
    if isinstance(problem, TreeDecode):
        from ._tree_inputs import drawn_parents, tree_mask

        parents = drawn_parents(problem.seq_len_q, torch.Generator().manual_seed(0))
        return {**lengths, "tree_mask": tree_mask(parents)}
    return lengths


DECODE = Space(
    template="decode_split_kv",
    what="decode_split_kv",
    about=ABOUT,
    choice=Tile,
    values=_values,
    why_not=_why_not,
    choice_for=choice_for,
    plan_from=plan_from,
    facts=facts,
    work=_work,
    drawn=_drawn,
    tasks=("decode", "tree"),
)
