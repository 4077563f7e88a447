"""Experts: what their two tasks share, and the grouped product with SwiGLU alone.

An expert e has gate and up projections, rows [0, I) and [I, 2 I) of w13[e]. Rows of x are sorted by expert, and

    h[r] = silu(x[r] . gate_e^T) * (x[r] . up_e^T)        for the e that row r belongs to

    x            [tokens * top_k, H]   dtype, or 8 bits        x_scale  [tokens * top_k, H / 128] float32, with 8 bits
    expert_ends  [num_experts] int32: rows of expert e are [expert_ends[e - 1], expert_ends[e])
    h            [tokens * top_k, I]   dtype

w13 [experts, 2 I, H] is in `dtype`, or in 8 bits with a float32 scale for each block of 128 x 128, w13_scale.

Source of the shapes: Mixtral 8x7B, DeepSeek-V3, Qwen3-30B-A3B and 235B-A22B, gpt-oss-120b, Kimi-K2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..problem import Cost, Edit, Inputs, NullKernel, Problem, Residency, TensorSpec, Tolerance, tagged

if TYPE_CHECKING:
    import torch

    from ..device import Device

BLOCK = 128
"""Rows and columns of a weight that share a scale; columns of an activation."""


@dataclass(frozen=True)
class Experts(Problem):
    """What both tasks share."""

    tokens: int = tagged("t")
    hidden_size: int = tagged("h")
    intermediate_size: int = tagged("i")
    num_experts: int = tagged("e")
    top_k: int = tagged("k")
    routing: str = tagged("", "uniform")
    """How tokens spread over experts: see `_routing.base_ids`."""
    dtype: str = tagged("", "bfloat16")
    weight_dtype: str = tagged("w", "bfloat16")
    """`dtype`, or an e4m3 type of `Device.fp8_dtype`: then with scales of blocks, and activations in 8 bits too."""

    family: ClassVar[str] = "moe"
    plan_inputs: ClassVar[tuple[str, ...]] = ()
    residency: ClassVar[Mapping[str, Residency]] = {
        **dict.fromkeys(("w13", "w13_scale", "w2", "w2_scale"), Residency.COLD),
        **dict.fromkeys(
            ("x", "x_scale", "expert_ends", "hidden", "topk_ids", "topk_weights", "router_logits", "correction_bias"),
            Residency.WARM,
        ),
    }

    def __post_init__(self) -> None:
        from_8_bits = self.weight_dtype.startswith("float8_e4m3")
        if self.weight_dtype != self.dtype and not from_8_bits:
            raise ValueError(f"weight_dtype is {self.weight_dtype!r}; it must be dtype ({self.dtype}) or an e4m3 type.")
        if from_8_bits and (self.hidden_size % BLOCK or self.intermediate_size % BLOCK):
            raise ValueError(f"Scales of blocks want sizes that are multiples of {BLOCK}.")

    @property
    def is_fp8(self) -> bool:
        """Whether weights and activations have 8 bits."""
        return self.weight_dtype != self.dtype

    @property
    def stored_experts(self) -> int:
        """Experts whose weights are here."""
        return self.num_experts

    def _draw_weights(self, names: tuple[str, ...], generator: torch.Generator | None) -> Inputs:
        """w13 and w2, as far as asked for, of variance 1 / columns; their scales spread by a factor of 3."""
        import torch

        from ._routing import fill_normal

        device = generator.device if generator else "meta"
        shapes = {
            "w13": (self.stored_experts, 2 * self.intermediate_size, self.hidden_size),
            "w2": (self.stored_experts, self.hidden_size, self.intermediate_size),
        }
        inputs = {}
        for name in names:
            experts, rows, columns = shapes[name]
            inputs[name] = torch.empty(shapes[name], dtype=getattr(torch, self.weight_dtype), device=device)
            scale = columns**-0.5
            if self.is_fp8:
                blocks = (experts, rows // BLOCK, columns // BLOCK)
                inputs[f"{name}_scale"] = torch.empty(blocks, dtype=torch.float32, device=device)
            if generator:
                fill_normal(inputs[name], 1.0 if self.is_fp8 else scale, generator)
                if self.is_fp8:
                    inputs[f"{name}_scale"].uniform_(0.5 * scale, 1.5 * scale, generator=generator)
        return inputs

    def _weight_bytes(self, rows: int, columns: int) -> int:
        return rows * columns + rows * columns // BLOCK**2 * 4 if self.is_fp8 else rows * columns * 2

    def unsupported_by(self, device: Device) -> str | None:
        if self.is_fp8 and self.weight_dtype != device.fp8_dtype and device.kind != "cpu":
            return f"{device.arch} has no {self.weight_dtype} (its e4m3 type is {device.fp8_dtype or 'none'})"
        return None

    def cut(self) -> Problem:
        """Few tokens, narrow experts, at most 16 of them: as many choices and roundings."""
        return replace(
            self,
            tokens=min(self.tokens, 24),
            hidden_size=min(self.hidden_size, 256),
            intermediate_size=min(self.intermediate_size, 256),
            num_experts=min(self.num_experts, 16),
        )

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        from ._edits import parts_of_a_used_expert

        return parts_of_a_used_expert(self, inputs, generator)


@dataclass(frozen=True)
class MoEGroupedGEMM(Experts):
    """The first product of all experts with its activation."""

    task: ClassVar[str] = "grouped_gemm"
    # Where experts' rows end is drawn anew as well: a kernel may not know it from an earlier call.
    activations: ClassVar[tuple[str, ...]] = ("x", "expert_ends")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_fp8:
            object.__setattr__(self, "activations", ("x", "x_scale", "expert_ends"))

    @property
    def rows(self) -> int:
        """Rows of x."""
        return self.tokens * self.top_k

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        x_dtype = getattr(torch, self.weight_dtype if self.is_fp8 else self.dtype)
        inputs = {"x": torch.empty((self.rows, self.hidden_size), dtype=x_dtype, device=device)}
        if self.is_fp8:
            inputs["x_scale"] = torch.empty((self.rows, self.hidden_size // BLOCK), device=device)
        inputs["expert_ends"] = torch.empty(self.num_experts, dtype=torch.int32, device=device)
        if device == "meta":
            return inputs | self._draw_weights(("w13",), None)
        generator = torch.Generator(device).manual_seed(seed)
        inputs |= self._draw_weights(("w13",), generator)
        self.redraw(inputs, generator)
        return inputs

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        from ._routing import fill_normal, redrawn_ends

        fill_normal(inputs["x"], 1.0, generator)
        if self.is_fp8:
            inputs["x_scale"].uniform_(0.5, 1.5, generator=generator)
        ends = redrawn_ends(self.tokens, self.num_experts, self.top_k, self.routing, generator)
        inputs["expert_ends"].copy_(ends)

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"h": TensorSpec((self.rows, self.intermediate_size), self.dtype)}

    def tolerances(self) -> dict[str, Tolerance]:
        # gate, up, silu and h are rounded to dtype once each; a large negative gate multiplies its own rounding.
        # Nothing is quantised here.
        eps = 2**-8 if self.dtype == "bfloat16" else 2**-11
        return {"h": Tolerance(atol_rms=8 * eps, rtol=8 * eps, relative_rms=2 * eps)}

    def cost(self, inputs: Inputs) -> Cost:
        ends = inputs["expert_ends"].tolist()
        used = sum(end > start for start, end in zip([0, *ends[:-1]], ends, strict=True))
        return Cost(
            flops=2 * self.rows * 2 * self.intermediate_size * self.hidden_size,
            cold_read_bytes=used * self._weight_bytes(2 * self.intermediate_size, self.hidden_size),
            write_bytes=self.rows * self.intermediate_size * 2,
            compute_dtype=self.weight_dtype,
        )

    def memory_bytes(self) -> int:
        weights = self.num_experts * self._weight_bytes(2 * self.intermediate_size, self.hidden_size)
        return weights + self.rows * (self.hidden_size + self.intermediate_size) * 2

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import grouped_gemm_null_kernels

        return grouped_gemm_null_kernels(self)
