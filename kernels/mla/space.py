"""What a search may choose for MLA decode: all launch decisions of `triton_split_kv`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..device import Device
from ..problem import Inputs
from ..space import Space, Value, Work, mfma_values, why_not_mfma
from ._split_kv_plan import Tile, choice_for, facts, plan_from
from .problem import HEAD_DIM, KV_LORA_RANK, MLADecode

ACCUMULATOR_REGISTERS = 224
"""Most registers of a thread that the fp32 accumulator may take: 255 is what NVIDIA's instructions can name, and
scores, probabilities and addresses need some of them. CDNA has 512, half of them for accumulation."""

ABOUT = """MLA decode in Triton: split-KV over equal shares of all tokens, then combine.

With q = [q_latent | q_rope], a cache row c = [latent | rope] and the softmax scale a:

    out = softmax(a * q . c^T) . latent        lse = ln sum exp(a * q . c^T)

Queries of one sequence are rows, `seq_len_q * num_heads` of them, because all share one latent head. A program owns a
block of rows and walks over tiles of tokens. A tile is loaded once: as K for the scores and, its first 512 columns, as
V. The tiles of all sequences are laid end to end and cut into equal parts, one a program; every program finds its part
from `seq_lens` on the device. A sequence that lies within one part is written at once. Of the others each part writes a
partial result, divided by its own softmax sum, and `_combine` weighs them by their log-sum-exp, in base 2:

    out = sum_i 2^(lse_i - m) out_i / sum_i 2^(lse_i - m)        m = max_i lse_i
"""


def _values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    is_amd = device.kind == "hip"
    return {
        "block_h": (16, 32, 64, 128),
        "block_n": (16, 32, 64, 128),
        "num_warps": (2, 4, 8),
        "num_stages": (1, 2, 3, 4),
        "programs_per_sm": (1, 2, 3, 4),
        "min_tokens": (64, 128, 256, 512),
        "hopper": (False, True) if device.arch == "sm_90" else (False,),
        "combine_values": (4096, 8192, 16384),
        "dependent_launch": (False, True) if device.compute_capability >= 90 else (False,),
        "waves_per_eu": (0, 1, 2, 3, 4) if is_amd else (0,),
        **mfma_values(device),
    }


def _why_not(problem: MLADecode, tile: Tile, device: Device) -> str | None:
    rows = problem.seq_len_q * problem.num_heads
    is_fp8 = problem.kv_dtype != problem.dtype
    if tile.hopper:
        return _why_not_hopper(tile, is_fp8)
    if tile.block_h > 16 and tile.block_h >= 2 * rows:
        return f"half of the {tile.block_h} rows of a block would be empty: there are {rows}"
    threads = tile.num_warps * device.warp_size
    registers = tile.block_h * KV_LORA_RANK // threads
    most = 2 * ACCUMULATOR_REGISTERS if device.kind == "hip" else ACCUMULATOR_REGISTERS
    if registers > most:
        return f"the accumulator alone takes {registers} registers of a thread"
    tile_bytes = tile.block_n * HEAD_DIM * (1 if is_fp8 else 2)
    buffered_bytes = tile_bytes * max(1, tile.num_stages - 1)  # the stage that is computed on may lie in registers
    if buffered_bytes > device.shared_memory_bytes:
        return f"{buffered_bytes} bytes of shared memory for its tiles, of {device.shared_memory_bytes}"
    if tile.min_tokens < tile.block_n:
        return f"a part of {tile.min_tokens} tokens holds no whole tile of {tile.block_n}"
    return why_not_mfma(tile.matrix_instr_nonkdim, tile.block_h, tile.block_n)


def _why_not_hopper(tile: Tile, is_fp8: bool) -> str | None:
    if is_fp8:
        return "the Hopper kernel is for a 16-bit cache"
    if (tile.block_h, tile.block_n, tile.num_warps, tile.num_stages) != (64, 64, 4, 2):
        return "the Hopper kernel has tiles of 64 x 64, three groups of 4 warps and two buffers"
    if tile.programs_per_sm != 1:
        return "the Hopper kernel takes all shared memory of an SM"
    return None


def _work(problem: MLADecode, tile: Tile, device: Device) -> Work:
    """Rows are padded to blocks. What a part leaves to combine is written and read in fp32; about one row block of
    every part that does not end with its sequence."""
    rows = problem.seq_len_q * problem.num_heads
    row_blocks = math.ceil(rows / tile.block_h)
    state = plan_from(problem, tile, device)
    partial_bytes = 0 if state.num_parts <= 1 else 2 * state.num_parts * rows * (KV_LORA_RANK + 1) * 4
    return Work(
        flops_factor=row_blocks * tile.block_h / rows,
        extra_bytes=partial_bytes,
        reread_factor=row_blocks,
        hidden_launches=int(tile.dependent_launch),
    )


def _drawn(problem: MLADecode) -> Inputs:
    import torch

    return {"seq_lens": torch.tensor(problem._lengths(), dtype=torch.int32)}  # noqa: SLF001 - of the same family


SPACES = (
    Space(
        template="triton_split_kv",
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
        tasks=("decode",),
    ),
)
