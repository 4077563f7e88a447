"""Stream-K: the K steps of all output tiles, laid end to end, are cut into equal shares, one a program.

Whatever M, N and K are, every program then reads as many bytes of w as the next. A tile that lies within one share is
written at once. Of the others each share leaves a partial sum in fp32, and one of three adds them:

    "arrival"   the last share to arrive, which a counter for each tile tells. It sets the counter back.
    "second"    a second kernel, on all SMs.
    "together"  all shares of a tile, some rows each, once the counter tells that all have arrived. They wait, so all
                must be resident at once; the interpreter runs one program after another and gets "arrival".

All add in the order of K: the same inputs give the same bits; and a captured graph can be replayed.

Tiles are transposed, out^T = w . x^T: the features are the rows of the matrix instructions, which come in 64, and the
tokens, few, their columns; with TOKEN_ROWS it is the other way round. Osama et al., "Stream-K" (arXiv 2301.03598).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ._stream_k_plan import StreamKPlan

CALL = tl.constexpr(1 << 16)
"""What a call adds to a tile's counter, where shares wait for each other: a power of two, more than a tile's shares."""


@triton.jit
def tile_place(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """(block of tokens, block of features) of a tile: GROUP_M blocks of tokens for each block of features in turn."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = tile // (GROUP_M * tiles_n)
    group_size = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    within = tile % (GROUP_M * tiles_n)
    return group * GROUP_M + within % group_size, within // group_size


@triton.jit
def row_length(K, K_MULTIPLE: tl.constexpr):
    """K, of which Triton sees by itself whether it is a multiple of 16: else loads are as wide as K_MULTIPLE allows."""
    if K_MULTIPLE < 16:
        return K // K_MULTIPLE * K_MULTIPLE
    return K


@triton.jit
def zeros(BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TOKEN_ROWS: tl.constexpr):
    """The sum of a tile before its first step."""
    if TOKEN_ROWS:
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    else:
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    return acc


@triton.jit
def _store_rows(
    out, tile, row, column, acc, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """acc, these rows and columns of a tile [BLOCK_M, BLOCK_N], to out [M, N]."""
    block_m, block_n = tile_place(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    m, n = block_m * BLOCK_M + row, block_n * BLOCK_N + column
    pointers = out + m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def _added_parts(
    partials, first, last, row, column, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Sum of the partial tiles of programs [first, last] over ROWS x COLUMNS of them, PARTS loads at once.

    A program has two slots: 1 holds the tile that it begins, 0 one that a program before it began.
    """
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    within = (row * BLOCK_N)[:, None] + column[None, :]
    for start in range(first, last + 1, PARTS):
        program = start + tl.arange(0, PARTS)
        slot = program.to(tl.int64) * 2 + (program == first).to(tl.int64)
        pointers = partials + (slot * (BLOCK_M * BLOCK_N))[:, None, None] + within[None, :, :]
        part = tl.load(pointers, mask=(program <= last)[:, None, None], other=0.0, cache_modifier=".cg")
        acc += tl.sum(part, 0)
    return acc


@triton.jit
def _wait_for_all(counter, is_first, shares):
    """Say that this share has arrived, and return when all have.

    Every call adds CALL, the first share what the others leave of it, and nobody sets the counter back: it wraps.
    """
    arrived = tl.atomic_add(counter, tl.where(is_first, CALL - shares + 1, 1), sem="acq_rel", scope="gpu")
    before = arrived & -CALL
    while (arrived & -CALL) == before:
        arrived = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")


@triton.jit
def finish_tile(
    acc, out, partials, counters, tile, steps, per_program, M, N,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr, SPLIT: tl.constexpr, COMBINE: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, TOKEN_ROWS: tl.constexpr,
):  # fmt: skip
    """What becomes of a program's sum acc of its steps of a tile: [BLOCK_N, BLOCK_M], or with TOKEN_ROWS [M, N]."""
    if not TOKEN_ROWS:
        acc = tl.trans(acc)
    program = tl.program_id(0)
    row, column = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    if not SPLIT:
        _store_rows(out, tile, row, column, acc, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        return
    first, last = tile * steps // per_program, ((tile + 1) * steps - 1) // per_program
    if first == last:
        _store_rows(out, tile, row, column, acc, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    else:
        slot = program.to(tl.int64) * 2 + (program == first).to(tl.int64)
        tl.store(partials + slot * (BLOCK_M * BLOCK_N) + (row * BLOCK_N)[:, None] + column[None, :], acc)
        if COMBINE == "arrival":
            tl.debug_barrier()  # all threads have stored before one of them says so
            arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu")
            if arrived == last - first:
                tl.store(counters + tile, 0)
                total = _added_parts(partials, first, last, row, column, BLOCK_M, BLOCK_N, BLOCK_M, BLOCK_N, PARTS)
                _store_rows(out, tile, row, column, total, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        if COMBINE == "together":
            tl.debug_barrier()  # as above
            _wait_for_all(counters + tile, program == first, last - first + 1)
            for start in range((program - first) * ROWS, BLOCK_M, (last - first + 1) * ROWS):
                own = start + tl.arange(0, ROWS)
                total = _added_parts(partials, first, last, own, column, BLOCK_M, BLOCK_N, ROWS, BLOCK_N, PARTS)
                _store_rows(out, tile, own, column, total, M, N, BLOCK_M, BLOCK_N, GROUP_M)


@triton.jit
def _combine(
    partials, out, steps, per_program, M, N,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program (t, i): rows [i * ROWS, ..) of tile t, unless the first kernel wrote it."""
    tile = tl.program_id(0)
    first, last = tile * steps // per_program, ((tile + 1) * steps - 1) // per_program
    if DEPENDENT_LAUNCH:
        gdc_wait()  # every program waits, or this kernel could end before the first one does
    if first == last:
        return
    row, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_N)
    acc = _added_parts(partials, first, last, row, column, BLOCK_M, BLOCK_N, ROWS, BLOCK_N, PARTS)
    _store_rows(out, tile, row, column, acc, M, N, BLOCK_M, BLOCK_N, GROUP_M)


@triton.jit
def let_dependents_launch(DEPENDENT_LAUNCH: tl.constexpr):
    """Says that `_combine` may start: it waits by itself."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()


def workspace(state: StreamKPlan, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Partial sums and arrival counters; `out` where they are not looked at."""
    if not state.is_split:
        return out, out
    partials = torch.empty(state.parts_shape, dtype=torch.float32, device=out.device)
    if state.combine == "second":
        return partials, out
    kind = out.device.type
    if kind not in state.counters:
        state.counters[kind] = torch.zeros(state.num_tiles, dtype=torch.int32, device=out.device)
    return partials, state.counters[kind]


def options(state: StreamKPlan, k: int, is_interpreted: bool) -> dict[str, Any]:
    """What a stream-K kernel is launched with by name.

    Its other parameters: its own; out, partials, counters, M, N, K, per_program.
    """
    return {
        "BLOCK_M": state.block_m,
        "BLOCK_N": state.block_n,
        "BLOCK_K": state.block_k,
        "GROUP_M": state.group_m,
        "PARTS": state.parts,
        "ROWS": state.combine_rows,
        "STAGES": state.num_stages,
        "SPLIT": state.is_split,
        "COMBINE": "arrival" if is_interpreted and state.combine == "together" else state.combine,
        "EVEN_K": k % state.block_k == 0,
        "DEPENDENT_LAUNCH": state.is_dependent and not is_interpreted,
        "num_warps": state.num_warps,
        **state.backend_options,
    }


def combine(state: StreamKPlan, partials: torch.Tensor, out: torch.Tensor) -> None:
    """Run `_combine` where the plan says so."""
    if not (state.is_split and state.combine == "second"):
        return
    m, n = out.shape
    dependent_launch = state.is_dependent and not out.is_cpu
    _combine[(state.num_tiles, state.block_m // state.combine_rows)](
        partials, out, state.steps, state.per_program, m, n,
        BLOCK_M=state.block_m, BLOCK_N=state.block_n, GROUP_M=state.group_m, PARTS=state.parts, ROWS=state.combine_rows,
        DEPENDENT_LAUNCH=dependent_launch, num_warps=4, **({"launch_pdl": True} if dependent_launch else {}),
    )  # fmt: skip
