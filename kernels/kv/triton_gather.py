"""Gather of a paged cache, in Triton: programs own equal blocks of output tokens, whatever the lengths are.

Each of the BLOCK_T tokens finds its sequence by counting the ends at or below it, then its page; its row is copied
whole, by 16 bytes. Two tiles of columns, the largest power of two and the rest, keep rows of 576 free of idle lanes.
The maths is _gather_problem.py's; tiles are chosen in _gather_plan.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._gather_plan import Plan, plan


@triton.jit
def _copy_columns(
    cache, out, slot, token, is_token, scale,
    WIDTH: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr, IS_FP8: tl.constexpr,
    LOAD_POLICY: tl.constexpr, STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    BLOCK: tl.constexpr = triton.next_power_of_2(COUNT)
    column = tl.arange(0, BLOCK)[None, :]
    mask = is_token[:, None] & (column < COUNT)
    x = tl.load(cache + slot[:, None] * WIDTH + FIRST + column, mask=mask, other=0.0, eviction_policy=LOAD_POLICY)
    if IS_FP8:
        x = x.to(tl.float32) * scale
    copied = x.to(out.dtype.element_ty)
    tl.store(out + token[:, None] * WIDTH + FIRST + column, copied, mask=mask, cache_modifier=STORE_MODIFIER)


@triton.jit
def _gather(
    cache, block_table, cu_seqlens, out, num_tokens, batch, max_pages, scale,
    WIDTH: tl.constexpr, FIRST_BLOCK: tl.constexpr, PAGE_SIZE: tl.constexpr, IS_FP8: tl.constexpr,
    BLOCK_T: tl.constexpr, SEQ_BLOCK: tl.constexpr, COLUMN_PARTS: tl.constexpr, LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    """Program (p, c): tokens [p * BLOCK_T, ..) of the output, part c of their columns."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = token < num_tokens
    sequence = tl.zeros([BLOCK_T], tl.int32)
    for first in range(0, batch, SEQ_BLOCK):
        index = first + tl.arange(0, SEQ_BLOCK)
        end = tl.load(cu_seqlens + 1 + index, mask=index < batch, other=2147483647)
        sequence += tl.sum((end[None, :] <= token[:, None]).to(tl.int32), 1)
    is_token = is_token & (sequence < batch)  # there may be fewer tokens than were planned for
    place = token - tl.load(cu_seqlens + sequence, mask=is_token, other=0)
    row = block_table + sequence.to(tl.int64) * max_pages
    page = tl.load(row + place // PAGE_SIZE, mask=is_token, other=0)
    slot = page.to(tl.int64) * PAGE_SIZE + place % PAGE_SIZE
    if COLUMN_PARTS > 1:
        part = tl.program_id(1) * (WIDTH // COLUMN_PARTS)
        _copy_columns(
            cache + part, out + part, slot, token, is_token, scale, WIDTH, 0, WIDTH // COLUMN_PARTS, IS_FP8,
            LOAD_POLICY, STORE_MODIFIER,
        )  # fmt: skip
    else:
        _copy_columns(
            cache, out, slot, token, is_token, scale, WIDTH, 0, FIRST_BLOCK, IS_FP8, LOAD_POLICY, STORE_MODIFIER
        )
        if FIRST_BLOCK < WIDTH:
            _copy_columns(
                cache, out, slot, token, is_token, scale, WIDTH, FIRST_BLOCK, WIDTH - FIRST_BLOCK, IS_FP8,
                LOAD_POLICY, STORE_MODIFIER,
            )  # fmt: skip


def run(inputs: Inputs, state: Plan) -> Outputs:
    """One launch."""
    cache, table, problem = inputs["cache"], inputs["block_table"], state.problem
    out = torch.empty((state.num_tokens, *cache.shape[2:]), dtype=getattr(torch, problem.dtype), device=cache.device)
    width = problem.width
    _gather[(triton.cdiv(state.num_tokens, state.block_tokens), state.column_parts)](
        cache, table, inputs["cu_seqlens"], out, state.num_tokens, len(table), table.shape[1], problem.kv_scale,
        WIDTH=width, FIRST_BLOCK=1 << (width.bit_length() - 1), PAGE_SIZE=problem.page_size, IS_FP8=problem.is_fp8,
        BLOCK_T=state.block_tokens, SEQ_BLOCK=state.seq_block, COLUMN_PARTS=state.column_parts,
        LOAD_POLICY=state.load_policy, STORE_MODIFIER=state.store_modifier, num_warps=state.num_warps,
    )  # fmt: skip
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("gather",), run=run, plan=plan, requires=("triton",), uses_triton=True)
