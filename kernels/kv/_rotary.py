"""What the tasks that turn queries and keys share: the table of angles."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROPE_BASE = 10_000.0
ROTATION_FLOPS = 6
"""For a pair of values: four products, a sum and a difference."""


def draw_cos_sin(max_position: int, rotary_dim: int, dtype: str) -> torch.Tensor:
    """[max_position, rotary_dim] on the CPU: cosines of position * base^(-2 i / rotary_dim), then their sines."""
    import torch

    frequency = ROPE_BASE ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
    angle = torch.arange(max_position, dtype=torch.float64)[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=1).to(getattr(torch, dtype))
