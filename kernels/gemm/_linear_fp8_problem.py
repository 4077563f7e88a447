"""A linear layer in fp8: out = (x * x_scale) . (w * w_scale)^T, products and sums in fp32.

    x        [m, k]   dtype, an e4m3 type       w        [n, k]   dtype, K contiguous
    x_scale  [gk, gm] float32                   w_scale  [gn, gk] float32
    out      [m, n]   out_dtype; rounded once

    scaling     a scale of x belongs to    of w to      gk             gm   gn
    "block"     1 token, 128 of K          128 x 128    ceil(k / 128)  m    ceil(n / 128)     DeepSeek-V3's
    "row"       1 token                    1 feature    1              m    n
    "tensor"    all of x                   all of w     1              1    1

`x_scale` has the tokens contiguous, the layout that cuBLAS's and DeepGEMM's kernels read. Hopper's tensor cores keep
13 bits behind the point in sums of fp8 products (DeepSeek-V3, arXiv 2412.19437, section 3.3.2): sums must move to fp32
registers every 128 of K.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..problem import Inputs, Problem, Tier, tagged
from ._gemm import Gemm, drawn_normal, groups, refill_log_uniform, refill_normal
from ._linear_problem import SMALL

if TYPE_CHECKING:
    import torch

    from ..device import Device

GROUP = 128
SCALINGS = ("block", "row", "tensor")
STORED_STD = 48.0
"""Of values as stored: 5 sigma are 240, the largest number that both e4m3 types have."""


@dataclass(frozen=True)
class LinearFP8(Gemm):
    """One call of a linear layer whose activations were quantised before."""

    scaling: str = tagged("", "block")
    dtype: str = tagged("", "float8_e4m3fn")
    """An e4m3 type of `Device.fp8_dtype`."""
    out_dtype: str = tagged("out", "bfloat16")

    task: ClassVar[str] = "linear_fp8"
    activations: ClassVar[tuple[str, ...]] = ("x", "x_scale")
    rounding_rms: ClassVar[float] = 0.5
    """One rounding, no more: sums that stay in Hopper's tensor cores for all of K = 7168 come to 0.61 with it."""
    distributions: ClassVar[tuple[str, ...]] = ("normal",)
    """Of terms of one sign, 128 summed with 13 bits are off by 0.4%: no tolerance could both allow and forbid that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaling not in SCALINGS:
            raise ValueError(f"LinearFP8.scaling is {self.scaling!r}; it must be one of {', '.join(SCALINGS)}.")
        if not self.dtype.startswith("float8_e4m3"):
            raise ValueError(f"LinearFP8.dtype is {self.dtype!r}; it must be an e4m3 type.")

    @property
    def compute_dtype(self) -> str:
        return self.dtype

    @property
    def sum_error(self) -> float:
        """Twice that of sums of 13 bits which move to fp32 every 128 of K: 2^-13.3, as simulated."""
        return 2**-12

    @property
    def x_scale_shape(self) -> tuple[int, int]:
        """[gk, gm]."""
        return self._k_groups, 1 if self.scaling == "tensor" else self.m

    @property
    def w_scale_shape(self) -> tuple[int, int]:
        """[gn, gk]."""
        return {"block": groups(self.n, GROUP), "row": self.n, "tensor": 1}[self.scaling], self._k_groups

    @property
    def _k_groups(self) -> int:
        return groups(self.k, GROUP) if self.scaling == "block" else 1

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype = getattr(torch, self.dtype)
        inputs = {
            "x_scale": torch.empty(self.x_scale_shape, dtype=torch.float32, device=device),
            "w_scale": torch.empty(self.w_scale_shape, dtype=torch.float32, device=device),
        }
        if device == "meta":
            shapes = {"x": (self.m, self.k), "w": (self.n, self.k)}
            return inputs | {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
        if distribution not in self.distributions:
            raise ValueError(f"LinearFP8 has no distribution {distribution!r}.")
        generator = torch.Generator(device).manual_seed(seed)
        inputs["w"] = drawn_normal((self.n, self.k), STORED_STD, dtype, generator, positive=False)
        inputs["x"] = drawn_normal((self.m, self.k), STORED_STD, dtype, generator, positive=False)
        refill_log_uniform(inputs["w_scale"], self.k**-0.5 / STORED_STD, generator)
        refill_log_uniform(inputs["x_scale"], 1 / STORED_STD, generator)
        return inputs

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        refill_normal(inputs["x"], STORED_STD, generator)
        refill_log_uniform(inputs["x_scale"], 1 / STORED_STD, generator)

    def unsupported_by(self, device: Device) -> str | None:
        if self.dtype != device.fp8_dtype and device.kind != "cpu":
            return f"{device.arch} has no {self.dtype} (its e4m3 type is {device.fp8_dtype or 'none'})"
        return None


SPEED = ((2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048))
"""(n, k) of DeepSeek-V3's projections, as DeepGEMM's tests have them."""
FNUZ = "float8_e4m3fnuz"

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (LinearFP8(16, 2112, 1024),),
    Tier.CI: (LinearFP8(64, 7168, 2048), LinearFP8(64, 7168, 2048, dtype=FNUZ)),
    Tier.FULL: (
        *(
            LinearFP8(m, n, k, dtype=t)
            for m in (1, 16, 64, 128, 256)
            for n, k in SPEED
            for t in ("float8_e4m3fn", FNUZ)
        ),
        *(LinearFP8(*mnk) for mnk in SMALL if mnk[1:] not in SPEED),
        *(LinearFP8(m, 8192, 8192, scaling=s) for m in (16, 128) for s in SCALINGS),
        *(LinearFP8(m, 8192, 8192, scaling=s, dtype=FNUZ) for m in (16, 128) for s in SCALINGS),
        LinearFP8(4096, 4096, 4096),
        LinearFP8(4096, 7168, 16384),
        LinearFP8(8192, 8192, 8192, scaling="row"),
        LinearFP8(4096, 7168, 16384, dtype=FNUZ),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    LinearFP8(1, 251, 333),
    LinearFP8(19, 130, 400, scaling="row", out_dtype="float32"),
    LinearFP8(65, 131, 272, dtype=FNUZ),
    LinearFP8(100, 131, 272),
    LinearFP8(131, 200, 400),
    LinearFP8(67, 131, 332),
    LinearFP8(5, 48, 144, scaling="tensor", dtype=FNUZ, out_dtype="float16"),
)
