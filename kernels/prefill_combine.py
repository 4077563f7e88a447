"""A prefill whose keys are cut into parts: which they are, and the kernel that weighs their results by log-sum-exp.

In base 2:

out = sum_i 2^(lse_i - m) out_i / sum_i 2^(lse_i - m)        m = max_i lse_i
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

LN_2 = tl.constexpr(math.log(2))
VALUES = 2048
"""Of `out` that a program writes."""


@triton.jit
def part_of(start, end, part, PARTS: tl.constexpr, BLOCK_N: tl.constexpr):
    """First key and end of a part of the keys from start to end, in whole tiles from `start` on."""
    keys = tl.cdiv(tl.cdiv(end - start, BLOCK_N), PARTS) * BLOCK_N
    first = tl.minimum(start + part * keys, end)
    return first, tl.minimum(first + keys, end)


@triton.jit
def _combine(
    part_out, part_lse, out, lse, rows, parts,
    HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, BLOCK_R: tl.constexpr, RETURN_LSE: tl.constexpr,
):  # fmt: skip
    """Program i: rows [i * BLOCK_R, ..) of part_out [rows, parts, HEAD_DIM], part_lse [rows, parts]."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, PADDED_DIM)
    is_row = row < rows
    mask = is_row[:, None] & (column < HEAD_DIM)[None, :]
    maximum = tl.full([BLOCK_R], float("-inf"), tl.float32)
    for part in range(parts):
        maximum = tl.maximum(maximum, tl.load(part_lse + row * parts + part, mask=is_row, other=float("-inf")))
    seen = maximum != float("-inf")
    shift = tl.where(seen, maximum, 0.0)
    total = tl.zeros([BLOCK_R], tl.float32)
    acc = tl.zeros([BLOCK_R, PADDED_DIM], tl.float32)
    for part in range(parts):
        at = row * parts + part
        weight = tl.exp2(tl.load(part_lse + at, mask=is_row, other=float("-inf")) - shift)
        acc += weight[:, None] * tl.load(part_out + at[:, None] * HEAD_DIM + column[None, :], mask=mask, other=0.0)
        total += weight
    total = tl.where(seen, total, 1.0)
    pointers = out + row[:, None] * HEAD_DIM + column[None, :]
    tl.store(pointers, (acc / total[:, None]).to(out.dtype.element_ty), mask=mask)
    if RETURN_LSE:
        tl.store(lse + row, tl.where(seen, (maximum + tl.log2(total)) * LN_2, float("-inf")), mask=is_row)


def part_tensors(out: torch.Tensor, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Results of the parts for out [tokens, heads, head_dim] and lse [tokens, heads], float32."""
    return (
        out.new_empty((*out.shape[:2], parts, out.shape[2]), dtype=torch.float32),
        out.new_empty((*out.shape[:2], parts), dtype=torch.float32),
    )


def combine_parts(part_out: torch.Tensor, part_lse: torch.Tensor, out: torch.Tensor, lse: torch.Tensor | None) -> None:
    """One launch."""
    rows, head_dim = out.shape[0] * out.shape[1], out.shape[2]
    padded_dim = triton.next_power_of_2(head_dim)
    block_r = max(1, VALUES // padded_dim)
    _combine[(triton.cdiv(rows, block_r),)](
        part_out, part_lse, out, out if lse is None else lse, rows, part_out.shape[2],
        HEAD_DIM=head_dim, PADDED_DIM=padded_dim, BLOCK_R=block_r, RETURN_LSE=lse is not None, num_warps=4,
    )  # fmt: skip
