"""The experts' products in Triton: gate and up with SwiGLU, down, and the sum over a token's experts.

A program owns BLOCK_M rows of one expert and BLOCK_N columns of its weights. SWAP multiplies weights by tokens instead
of tokens by weights: then few tokens are the narrow side of a product, and 64 rows of weights feed one warpgroup of
Hopper. With DIRECT, for one token, slot i is row i and there is nothing to sort. 8-bit operands have one scale for 128
columns: each step multiplies BLOCK_K = 128 columns and scales the product.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ._sort_triton import find_tile


@triton.jit
def _tile_of(
    topk_ids, expert_ends, pid, NUM_EXPERTS: tl.constexpr, EXPERTS_BLOCK: tl.constexpr, COLUMN_BLOCKS: tl.constexpr,
    BLOCK_M: tl.constexpr, GROUP_M: tl.constexpr, DIRECT: tl.constexpr,
):  # fmt: skip
    if DIRECT:
        row = pid // COLUMN_BLOCKS
        tile = (tl.load(topk_ids + row), row, row + 1, pid % COLUMN_BLOCKS)
    else:
        tile = find_tile(expert_ends, pid, NUM_EXPERTS, EXPERTS_BLOCK, COLUMN_BLOCKS, BLOCK_M, GROUP_M)
    return tile


@triton.jit
def _load_rows(
    row, is_row, first_column, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr
):  # fmt: skip
    """[BLOCK_M, BLOCK_K] of rows that begin at the pointers `row` [BLOCK_M, 1]."""
    column = first_column + tl.arange(0, BLOCK_K)
    mask = is_row[:, None]
    if not EVEN_K:
        mask = mask & (column < COLUMNS)[None, :]
    return tl.load(row + column[None, :], mask=mask, other=0.0)


@triton.jit
def _store_tile(
    pointer, row_start, is_row, column, values, COLUMNS: tl.constexpr, SWAP: tl.constexpr
):  # fmt: skip
    """Columns of rows that begin `row_start` [BLOCK_M] elements behind `pointer`; values as `_multiply` gives them."""
    is_column = column < COLUMNS
    if SWAP:
        at, mask = row_start[None, :] + column[:, None], is_column[:, None] & is_row[None, :]
    else:
        at, mask = row_start[:, None] + column[None, :], is_row[:, None] & is_column[None, :]
    tl.store(pointer + at, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _in_8_bits(values, FP8_MAX: tl.constexpr, SWAP: tl.constexpr):
    """(values over their scale, one scale for each row): the row's largest magnitude becomes the type's."""
    largest = tl.max(tl.abs(values), 0 if SWAP else 1)
    scale = tl.where(largest == 0.0, 1.0, largest / FP8_MAX)
    scaled = values / (scale[None, :] if SWAP else scale[:, None])
    return tl.clamp(scaled, -FP8_MAX, FP8_MAX), scale


@triton.jit
def _load_weight(
    weight, first_row, first_column, row_limit, COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    USE_TMA: tl.constexpr, EVEN_K: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N, BLOCK_K] of a matrix [*, COLUMNS] of all experts' rows; STREAM: it is read once, by one program."""
    if USE_TMA:
        tile = weight.load([first_row.to(tl.int32), first_column])
    else:
        row = tl.arange(0, BLOCK_N)
        column = first_column + tl.arange(0, BLOCK_K)
        pointers = weight + (first_row + row)[:, None] * COLUMNS + column[None, :]
        mask = (row < row_limit)[:, None]
        if not EVEN_K:
            mask = mask & (column < COLUMNS)[None, :]
        tile = tl.load(pointers, mask=mask, other=0.0, eviction_policy="evict_first" if STREAM else "")
    return tile


@triton.jit
def _multiply(weight, x, acc, SWAP: tl.constexpr):
    """acc + the product, [BLOCK_N, BLOCK_M] where SWAP, else [BLOCK_M, BLOCK_N]."""
    if SWAP:
        acc = tl.dot(weight, x.T, acc)
    else:
        acc = tl.dot(x, weight.T, acc)
    return acc


@triton.jit
def _multiply_scaled(weight, x, acc, weight_scale, x_scale, SWAP: tl.constexpr):
    """acc + the product of 8-bit operands: one scale for the weights, one for each row of x."""
    if SWAP:
        acc += tl.dot(weight, x.T) * (x_scale * weight_scale)[None, :]
    else:
        acc += tl.dot(x, weight.T) * (x_scale * weight_scale)[:, None]
    return acc


@triton.jit
def gate_up(
    x, x_scale, w13, w13_scale, topk_ids, sorted_slots, expert_ends, h, h_scale,
    NUM_EXPERTS: tl.constexpr, EXPERTS_BLOCK: tl.constexpr, HIDDEN: tl.constexpr, INTERMEDIATE: tl.constexpr,
    SLOTS_PER_TOKEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, STAGES: tl.constexpr, SWAP: tl.constexpr, DIRECT: tl.constexpr, USE_TMA: tl.constexpr,
    STREAM: tl.constexpr, FP8: tl.constexpr, QUANTIZE: tl.constexpr, FP8_MAX: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """h[row] = silu(x . gate^T) * (x . up^T) for BLOCK_M sorted rows and BLOCK_N columns of one expert.

    Row r is a row of x itself where SLOTS_PER_TOKEN is 0, else x[sorted_slots[r] // SLOTS_PER_TOKEN]. QUANTIZE, with
    BLOCK_N = 128, stores h in 8 bits with a scale for each row of the block.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    COLUMN_BLOCKS: tl.constexpr = (INTERMEDIATE + BLOCK_N - 1) // BLOCK_N
    EVEN_K: tl.constexpr = HIDDEN % BLOCK_K == 0
    expert, first_row, end_row, column_block = _tile_of(
        topk_ids, expert_ends, tl.program_id(0), NUM_EXPERTS, EXPERTS_BLOCK, COLUMN_BLOCKS, BLOCK_M, GROUP_M, DIRECT
    )
    if expert < 0:
        return
    row = first_row + tl.arange(0, BLOCK_M)
    is_row = row < end_row
    source = row
    if SLOTS_PER_TOKEN > 0:
        slot = row if DIRECT else tl.load(sorted_slots + row, mask=is_row, other=0)
        source = slot // SLOTS_PER_TOKEN
    x_row = x + source.to(tl.int64)[:, None] * HIDDEN
    first_column = column_block * BLOCK_N
    gate_row = expert.to(tl.int64) * (2 * INTERMEDIATE) + first_column
    if SWAP:
        gate = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    else:
        gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    up = gate
    for step in tl.range(0, tl.cdiv(HIDDEN, BLOCK_K), num_stages=STAGES):
        x_tile = _load_rows(x_row, is_row, step * BLOCK_K, HIDDEN, BLOCK_K, EVEN_K)
        gate_tile = _load_weight(
            w13,
            gate_row,
            step * BLOCK_K,
            INTERMEDIATE - first_column,
            HIDDEN,
            BLOCK_N,
            BLOCK_K,
            USE_TMA,
            EVEN_K,
            STREAM,
        )
        up_tile = _load_weight(
            w13, gate_row + INTERMEDIATE, step * BLOCK_K, INTERMEDIATE - first_column, HIDDEN, BLOCK_N, BLOCK_K,
            USE_TMA, EVEN_K, STREAM,
        )  # fmt: skip
        if FP8:
            row_scale = tl.load(x_scale + source.to(tl.int64) * (HIDDEN // 128) + step, mask=is_row, other=0.0)
            gate_scale = w13_scale + (gate_row // 128) * (HIDDEN // 128) + step
            up_scale = gate_scale + (INTERMEDIATE // 128) * (HIDDEN // 128)
            gate = _multiply_scaled(gate_tile, x_tile, gate, tl.load(gate_scale), row_scale, SWAP)
            up = _multiply_scaled(up_tile, x_tile, up, tl.load(up_scale), row_scale, SWAP)
        else:
            gate = _multiply(gate_tile, x_tile, gate, SWAP)
            up = _multiply(up_tile, x_tile, up, SWAP)
    result = gate / (1.0 + tl.exp(-gate)) * up
    if QUANTIZE:
        result, scale = _in_8_bits(result, FP8_MAX, SWAP)
        tl.store(h_scale + row.to(tl.int64) * (INTERMEDIATE // 128) + column_block, scale, mask=is_row)
    column = first_column + tl.arange(0, BLOCK_N)
    _store_tile(h, row.to(tl.int64) * INTERMEDIATE, is_row, column, result, INTERMEDIATE, SWAP)


@triton.jit
def down(
    h, h_scale, w2, w2_scale, topk_ids, sorted_slots, expert_ends, y, num_slots,
    NUM_EXPERTS: tl.constexpr, EXPERTS_BLOCK: tl.constexpr, HIDDEN: tl.constexpr, INTERMEDIATE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, STAGES: tl.constexpr,
    SPLIT_K: tl.constexpr, SWAP: tl.constexpr, DIRECT: tl.constexpr, USE_TMA: tl.constexpr, STREAM: tl.constexpr,
    FP8: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """y[part, slot] = h[row] . w2^T over one of SPLIT_K parts of the columns, for BLOCK_M rows of one expert."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    COLUMN_BLOCKS: tl.constexpr = (HIDDEN + BLOCK_N - 1) // BLOCK_N
    EVEN_K: tl.constexpr = INTERMEDIATE % BLOCK_K == 0
    STEPS: tl.constexpr = (INTERMEDIATE + BLOCK_K - 1) // BLOCK_K
    PART_STEPS: tl.constexpr = (STEPS + SPLIT_K - 1) // SPLIT_K
    expert, first_row, end_row, column_block = _tile_of(
        topk_ids, expert_ends, tl.program_id(0), NUM_EXPERTS, EXPERTS_BLOCK, COLUMN_BLOCKS, BLOCK_M, GROUP_M, DIRECT
    )
    if expert < 0:
        return
    part = tl.program_id(1)
    row = first_row + tl.arange(0, BLOCK_M)
    is_row = row < end_row
    h_row = h + row.to(tl.int64)[:, None] * INTERMEDIATE
    first_column = column_block * BLOCK_N
    weight_row = expert.to(tl.int64) * HIDDEN + first_column
    if SWAP:
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    else:
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in tl.range(part * PART_STEPS, tl.minimum((part + 1) * PART_STEPS, STEPS), num_stages=STAGES):
        h_tile = _load_rows(h_row, is_row, step * BLOCK_K, INTERMEDIATE, BLOCK_K, EVEN_K)
        tile = _load_weight(
            w2, weight_row, step * BLOCK_K, HIDDEN - first_column, INTERMEDIATE, BLOCK_N, BLOCK_K, USE_TMA, EVEN_K,
            STREAM,
        )  # fmt: skip
        if FP8:
            row_scale = tl.load(h_scale + row.to(tl.int64) * (INTERMEDIATE // 128) + step, mask=is_row, other=0.0)
            weight_scale = tl.load(w2_scale + (weight_row // 128) * (INTERMEDIATE // 128) + step)
            acc = _multiply_scaled(tile, h_tile, acc, weight_scale, row_scale, SWAP)
        else:
            acc = _multiply(tile, h_tile, acc, SWAP)
    slot = row if DIRECT else tl.load(sorted_slots + row, mask=is_row, other=0)
    column = first_column + tl.arange(0, BLOCK_N)
    _store_tile(y, (part.to(tl.int64) * num_slots + slot) * HIDDEN, is_row, column, acc, HIDDEN, SWAP)


@triton.jit
def combine(
    y, topk_ids, topk_weights, rows, out, num_tokens,
    HIDDEN: tl.constexpr, SLOTS_PER_TOKEN: tl.constexpr, SPLIT_K: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr, IS_SORTED: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """out[token] = sum of topk_weights * y over its slots and over the parts of the products.

    y has a row for each slot; where IS_SORTED, slot s is in row rows[s] and every id counts.
    """
    if DEPENDENT_LAUNCH:
        gdc_wait()
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    is_token, is_column = token < num_tokens, (column < HIDDEN)[None, :]
    acc = tl.zeros([BLOCK_T, BLOCK_H], tl.float32)
    for i in tl.static_range(SLOTS_PER_TOKEN):
        slot = token * SLOTS_PER_TOKEN + i
        weight = tl.load(topk_weights + slot, mask=is_token, other=0.0)
        if IS_SORTED:
            row, is_here = tl.load(rows + slot, mask=is_token, other=0), is_token
        else:
            row, is_here = slot, tl.load(topk_ids + slot, mask=is_token, other=-1) >= 0
        total = tl.zeros([BLOCK_T, BLOCK_H], tl.float32)
        for part in tl.static_range(SPLIT_K):
            at = (row.to(tl.int64) + part * SLOTS_PER_TOKEN * num_tokens) * HIDDEN
            pointers = y + at[:, None] + column[None, :]
            total += tl.load(pointers, mask=is_here[:, None] & is_column, other=0.0).to(tl.float32)
        acc += total * weight[:, None]
    pointers = out + token.to(tl.int64)[:, None] * HIDDEN + column[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=is_token[:, None] & is_column)


@triton.jit
def quantize(x, x8, x_scale, COLUMNS: tl.constexpr, BLOCKS: tl.constexpr, FP8_MAX: tl.constexpr):
    """A row of x [*, COLUMNS] in 8 bits, with a scale for every 128 columns; BLOCKS, a power of two, covers them."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    column = block[:, None] * 128 + tl.arange(0, 128)[None, :]
    mask = column < COLUMNS
    values = tl.load(x + row * COLUMNS + column, mask=mask, other=0.0).to(tl.float32)
    scaled, scale = _in_8_bits(values, FP8_MAX, False)
    tl.store(x8 + row * COLUMNS + column, scaled.to(x8.dtype.element_ty), mask=mask)
    tl.store(x_scale + row * (COLUMNS // 128) + block, scale, mask=block < COLUMNS // 128)
