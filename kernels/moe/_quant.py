"""Blocks of 1 x 128 activations in 8 bits, and back: what the fp8 problems mean."""

from __future__ import annotations

import torch

from .problem import BLOCK


def quantize(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """[rows, columns] -> (the same in an e4m3 `dtype`, scales [rows, columns / 128] float32).

    A block is divided by scale = max |block| / largest finite value of the type; a block of zeros has scale 1.
    """
    largest = torch.finfo(dtype).max
    blocks = x.float().unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / largest
    scale = torch.where(scale == 0, 1.0, scale)
    return (blocks / scale).clamp(-largest, largest).flatten(-2).to(dtype), scale.squeeze(-1)


def dequantize(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The inverse, but for rounding, in float32."""
    blocks: torch.Tensor = x.float().unflatten(-1, (-1, BLOCK))
    return (blocks * scale[..., None]).flatten(-2)


def dequantize_weight(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[..., rows, columns] with a scale for each 128 x 128 block [..., rows / 128, columns / 128] -> float32."""
    blocks: torch.Tensor = weight.float().unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))
    return (blocks * scale[..., :, None, :, None]).flatten(-2).flatten(-3, -2)
