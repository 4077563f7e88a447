"""The memory-bound pieces alone: RMSNorm, residual add with RMSNorm, SwiGLU's product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..problem import Cost, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged
from ._draw import DISTRIBUTIONS, draw_activation, draw_norm_weight, unit_roundoff

if TYPE_CHECKING:
    import torch


LIFT = 3.0
"""The second half of a norm's rows is larger by this: the RMS is then far from 1, and from that of half a row."""


@dataclass(frozen=True)
class RMSNorm(Problem):
    """out = x / sqrt(mean(x^2) + epsilon) * weight, row by row.

    x       [tokens, hidden_size]   dtype
    weight  [hidden_size]           dtype
    out     [tokens, hidden_size]   dtype
    """

    tokens: int = tagged("t")
    hidden_size: int = tagged("h")
    dtype: str = tagged("", "bfloat16")
    epsilon: float = tagged("eps", 1e-6)

    family: ClassVar[str] = "mlp"
    task: ClassVar[str] = "rmsnorm"
    residency: ClassVar[Mapping[str, Residency]] = {"x": Residency.WARM, "weight": Residency.COLD}
    activations: ClassVar[tuple[str, ...]] = ("x",)
    plan_inputs: ClassVar[tuple[str, ...]] = ()
    distributions: ClassVar[tuple[str, ...]] = DISTRIBUTIONS

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype, shape = getattr(torch, self.dtype), (self.tokens, self.hidden_size)
        if device == "meta":
            activations = {name: torch.empty(shape, dtype=dtype, device=device) for name in self.activations}
            return activations | {"weight": torch.empty(shape[1:], dtype=dtype, device=device)}
        generator = torch.Generator(device).manual_seed(seed)
        drawn = {name: draw_activation(shape, dtype, generator, distribution) for name in self.activations}
        for tensor in drawn.values():
            tensor[:, self.hidden_size // 2 :] *= LIFT
        return drawn | {"weight": draw_norm_weight(self.hidden_size, dtype, generator)}

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        for name in self.activations:
            inputs[name].normal_(generator=generator)
            inputs[name][:, self.hidden_size // 2 :] *= LIFT

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"out": TensorSpec((self.tokens, self.hidden_size), self.dtype)}

    def tolerances(self) -> dict[str, Tolerance]:
        # Two roundings, of x / rms and of the result, each of at most one unit. The RMS is no smaller where outliers
        # make up all of it.
        eps = unit_roundoff(self.dtype)
        return {"out": Tolerance(atol_rms=eps / 64, rtol=2.1 * eps, relative_rms=2.1 * eps)}

    def cost(self, inputs: Inputs) -> Cost:
        elements = self.tokens * self.hidden_size
        return Cost(
            flops=4 * elements,
            cold_read_bytes=2 * self.hidden_size,
            write_bytes=2 * elements * len(self.output_specs()),
            compute_dtype="float32",
        )

    def memory_bytes(self) -> int:
        tensors = len(self.activations) + len(self.output_specs())
        return 2 * self.hidden_size * (1 + self.tokens * tensors)

    def cut(self) -> Problem:
        """Three rows."""
        return replace(self, tokens=min(self.tokens, 3))

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import of_rmsnorm

        return of_rmsnorm(self)


@dataclass(frozen=True)
class AddRMSNorm(RMSNorm):
    """A residual is added and the sum normed; both are outputs.

    residual_out = x + residual
    out = residual_out / sqrt(mean(residual_out^2) + epsilon) * weight

        x, residual        [tokens, hidden_size]   dtype
        weight             [hidden_size]           dtype
        out, residual_out  [tokens, hidden_size]   dtype

    Out of place: a library that overwrites x and residual has to be given copies.
    """

    task: ClassVar[str] = "add_rmsnorm"
    residency: ClassVar[Mapping[str, Residency]] = {**RMSNorm.residency, "residual": Residency.WARM}
    activations: ClassVar[tuple[str, ...]] = ("x", "residual")

    def output_specs(self) -> dict[str, TensorSpec]:
        out = TensorSpec((self.tokens, self.hidden_size), self.dtype)
        return {"out": out, "residual_out": out}

    def tolerances(self) -> dict[str, Tolerance]:
        # As RMSNorm, and some kernels norm the sum only after they rounded it: a third rounding.
        eps = unit_roundoff(self.dtype)
        return {
            "out": Tolerance(atol_rms=eps / 64, rtol=3.2 * eps, relative_rms=3.2 * eps),
            "residual_out": Tolerance(atol_rms=eps / 64, rtol=1.05 * eps, relative_rms=1.05 * eps),
        }

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import of_add_rmsnorm

        return of_add_rmsnorm(self)


@dataclass(frozen=True)
class SwiGLU(Problem):
    """out = silu(g) * u with [g | u] the halves of a row, silu(g) = g / (1 + exp(-g)).

    gate_up  [tokens, 2 * intermediate_size]   dtype
    out      [tokens, intermediate_size]       dtype
    """

    tokens: int = tagged("t")
    intermediate_size: int = tagged("i")
    dtype: str = tagged("", "bfloat16")

    family: ClassVar[str] = "mlp"
    task: ClassVar[str] = "swiglu"
    residency: ClassVar[Mapping[str, Residency]] = {"gate_up": Residency.WARM}
    activations: ClassVar[tuple[str, ...]] = ("gate_up",)
    plan_inputs: ClassVar[tuple[str, ...]] = ()
    distributions: ClassVar[tuple[str, ...]] = ("normal", "outliers")

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype, shape = getattr(torch, self.dtype), (self.tokens, 2 * self.intermediate_size)
        if device == "meta":
            return {"gate_up": torch.empty(shape, dtype=dtype, device=device)}
        return {"gate_up": draw_activation(shape, dtype, torch.Generator(device).manual_seed(seed), distribution)}

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        inputs["gate_up"].normal_(generator=generator)

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"out": TensorSpec((self.tokens, self.intermediate_size), self.dtype)}

    def tolerances(self) -> dict[str, Tolerance]:
        # Two roundings, of silu(g) and of the product; a denormal silu(g) of float16 loses digits.
        eps = unit_roundoff(self.dtype)
        return {"out": Tolerance(atol_rms=eps / 16, rtol=2.1 * eps, relative_rms=2.1 * eps)}

    def cost(self, inputs: Inputs) -> Cost:
        elements = self.tokens * self.intermediate_size
        return Cost(flops=5 * elements, cold_read_bytes=0, write_bytes=2 * elements, compute_dtype="float32")

    def memory_bytes(self) -> int:
        return 2 * 3 * self.tokens * self.intermediate_size

    def cut(self) -> Problem:
        """Three rows."""
        return replace(self, tokens=min(self.tokens, 3))

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import of_swiglu

        return of_swiglu(self)


_TOKENS = (1, 64, 1024, 16384)

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (RMSNorm(32, 1024), AddRMSNorm(32, 1024), SwiGLU(32, 1024)),
    Tier.CI: (RMSNorm(1024, 8192), AddRMSNorm(1024, 8192), AddRMSNorm(16384, 8192), SwiGLU(1024, 28672)),
    Tier.FULL: (
        *(RMSNorm(tokens, h) for h in (4096, 7168, 8192) for tokens in _TOKENS),
        *(AddRMSNorm(tokens, h) for h in (4096, 7168, 8192) for tokens in _TOKENS),
        *(SwiGLU(tokens, i) for i in (3584, 14336, 28672) for tokens in _TOKENS),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    RMSNorm(3, 1001, dtype="float16", epsilon=1e-5),
    AddRMSNorm(2, 4099),
    SwiGLU(3, 333, dtype="float16"),
)
