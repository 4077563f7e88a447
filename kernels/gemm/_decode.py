"""What the stored bits of microscaled tensors mean, in plain PyTorch that torch.compile takes as well."""

from __future__ import annotations

import torch

from ._linear_mx_problem import BITS, GROUP, ONE

EXPONENT_BITS = {"mxfp4": 2, "mxfp6_e2m3": 2, "mxfp6_e3m2": 3}


def codes(w: torch.Tensor, bits: int) -> torch.Tensor:
    """[n, row bytes] uint8 -> [n, k] int32, one code an element."""
    wide = w.int()
    if bits == 4:
        parts = [wide & 15, wide >> 4]
    else:
        triples = wide.view(w.shape[0], -1, 3)
        word = triples[..., 0] | triples[..., 1] << 8 | triples[..., 2] << 16
        parts = [word >> shift & 63 for shift in (0, 6, 12, 18)]
    return torch.stack(parts, -1).flatten(1)


def values(code: torch.Tensor, w_format: str) -> torch.Tensor:
    """int32 codes -> float32: sign, exponent, mantissa; OCP MX 1.0, section 5.3. No code is infinite or NaN."""
    exponent_bits, sign = EXPONENT_BITS[w_format], 1 << (BITS[w_format] - 1)
    mantissa_bits = BITS[w_format] - 1 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    exponent = (code & (sign - 1)) >> mantissa_bits
    fraction = (code & (2**mantissa_bits - 1)).float() / 2**mantissa_bits + (exponent > 0)
    magnitude = fraction * torch.exp2(exponent.clamp_min(1).float() - bias)
    return torch.where(code & sign > 0, -magnitude, magnitude)


def scales(scale: torch.Tensor) -> torch.Tensor:
    """[rows, k / 32] e8m0 -> [rows, k] float32."""
    return torch.exp2(scale.float() - ONE).repeat_interleave(GROUP, 1)


def weights(w: torch.Tensor, w_scale: torch.Tensor, w_format: str) -> torch.Tensor:
    """[n, k] float32; bfloat16 holds them as well."""
    return values(codes(w, BITS[w_format]), w_format) * scales(w_scale)
