"""What the three tasks share: out = x . w^T, its cost, its tolerance, and random values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ..problem import Cost, Inputs, NullKernel, Problem, Residency, TensorSpec, Tolerance, tagged

if TYPE_CHECKING:
    import torch

UNIT_ROUNDOFF: Mapping[str, float] = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 2**-24}
"""The most by which rounding to a dtype changes a value, relative to the value."""
FEW_OUTPUTS = 256
DRAWN_ROWS = 1 << 14
"""Rows of a tensor that are drawn at once, so that 8-bit weights need no 16-bit copy of themselves."""
ItsGemm = TypeVar("ItsGemm", bound="Gemm")


@dataclass(frozen=True)
class Gemm(Problem):
    """out = x . w^T: `m` tokens, `n` output features, `k` input features."""

    m: int = tagged("m")
    n: int = tagged("n")
    k: int = tagged("k")

    family: ClassVar[str] = "gemm"
    residency: ClassVar[Mapping[str, Residency]] = {
        "x": Residency.WARM,
        "x_scale": Residency.WARM,
        "w": Residency.COLD,
        "w_scale": Residency.COLD,
    }
    plan_inputs: ClassVar[tuple[str, ...]] = ()
    out_dtype: str = tagged("out")
    rounding_rms: ClassVar[float] = 0.75
    """Allowed relative rms error of rounding to out_dtype, in units of its roundoff: see `tolerances`."""

    def __post_init__(self) -> None:
        if min(self.m, self.n, self.k) < 1:
            raise ValueError(f"{type(self).__name__} needs m, n and k of at least 1: {self.m}, {self.n}, {self.k}.")
        if self.out_dtype not in UNIT_ROUNDOFF:
            raise ValueError(f"out_dtype is {self.out_dtype!r}; it must be one of {', '.join(UNIT_ROUNDOFF)}.")

    @property
    def compute_dtype(self) -> str:
        """The dtype whose peak rate bounds the products."""
        raise NotImplementedError

    @property
    def sum_error(self) -> float:
        """What accumulation may add to an exact sum: rms relative to the outputs' rms."""
        return sum_error_of_16_bits(self.k)

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"out": TensorSpec((self.m, self.n), self.out_dtype)}

    def tolerances(self) -> dict[str, Tolerance]:
        # Rounding a normal variable to nearest has a relative rms error of 0.39 u; sums that are rounded to out_dtype
        # in two or more parts before they are added, as cuBLAS may, 0.55 u. Sums kept in 16 bits have several u.
        # Of few outputs the rms may be that of their worst.
        u, sums, few = UNIT_ROUNDOFF[self.out_dtype], self.sum_error, self.m * self.n < FEW_OUTPUTS
        allowed_rms = u + 32 * sums if few else self.rounding_rms * u + sums
        return {"out": Tolerance(rtol=2 * u, atol_rms=3 * u + 8 * sums, relative_rms=allowed_rms)}

    def cost(self, inputs: Inputs) -> Cost:
        cold = [t for name, t in inputs.items() if self.residency[name] is Residency.COLD]
        return Cost(
            flops=2 * self.m * self.n * self.k,
            cold_read_bytes=sum(t.numel() * t.element_size() for t in cold),
            write_bytes=self.m * self.n * bytes_of(self.out_dtype),
            compute_dtype=self.compute_dtype,
        )

    def memory_bytes(self) -> int:
        inputs = self.make_inputs(0, "meta")
        return sum(t.numel() * t.element_size() for t in inputs.values()) + self.m * self.n * bytes_of(self.out_dtype)

    def cut(self: ItsGemm) -> ItsGemm:
        """At most 8 tokens and 160 features: every output is computed by itself, from all of K."""
        return replace(self, m=min(self.m, 8), n=min(self.n, 160))

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import null_kernels

        return null_kernels(self)


def sum_error_of_16_bits(k: int) -> float:
    """fp32 sums of exact products. Tensor cores cut off what lies below the last bit of the largest of the 17 terms
    of a step: for terms of one sign a bias of up to 2^-25 for each of the K terms. 2^-18: a reference in fp32."""
    return float(2**-18 + k * 2**-25)


def bytes_of(dtype: str) -> int:
    """Of one element."""
    return {"bfloat16": 2, "float16": 2, "float32": 4}[dtype]


def groups(size: int, group: int) -> int:
    """How many groups cover `size`."""
    return math.ceil(size / group)


def drawn_normal(
    shape: tuple[int, ...], std: float, dtype: torch.dtype, generator: torch.Generator, *, positive: bool
) -> torch.Tensor:
    """N(0, std) of `dtype` on the generator's device; of `positive` the absolute values."""
    import torch

    out = torch.empty(shape, dtype=dtype, device=generator.device)
    refill_normal(out, std, generator)
    if positive:
        for part in out.split(DRAWN_ROWS):
            part.copy_(part.float().abs())
    return out


def refill_normal(tensor: torch.Tensor, std: float, generator: torch.Generator) -> None:
    """N(0, std) in place; in 8-bit floats within 240, the largest number of both e4m3 types."""
    import torch

    if tensor.element_size() > 1:
        tensor.normal_(0, std, generator=generator)
        return
    for part in tensor.split(DRAWN_ROWS):
        drawn = torch.empty_like(part, dtype=torch.bfloat16).normal_(0, std, generator=generator)
        part.copy_(drawn.clamp_(-240, 240))


def refill_log_uniform(scale: torch.Tensor, middle: float, generator: torch.Generator) -> None:
    """`middle` times 2^U(-1, 1), in place."""
    scale.uniform_(-1, 1, generator=generator).exp2_().mul_(middle)
