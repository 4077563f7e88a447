"""Tables of rotary angles, as inputs of timed calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .problem import EDITED_ROWS, Edit, Inputs

if TYPE_CHECKING:
    import torch


def edited_angles(inputs: Inputs, name: str, positions: torch.Tensor, generator: torch.Generator) -> Edit:
    """At a few of `positions` [n] int64 the table `name` turns by half a circle more: what it says changes its sign,
    and what was gathered of it before is wrong."""
    import torch

    table = inputs[name]
    drawn = torch.randint(len(positions), (EDITED_ROWS,), device=positions.device, generator=generator)
    rows = positions[drawn].unique()
    return Edit(name, rows, -table[rows])
