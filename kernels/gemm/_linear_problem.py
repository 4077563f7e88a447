"""A linear layer without bias: out = x . w^T, accumulated in fp32.

    x    [m, k]   dtype
    w    [n, k]   dtype; as linear layers store it, K contiguous
    out  [m, n]   out_dtype; rounded once

Sources of the shapes: `SPEED` and `SMALL` below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..problem import Inputs, Problem, Tier, tagged
from ._gemm import UNIT_ROUNDOFF, Gemm, drawn_normal, refill_normal, sum_error_of_16_bits

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Linear(Gemm):
    """One call of a linear layer."""

    dtype: str = tagged("", "bfloat16")
    out_dtype: str = tagged("out", "bfloat16")

    task: ClassVar[str] = "linear"
    activations: ClassVar[tuple[str, ...]] = ("x",)
    distributions: ClassVar[tuple[str, ...]] = ("normal", "positive")
    """Sums of terms of one sign grow with K: an accumulator with too few bits shows there first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in UNIT_ROUNDOFF:
            raise ValueError(f"Linear.dtype is {self.dtype!r}; it must be one of {', '.join(UNIT_ROUNDOFF)}.")

    @property
    def compute_dtype(self) -> str:
        return self.dtype

    @property
    def sum_error(self) -> float:
        """For fp32 inputs that of true fp32 products: tf32 inputs have a relative error of 2^-12."""
        return 2**-18 if self.dtype == "float32" else sum_error_of_16_bits(self.k)

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype = getattr(torch, self.dtype)
        if device == "meta":
            shapes = {"x": (self.m, self.k), "w": (self.n, self.k)}
            return {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
        positive = {"normal": False, "positive": True}[distribution]
        generator = torch.Generator(device).manual_seed(seed)
        w = drawn_normal((self.n, self.k), self.k**-0.5, dtype, generator, positive=positive)
        return {"x": drawn_normal((self.m, self.k), 1.0, dtype, generator, positive=positive), "w": w}

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        refill_normal(inputs["x"], 1.0, generator)


SPEED = tuple((n, k) for n, k in ((8192, 8192), (2112, 7168), (256, 7168)))
"""(n, k) of a Llama-3-70B projection, and of DeepSeek-V3's latent projection and router."""
SMALL = (
    (4, 2880, 512), (16, 2112, 7168), (32, 4096, 512), (32, 2880, 512), (64, 7168, 2048), (256, 3072, 1536),
)  # fmt: skip
"""(m, n, k) of the AMD developer challenge 2026's product."""
LLAMA_70B = ((10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672))
"""(n, k) of fused QKV, output, gate and up, down."""
DEEPSEEK_V3 = ((24576, 1536), (32768, 512), (7168, 16384), (36864, 7168), (7168, 18432), (4096, 7168))
"""(n, k) of q_b, kv_b, output, gate and up, down, and the shared expert's gate and up."""

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (Linear(32, 2880, 512),),
    Tier.CI: (
        Linear(1, 8192, 8192),
        Linear(128, 8192, 8192),
        Linear(16, 2112, 7168),
        Linear(16, 256, 7168),
        Linear(128, 256, 7168),
        Linear(4096, 4096, 4096),
    ),
    Tier.FULL: (
        *(Linear(m, n, k) for n, k in SPEED for m in (1, 2, 4, 8, 16, 32, 64, 128)),
        *(Linear(*mnk) for mnk in SMALL if mnk != (16, 2112, 7168)),
        *(Linear(m, n, k) for m in (1, 16, 128, 256) for n, k in LLAMA_70B if (n, k) not in SPEED),
        *(Linear(m, n, k) for m in (1, 16, 128, 256) for n, k in DEEPSEEK_V3),
        *(Linear(256, n, k) for n, k in SPEED),
        *(Linear(m, 4096, k) for m in (128, 256) for k in (1024, 4096)),
        Linear(16, 8192, 8192, dtype="float16", out_dtype="float16"),
        Linear(128, 8192, 8192, out_dtype="float32"),
        Linear(16, 128256, 4096, out_dtype="float32"),
        Linear(4096, 4096, 4096),
        Linear(8192, 8192, 8192),
        Linear(8192, 8192, 8192, dtype="float16", out_dtype="float16"),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    Linear(1, 251, 333),  # one token, N prime, K odd
    Linear(17, 130, 1000, dtype="float16", out_dtype="float16"),
    Linear(131, 104, 200, out_dtype="float32"),
    Linear(3, 40, 129, dtype="float32", out_dtype="float32"),
)
