"""Launches of `_grouped_hopper`, which is imported at the first launch: Triton's interpreter has no Gluon."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton

from ._list_triton import TILE_FIELDS, gather_rows, list_tiles
from ._sort_triton import most_tiles

BLOCK_M = 192
"""Rows of a tile: 64 for each of three consumers."""
COLUMNS = 128
"""Rows of a weight matrix that one accumulator needs."""
BLOCK_K = 64
LIST_BLOCK = 512
GATHER_BLOCK = 1024


def gathered(
    x: torch.Tensor, sorted_slots: torch.Tensor, expert_ends: torch.Tensor, slots_per_token: int
) -> torch.Tensor:
    """[slots, hidden_size]: tokens' rows sorted by expert; those behind the last expert's are not written."""
    columns = x.shape[1]
    rows = x.new_empty((len(sorted_slots), columns))
    gather_rows[(len(rows), math.ceil(columns / GATHER_BLOCK))](
        x, sorted_slots, expert_ends, rows,
        NUM_EXPERTS=len(expert_ends), COLUMNS=columns, SLOTS_PER_TOKEN=slots_per_token, BLOCK=GATHER_BLOCK,
        num_warps=4,
    )  # fmt: skip
    return rows


def hopper_gate_up(
    x: torch.Tensor, w13: torch.Tensor, expert_ends: torch.Tensor, h: torch.Tensor, programs: int
) -> None:
    """h [rows, I] from x [rows, H], whose rows are sorted by expert, and w13 [experts, 2 I, H]."""
    _launch(x, w13, expert_ends, expert_ends, h, programs, math.ceil(h.shape[1] / COLUMNS), True)


def hopper_down(
    h: torch.Tensor, w2: torch.Tensor, expert_ends: torch.Tensor, out_rows: torch.Tensor, y: torch.Tensor,
    programs: int,
) -> None:  # fmt: skip
    """y[out_rows[r]] [rows, H] from h [rows, I] and w2 [experts, H, I]."""
    _launch(h, w2, expert_ends, out_rows, y, programs, math.ceil(y.shape[1] / (2 * COLUMNS)), False)


def _launch(
    x: torch.Tensor, weight: torch.Tensor, expert_ends: torch.Tensor, out_rows: torch.Tensor, out: torch.Tensor,
    programs: int, column_blocks: int, is_gated: bool,
) -> None:  # fmt: skip
    from ._grouped_hopper import grouped_hopper

    experts, expert_rows, columns = weight.shape
    most = most_tiles(len(x), experts, BLOCK_M) * column_blocks
    listed = torch.empty((most, TILE_FIELDS.value), dtype=torch.int32, device=x.device)
    num_tiles = torch.empty(1, dtype=torch.int32, device=x.device)
    list_tiles[(experts,)](
        expert_ends, listed, num_tiles,
        NUM_EXPERTS=experts, EXPERTS_BLOCK=triton.next_power_of_2(experts), BLOCK_M=BLOCK_M,
        COLUMN_BLOCKS=column_blocks, BLOCK=LIST_BLOCK, num_warps=4,
    )  # fmt: skip
    grouped_hopper[(min(programs, most),)](
        _descriptor(x, 64), _descriptor(weight.view(-1, columns), COLUMNS), listed, num_tiles, out_rows, out,
        STEPS=math.ceil(columns / BLOCK_K), EXPERT_ROWS=expert_rows, OUT_COLUMNS=out.shape[1], GATED=is_gated,
        SCATTERS=not is_gated, num_warps=4,
    )  # fmt: skip


def _descriptor(tensor: torch.Tensor, rows: int) -> Any:
    """Tiles of [rows, 64] from [*, columns]."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    return TensorDescriptor.from_tensor(tensor, [rows, BLOCK_K], layout)
