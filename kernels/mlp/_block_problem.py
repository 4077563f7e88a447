"""The gated MLP of a transformer layer, with or without its norm and residual."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..problem import (
    EDITED_ROWS,
    Cost,
    Edit,
    Inputs,
    NullKernel,
    Problem,
    Residency,
    TensorSpec,
    Tier,
    Tolerance,
    tagged,
)
from ._draw import DISTRIBUTIONS, draw_activation, draw_norm_weight, draw_weight, unit_roundoff

if TYPE_CHECKING:
    import torch

DOWN_GAIN = 1.67
"""1 over the standard deviation of silu(g) * u for standard normal g and u: the MLP's output has unit variance."""
WIDE = 4096
"""Columns of the narrowest model here."""


@dataclass(frozen=True)
class MLPBlock(Problem):
    """`x + down(silu(gate(h)) * up(h))` with `h = rmsnorm(x)`. Without norm and residual: a SwiGLU MLP alone.

    h = x / sqrt(mean(x^2) + epsilon) * norm_weight     or x, without a norm
    [g | u] = h . w_gate_up^T                           silu(g) = g / (1 + exp(-g))
    out = x + (silu(g) * u) . w_down^T                  or without x, without a residual

        x            [tokens, hidden_size]                   dtype
        norm_weight  [hidden_size]                           dtype; absent without a norm
        w_gate_up    [2 * intermediate_size, hidden_size]    dtype; the gate's rows, then up's
        w_down       [hidden_size, intermediate_size]        dtype
        out          [tokens, hidden_size]                   dtype

    Source: LLaMA's layer; the merged gate and up projection is vLLM's and SGLang's. 8192/3584 is one of eight
    tensor-parallel shards of 8192/28672 (Llama-3-70B).
    """

    tokens: int = tagged("t")
    hidden_size: int = tagged("h")
    intermediate_size: int = tagged("i")
    norm: bool = tagged("norm", True)
    residual: bool = tagged("res", True)
    dtype: str = tagged("", "bfloat16")
    epsilon: float = tagged("eps", 1e-6)

    family: ClassVar[str] = "mlp"
    task: ClassVar[str] = "block"
    residency: ClassVar[Mapping[str, Residency]] = {
        "x": Residency.WARM,
        "norm_weight": Residency.COLD,
        "w_gate_up": Residency.COLD,
        "w_down": Residency.COLD,
    }
    activations: ClassVar[tuple[str, ...]] = ("x",)
    plan_inputs: ClassVar[tuple[str, ...]] = ()
    distributions: ClassVar[tuple[str, ...]] = DISTRIBUTIONS

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype, h, i = getattr(torch, self.dtype), self.hidden_size, self.intermediate_size
        if device == "meta":
            shapes = {"x": (self.tokens, h), "norm_weight": (h,), "w_gate_up": (2 * i, h), "w_down": (h, i)}
            inputs = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
        else:
            generator = torch.Generator(device).manual_seed(seed)
            inputs = {
                "x": draw_activation((self.tokens, h), dtype, generator, distribution, self.norm),
                "norm_weight": draw_norm_weight(h, dtype, generator),
                "w_gate_up": draw_weight(2 * i, h, 1.0, dtype, generator),
                "w_down": draw_weight(h, i, DOWN_GAIN, dtype, generator),
            }
        return {name: tensor for name, tensor in inputs.items() if self.norm or name != "norm_weight"}

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        inputs["x"].normal_(generator=generator)

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        """Rows of the gate and up projection grow instead of changing their sign: one neuron of thousands must show."""
        import torch

        edits = [edit for edit in super().edits(inputs, generator) if edit.name != "w_gate_up"]
        weight = inputs["w_gate_up"]
        rows = torch.randint(len(weight), (EDITED_ROWS,), device=weight.device, generator=generator).unique()
        growth = max(4.0, math.sqrt(self.intermediate_size / EDITED_ROWS))
        return [*edits, Edit("w_gate_up", rows, (weight[rows].float() * growth).to(weight.dtype))]

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"out": TensorSpec((self.tokens, self.hidden_size), self.dtype)}

    def tolerances(self) -> dict[str, Tolerance]:
        # Up to seven roundings lie on the way of an unfused kernel: h, g, u, silu(g), silu(g) * u, the product with
        # w_down and the sum. One has an RMS of about 0.4 units; those before a product average out to the same RMS.
        # Together sqrt(7) * 0.4 units, and more than twice that where a few outliers make all of a small problem's
        # outputs; 15 units of the outputs' RMS are then 5 standard deviations. The last three are of the output's own
        # size, 1.5 units at worst, beside the others' tail over 33 million outputs: 2 units were too few for an unfused
        # library, four times in one call. In a wide layer with its residual, where none of this weighs much, the worst
        # library had an RMS of 1.42 units on an H200. A scale that is off by 1% has 2.6, a gate and up product in int8,
        # with a scale for every 128 columns, 2.75.
        eps = unit_roundoff(self.dtype)
        is_wide = self.residual and self.hidden_size >= WIDE
        return {"out": Tolerance(atol_rms=15 * eps, rtol=3 * eps, relative_rms=(2 if is_wide else 3) * eps)}

    def cost(self, inputs: Inputs) -> Cost:
        weights = 3 * self.hidden_size * self.intermediate_size
        return Cost(
            flops=2 * self.tokens * weights,
            cold_read_bytes=2 * (weights + (self.hidden_size if self.norm else 0)),
            write_bytes=2 * self.tokens * self.hidden_size,
            compute_dtype=self.dtype,
        )

    def memory_bytes(self) -> int:
        weights = 3 * self.hidden_size * self.intermediate_size + self.hidden_size
        return 2 * (weights + 2 * self.tokens * self.hidden_size)

    def cut(self) -> Problem:
        """Three tokens of a narrower layer: each token is computed by itself, and neurons are alike."""
        return replace(
            self,
            tokens=min(self.tokens, 3),
            hidden_size=min(self.hidden_size, 512),
            intermediate_size=min(self.intermediate_size, 1376),
        )

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import of_block

        return of_block(self)


_SHAPES = ((4096, 11008), (4096, 14336), (8192, 28672), (8192, 3584), (7168, 18432))


def _mlp(tokens: int, hidden_size: int, intermediate_size: int) -> MLPBlock:
    """A SwiGLU MLP alone."""
    return MLPBlock(tokens, hidden_size, intermediate_size, norm=False, residual=False)


PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (MLPBlock(5, 512, 1376),),
    Tier.CI: (
        *(MLPBlock(tokens, 8192, 3584) for tokens in (1, 16, 64)),
        MLPBlock(4096, 8192, 28672),
    ),
    Tier.FULL: (
        *(MLPBlock(tokens, h, i) for h, i in _SHAPES for tokens in (1, 7, 16, 64, 128, 333, 1024, 4096, 8192)),
        *(_mlp(tokens, 8192, 3584) for tokens in (1, 16, 64, 256, 2048)),
        *(_mlp(tokens, 8192, 28672) for tokens in (16, 4096)),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    MLPBlock(1, 100, 52, residual=False),  # rows that are no multiple of 16 bytes
    MLPBlock(130, 136, 72, norm=False, dtype="float16"),
)
