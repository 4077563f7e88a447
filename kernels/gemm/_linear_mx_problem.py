"""A linear layer with microscaled weights: groups of 32 along K share a power of two (OCP MX 1.0).

    x        [m, k]        bfloat16, or float8_e4m3fn where `x_format` is "mxfp8"
    x_scale  [m, k / 32]   uint8, where `x_format` is "mxfp8": e8m0, 2^(code - 127)
    w        [n, k / 2]    uint8, "mxfp4": e2m1, two in a byte, the first in its low half
             [n, k * 3/4]  uint8, "mxfp6_e2m3" and "mxfp6_e3m2": four in three bytes, the first in the lowest 6 bits of
                           these 24, little-endian: 32 values lie in 24 bytes as CDNA4's matrix instructions take them
    w_scale  [n, k / 32]   uint8, e8m0
    out      [m, n]        out_dtype; rounded once

    out = (x * 2^(x_scale - 127)) . (decoded w * 2^(w_scale - 127))^T

Every decoded weight times its scale is a bf16 number, so a kernel may dequantise and multiply in bf16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..problem import Edit, Inputs, Problem, Tier, tagged
from ._gemm import Gemm, drawn_normal, refill_normal
from ._linear_problem import SMALL

if TYPE_CHECKING:
    import torch

    from ..device import Device

GROUP = 32
BITS: Mapping[str, int] = {"mxfp4": 4, "mxfp6_e2m3": 6, "mxfp6_e3m2": 6}
SIGNS: Mapping[int, tuple[int, ...]] = {4: (0x88,), 6: (0x20, 0x08, 0x82)}
"""The sign bits in the bytes of w, repeated along a row; by bits of a value."""
X_FORMATS = ("bfloat16", "mxfp8")
ONE = 127
"""The e8m0 code of 1."""
SPREAD = 2
"""Scales are drawn from 2^-SPREAD to 2^SPREAD times the one that makes outputs about 1."""
RMS: Mapping[str, float] = {"mxfp4": 2.93, "mxfp6_e2m3": 3.6, "mxfp6_e3m2": 9.1}
"""Of all codes of a format, about."""


@dataclass(frozen=True)
class LinearMX(Gemm):
    """One call of a linear layer with 4- or 6-bit weights."""

    w_format: str = tagged("", "mxfp4")
    x_format: str = tagged("x", "bfloat16")
    out_dtype: str = tagged("out", "bfloat16")

    task: ClassVar[str] = "linear_mx"
    activations: ClassVar[tuple[str, ...]] = ("x", "x_scale")
    distributions: ClassVar[tuple[str, ...]] = ("normal", "positive")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.w_format not in BITS or self.x_format not in X_FORMATS:
            raise ValueError(
                f"LinearMX has w_format {self.w_format!r} and x_format {self.x_format!r}; "
                f"known are {', '.join(BITS)} and {', '.join(X_FORMATS)}."
            )
        if self.k % GROUP:
            raise ValueError(f"LinearMX.k is {self.k}; microscaling wants a multiple of {GROUP}.")

    @property
    def compute_dtype(self) -> str:
        return "bfloat16" if self.x_format == "bfloat16" else "float8_e4m3fn"

    @property
    def sign_bytes(self) -> Mapping[str, tuple[int, ...]]:
        return {"w": SIGNS[BITS[self.w_format]]}

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of w."""
        return self.k * BITS[self.w_format] // 8

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        has_x_scale = self.x_format == "mxfp8"
        x_dtype = torch.float8_e4m3fn if has_x_scale else torch.bfloat16
        codes = {"w": (self.n, self.row_bytes), "w_scale": (self.n, self.k // GROUP)}
        if has_x_scale:
            codes["x_scale"] = (self.m, self.k // GROUP)
        inputs = {name: torch.empty(shape, dtype=torch.uint8, device=device) for name, shape in codes.items()}
        if device == "meta":
            return inputs | {"x": torch.empty((self.m, self.k), dtype=x_dtype, device=device)}
        positive = {"normal": False, "positive": True}[distribution]
        generator = torch.Generator(device).manual_seed(seed)
        inputs["w"].random_(0, 256, generator=generator)
        if positive:
            inputs["w"].bitwise_and_(~self._sign_bits(device))
        middle = ONE - round(math.log2(RMS[self.w_format] * self.k**0.5))
        inputs["w_scale"].random_(middle - SPREAD, middle + SPREAD + 1, generator=generator)
        inputs["x"] = drawn_normal((self.m, self.k), 1.0, x_dtype, generator, positive=positive)
        if has_x_scale:
            inputs["x_scale"].random_(ONE - SPREAD, ONE + SPREAD + 1, generator=generator)
        return inputs

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        refill_normal(inputs["x"], 1.0, generator)
        if "x_scale" in inputs:
            inputs["x_scale"].random_(ONE - SPREAD, ONE + SPREAD + 1, generator=generator)

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        """Some features change their sign, and some double."""
        import torch

        w, scale = inputs["w"], inputs["w_scale"]
        drawn = torch.randint(self.n, (8,), device=w.device, generator=generator)
        flipped, doubled = drawn[:4].unique(), drawn[4:].unique()
        return [
            Edit("w", flipped, w[flipped] ^ self._sign_bits(w.device)),
            Edit("w_scale", doubled, scale[doubled] + 1),
        ]

    def unsupported_by(self, device: Device) -> str | None:
        if self.x_format == "mxfp8" and device.kind == "cuda" and device.fp8_dtype is None:
            return f"{device.arch} has no e4m3 type"
        return None

    def _sign_bits(self, device: str | torch.device) -> torch.Tensor:
        """[row_bytes] uint8."""
        import torch

        signs = SIGNS[BITS[self.w_format]]
        return torch.tensor(signs, dtype=torch.uint8, device=device).repeat(self.row_bytes // len(signs))


SPEED = ((8192, 8192), (2112, 7168), (7168, 2048), (57344, 8192), (5760, 2880))
"""(n, k) of Llama-3-70B's and DeepSeek-V3's projections, and of an expert of gpt-oss."""

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (LinearMX(16, 2880, 512),),
    Tier.CI: (LinearMX(16, 8192, 8192), LinearMX(16, 8192, 8192, w_format="mxfp6_e2m3")),
    Tier.FULL: (
        *(LinearMX(m, n, k) for m in (1, 16, 64, 128, 256) for n, k in SPEED),
        *(LinearMX(m, 8192, 8192, w_format=w) for m in (1, 16, 128) for w in ("mxfp6_e2m3", "mxfp6_e3m2")),
        *(LinearMX(m, 8192, 8192, x_format="mxfp8") for m in (16, 128, 4096)),
        *(LinearMX(*mnk) for mnk in SMALL if mnk[1:] not in SPEED),
        LinearMX(4096, 4096, 4096),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    LinearMX(1, 251, 352),
    LinearMX(33, 130, 96, out_dtype="float32"),
    LinearMX(5, 131, 224, w_format="mxfp6_e3m2"),
    LinearMX(18, 70, 160, w_format="mxfp6_e2m3", x_format="mxfp8", out_dtype="float16"),
)
