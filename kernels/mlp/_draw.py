"""How this family draws its tensors, and what its tolerances are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DISTRIBUTIONS = ("normal", "small", "outliers")
"""Of activations. `normal`: N(0, 1). `small`: N(0, 1e-3), where an epsilon of 1e-6 weighs as much as the values;
with no norm behind it N(0, 1/16), since products of smaller values would leave float16's range.
`outliers`: N(0, 1) with a few channels 32 times as large, as in the residual streams of trained models."""
OUTLIER_CHANNELS = 3
ROPE_THETA = 10000.0


def unit_roundoff(dtype: str) -> float:
    """The largest relative error of one rounding to `dtype`, a 16-bit type."""
    return 2**-8 if dtype == "bfloat16" else 2**-11


def draw_activation(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, distribution: str, normed: bool = True
) -> torch.Tensor:
    """An activation, on the generator's device. `normed`: the task begins with a norm of it."""
    import torch

    scale = {"normal": 1.0, "small": 1e-3 if normed else 1 / 16, "outliers": 1.0}[distribution]
    drawn = torch.empty(shape, dtype=dtype, device=generator.device).normal_(0, scale, generator=generator)
    if distribution == "outliers":
        channels = torch.randint(shape[-1], (OUTLIER_CHANNELS,), device=generator.device, generator=generator)
        drawn[..., channels] *= 32
    return drawn


def draw_weight(rows: int, columns: int, gain: float, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """[rows, columns] that turns inputs of unit variance into outputs with a standard deviation of `gain`."""
    import torch

    weight = torch.empty((rows, columns), dtype=dtype, device=generator.device)
    return weight.normal_(0, gain / math.sqrt(columns), generator=generator)


def draw_norm_weight(size: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """[size] in [0.5, 1.5): far enough from 1 that leaving it out shows."""
    import torch

    return torch.empty((size,), dtype=dtype, device=generator.device).uniform_(0.5, 1.5, generator=generator)


def rope_table(max_position: int, head_dim: int, device: torch.device | str) -> torch.Tensor:
    """[max_position, head_dim] float32: cosines of every position, then sines; row 0 turns nothing."""
    import torch

    exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float64) / head_dim
    angles = torch.arange(max_position, device=device, dtype=torch.float64)[:, None] * ROPE_THETA**-exponents
    return torch.cat((angles.cos(), angles.sin()), dim=1).float()
