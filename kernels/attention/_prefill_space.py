"""What a search may choose for prefill in Triton: all launch decisions of `prefill_triton_flash`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..device import Device
from ..problem import Inputs
from ..space import Space, Value, Work, mfma_values, why_not_mfma
from ._prefill_choice import Tile, choice_for, facts, heads_that_fit, padded_head_dim
from .problem import AttentionPrefill

MOST_REGISTERS = 216
"""Of a thread, for the accumulator, the scores and the probabilities: 255 is what NVIDIA's instructions can name. CDNA
has 512, half of them for accumulation."""

ABOUT = """Attention prefill in Triton: flash attention over packed sequences, heaviest blocks of queries first.

With the softmax scale a, over the keys that a query sees:

    out = softmax(a * q . k^T) . v        lse = ln sum exp(a * q . k^T)

A program owns a block of queries of one head and walks over tiles of keys with an online softmax in base 2. Tiles that
every query of the block sees whole are taken without a mask; those that the diagonal, the window's edge or the
sequence's end cuts are taken in loops of their own. Blocks of queries are listed in order of falling work, so that the
device ends on the lightest. The heads are the fast dimension of the grid.

FlashAttention-2: arXiv 2307.08691; FlashAttention-3: arXiv 2407.08608.
"""


def _values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    is_amd = device.kind == "hip"
    return {
        "block_m": (64, 128, 256) if is_amd else (64, 128),
        "block_n": (32, 64, 128),
        "num_warps": (4, 8),
        "num_stages": (1, 2) if is_amd else (2, 3, 4),
        "tma": (False, True) if device.compute_capability >= 90 else (False,),
        "kv_heads_fastest": (False, True),
        "cache_mib": (0, 12, 24),
        "waves_per_eu": (0, 1, 2, 3) if is_amd else (0,),
        **mfma_values(device),
    }


def _why_not(problem: AttentionPrefill, tile: Tile, device: Device) -> str | None:
    if tile.block_m > 64 and tile.block_m >= 2 * problem.seq_len_q:
        return f"half of the {tile.block_m} queries of a block would be missing: there are {problem.seq_len_q}"
    if device.arch == "sm_90" and tile.num_warps * 16 != tile.block_m:
        return f"{tile.num_warps} warps for {tile.block_m} queries: a warpgroup multiplies 64"
    values = padded_head_dim(problem) + tile.block_n * 3 // 2  # probabilities are of 16 bits
    registers = tile.block_m * values // (tile.num_warps * device.warp_size)
    most = 2 * MOST_REGISTERS if device.kind == "hip" else MOST_REGISTERS
    if registers > most:
        return f"accumulator and scores alone take {registers} registers of a thread"
    row_bytes = 2 * padded_head_dim(problem)
    buffers = tile.num_stages if device.compute_capability >= 90 else max(1, tile.num_stages - 1)
    shared_bytes = row_bytes * (tile.block_m + 2 * tile.block_n * buffers)
    if device.kind == "hip":  # q stays in registers, and v's tile takes the place of k's
        shared_bytes = row_bytes * tile.block_n * buffers
    if shared_bytes > device.shared_memory_bytes:
        return f"{shared_bytes} bytes of shared memory for its tiles, of {device.shared_memory_bytes}"
    if tile.kv_heads_fastest and problem.group == 1:
        return "every query head has a KV head of its own"
    return why_not_mfma(tile.matrix_instr_nonkdim, tile.block_m, tile.block_n) or _why_not_cache(problem, tile)


def _why_not_cache(problem: AttentionPrefill, tile: Tile) -> str | None:
    if not tile.cache_mib:
        return None
    at_once = heads_that_fit(problem, tile)
    if at_once == problem.num_heads:
        return f"keys and values of all heads fit {tile.cache_mib} MiB"
    if tile.cache_mib > 12 and at_once == heads_that_fit(problem, replace(tile, cache_mib=12)):
        return f"as many heads' keys fit 12 MiB as {tile.cache_mib}"
    return None


def _work(problem: AttentionPrefill, tile: Tile, device: Device) -> Work:
    return work_of(problem, tile.block_m, tile.block_n)


def work_of(problem: AttentionPrefill, block_m: int, block_n: int) -> Work:
    """Each edge of what a query sees lies half a block of queries and half a tile of keys within what is computed."""
    edges = (2 if problem.window else 1) if problem.causal else 0
    queries = sum(num_queries for num_queries, _ in problem.sequences())
    more = edges * queries * (block_m + block_n) / 2
    padding = padded_head_dim(problem) / problem.head_dim
    return Work(flops_factor=padding * (1 + more / max(1, problem.keys_seen())))


def _plan_from(problem: AttentionPrefill, tile: Tile, device: Device, inputs: Inputs) -> Any:
    from ._prefill_plan import plan_from

    return plan_from(problem, tile, device, inputs)


PREFILL = Space(
    template="prefill_triton_flash",
    what="prefill_flash",
    about=ABOUT,
    choice=Tile,
    values=_values,
    why_not=_why_not,
    choice_for=choice_for,
    plan_from=_plan_from,
    facts=facts,
    work=_work,
    tasks=("prefill",),
    reads_inputs=True,
    parts=("prefill_combine", "prefill_split"),
)
