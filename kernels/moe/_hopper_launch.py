"""Launches of `_grouped_hopper`, which is imported at the first launch: Triton's interpreter has no Gluon."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton

from ._list_triton import TILE_FIELDS, gather_rows, list_tiles
from ._sort_triton import launch_options, most_tiles

BLOCK_M = 192
"""Rows of a tile: 64 for each of three consumers."""
WIDE_BLOCK_M = 128
"""Of two."""
COLUMNS = 128
"""Rows of a weight matrix that one accumulator needs."""
BLOCK_K = 64
LIST_BLOCK = 512
GATHER_BLOCK = 1024


def gathered(
    x: torch.Tensor, sorted_slots: torch.Tensor, expert_ends: torch.Tensor, slots_per_token: int, dependent: bool
) -> torch.Tensor:
    """[slots, hidden_size]: tokens' rows sorted by expert; those behind the last expert's are not written.

    `dependent`, here and below: kernels are launched while those ahead of them still run, and wait for them there.
    """
    columns = x.shape[1]
    rows = x.new_empty((len(sorted_slots), columns))
    gather_rows[(len(rows), math.ceil(columns / GATHER_BLOCK))](
        x, sorted_slots, expert_ends, rows,
        NUM_EXPERTS=len(expert_ends), COLUMNS=columns, SLOTS_PER_TOKEN=slots_per_token, BLOCK=GATHER_BLOCK,
        DEPENDENT_LAUNCH=dependent, num_warps=4, **launch_options(dependent),
    )  # fmt: skip
    return rows


def hopper_gate_up(
    x: torch.Tensor, w13: torch.Tensor, expert_ends: torch.Tensor, h: torch.Tensor, programs: int,
    is_wide: bool, dependent: bool, is_first: bool,
) -> None:  # fmt: skip
    """h [rows, I] from x [rows, H], whose rows are sorted by expert, and w13 [experts, 2 I, H]."""
    block_m = WIDE_BLOCK_M if is_wide else BLOCK_M
    listed, num_tiles = _listed(len(x), expert_ends, block_m, math.ceil(h.shape[1] / COLUMNS), dependent, is_first)
    _grouped(x, w13, (listed, num_tiles, expert_ends), h, programs, True, is_wide, dependent)


def hopper_down(
    h: torch.Tensor, w2: torch.Tensor, expert_ends: torch.Tensor, out_rows: torch.Tensor, y: torch.Tensor,
    programs: int, is_wide: bool, dependent: bool,
) -> None:  # fmt: skip
    """y[out_rows[r]] [rows, H] from h [rows, I] and w2 [experts, H, I]."""
    block_m, column_blocks = WIDE_BLOCK_M if is_wide else BLOCK_M, math.ceil(y.shape[1] / (2 * COLUMNS))
    listed, num_tiles = _listed(len(h), expert_ends, block_m, column_blocks, dependent, False)
    _grouped(h, w2, (listed, num_tiles, out_rows), y, programs, False, is_wide, dependent)


def _listed(
    rows: int, expert_ends: torch.Tensor, block_m: int, column_blocks: int, dependent: bool, is_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tiles, how many); `is_first`: no kernel of ours is ahead."""
    experts = len(expert_ends)
    most = most_tiles(rows, experts, block_m) * column_blocks
    listed = torch.empty((most, TILE_FIELDS.value), dtype=torch.int32, device=expert_ends.device)
    num_tiles = torch.empty(1, dtype=torch.int32, device=expert_ends.device)
    list_tiles[(experts,)](
        expert_ends, listed, num_tiles,
        NUM_EXPERTS=experts, EXPERTS_BLOCK=triton.next_power_of_2(experts), BLOCK_M=block_m,
        COLUMN_BLOCKS=column_blocks, BLOCK=LIST_BLOCK, DEPENDENT_LAUNCH=dependent,
        num_warps=4, **launch_options(dependent and not is_first),
    )  # fmt: skip
    return listed, num_tiles


def _grouped(
    x: torch.Tensor, weight: torch.Tensor, order: tuple[torch.Tensor, torch.Tensor, torch.Tensor], out: torch.Tensor,
    programs: int, is_gated: bool, is_wide: bool, dependent: bool,
) -> None:  # fmt: skip
    """`order` is (tiles, how many, rows of the output)."""
    from ._grouped_hopper import grouped_hopper

    _, expert_rows, columns = weight.shape
    grouped_hopper[(min(programs, len(order[0])),)](
        _descriptor(x, 64), _descriptor(weight.view(-1, columns), COLUMNS), order[0], order[1], order[2], out,
        STEPS=math.ceil(columns / BLOCK_K), EXPERT_ROWS=expert_rows, OUT_COLUMNS=out.shape[1], GATED=is_gated,
        SCATTERS=not is_gated, WIDE=is_wide, DEPENDENT_LAUNCH=dependent, num_warps=4, **launch_options(dependent),
    )  # fmt: skip


def _descriptor(tensor: torch.Tensor, rows: int) -> Any:
    """Tiles of [rows, 64] from [*, columns]."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    return TensorDescriptor.from_tensor(tensor, [rows, BLOCK_K], layout)
