"""The fused QKV projection: RMSNorm, one product, QK-norm where a model has it, RoPE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..angles import edited_angles
from ..problem import Cost, Edit, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged
from ._draw import DISTRIBUTIONS, draw_activation, draw_norm_weight, draw_weight, rope_table, unit_roundoff

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class QKVProjection(Problem):
    """From the residual stream to queries, keys and values that attention can take.

    h = x / sqrt(mean(x^2) + epsilon) * norm_weight
    [q | k | v] = h . w_qkv^T, in heads of head_dim
    with QK-norm, for each head of q and k: q = q / sqrt(mean(q^2) + epsilon) * q_norm_weight, k likewise
    RoPE (NeoX's halves) of each head of q and k at position p, with [c | s] = cos_sin[p]:
        [a | b] -> [a * c - b * s | b * c + a * s]

        x              [tokens, hidden_size]                                 dtype
        norm_weight    [hidden_size]                                         dtype
        w_qkv          [(num_heads + 2 * num_kv_heads) * head_dim, hidden_size]  dtype; q's heads, k's, v's
        q_norm_weight, k_norm_weight  [head_dim]                             dtype; absent without QK-norm
        cos_sin        [max_position, head_dim]                              float32; cosines, then sines
        positions      [tokens]                                              int64, any order
        q              [tokens, num_heads, head_dim]                         dtype
        k, v           [tokens, num_kv_heads, head_dim]                      dtype

    Source: LLaMA's attention (32/8 heads is Llama-3-8B, 64/8 Llama-3-70B), with Qwen3's QK-norm.
    """

    tokens: int = tagged("t")
    hidden_size: int = tagged("h")
    num_heads: int = tagged("q")
    num_kv_heads: int = tagged("kv")
    qk_norm: bool = tagged("qknorm", False)
    head_dim: int = tagged("d", 128)
    max_position: int = tagged("p", 8192)
    dtype: str = tagged("", "bfloat16")
    epsilon: float = tagged("eps", 1e-6)

    family: ClassVar[str] = "mlp"
    task: ClassVar[str] = "qkv"
    residency: ClassVar[Mapping[str, Residency]] = {
        "x": Residency.WARM,
        "norm_weight": Residency.COLD,
        "w_qkv": Residency.COLD,
        "q_norm_weight": Residency.COLD,
        "k_norm_weight": Residency.COLD,
        "cos_sin": Residency.WARM,
        "positions": Residency.WARM,
    }
    activations: ClassVar[tuple[str, ...]] = ("x",)
    plan_inputs: ClassVar[tuple[str, ...]] = ("positions",)
    distributions: ClassVar[tuple[str, ...]] = DISTRIBUTIONS

    def __post_init__(self) -> None:
        if self.head_dim % 2:
            raise ValueError(f"QKVProjection.head_dim is {self.head_dim}; RoPE needs an even one.")

    @property
    def num_columns(self) -> int:
        """Columns of q, k and v together."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype, h, d = getattr(torch, self.dtype), self.hidden_size, self.head_dim
        if device == "meta":
            shapes = {"x": (self.tokens, h), "norm_weight": (h,), "w_qkv": (self.num_columns, h),
                      "q_norm_weight": (d,), "k_norm_weight": (d,)}  # fmt: skip
            inputs = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
            inputs["cos_sin"] = torch.empty((self.max_position, d), dtype=torch.float32, device=device)
            inputs["positions"] = torch.empty((self.tokens,), dtype=torch.int64, device=device)
        else:
            generator = torch.Generator(device).manual_seed(seed)
            inputs = {
                "x": draw_activation((self.tokens, h), dtype, generator, distribution),
                "norm_weight": draw_norm_weight(h, dtype, generator),
                "w_qkv": draw_weight(self.num_columns, h, 1.0, dtype, generator),
                "q_norm_weight": draw_norm_weight(d, dtype, generator),
                "k_norm_weight": draw_norm_weight(d, dtype, generator),
                "cos_sin": rope_table(self.max_position, d, device),
                "positions": torch.randint(self.max_position, (self.tokens,), device=device, generator=generator),
            }
        return {name: t for name, t in inputs.items() if self.qk_norm or name not in ("q_norm_weight", "k_norm_weight")}

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        inputs["x"].normal_(generator=generator)

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        """Of the weights, and of the angles."""
        return [*super().edits(inputs, generator), edited_angles(inputs, "cos_sin", inputs["positions"], generator)]

    def output_specs(self) -> dict[str, TensorSpec]:
        heads = {"q": self.num_heads, "k": self.num_kv_heads, "v": self.num_kv_heads}
        return {name: TensorSpec((self.tokens, n, self.head_dim), self.dtype) for name, n in heads.items()}

    def tolerances(self) -> dict[str, Tolerance]:
        # Roundings, each with an RMS of about 0.4 units: h, the product, the head's norm, the rotation. A rotation
        # mixes two elements, so errors scale with the RMS rather than with the element.
        eps = unit_roundoff(self.dtype)
        rotated = Tolerance(atol_rms=8 * eps, rtol=2 * eps, relative_rms=2 * eps)
        return {"q": rotated, "k": rotated, "v": Tolerance(atol_rms=4 * eps, rtol=1.5 * eps, relative_rms=1.5 * eps)}

    def cost(self, inputs: Inputs) -> Cost:
        norms = self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return Cost(
            flops=2 * self.tokens * self.hidden_size * self.num_columns,
            cold_read_bytes=2 * (self.hidden_size * self.num_columns + norms),
            write_bytes=2 * self.tokens * self.num_columns,
            compute_dtype=self.dtype,
        )

    def memory_bytes(self) -> int:
        table = 4 * self.max_position * self.head_dim + 8 * self.tokens
        weights = self.hidden_size * (self.num_columns + 1) + 2 * self.head_dim
        return 2 * (weights + self.tokens * (self.hidden_size + self.num_columns)) + table

    def cut(self) -> Problem:
        """Three tokens of a narrower layer."""
        return replace(self, tokens=min(self.tokens, 3), hidden_size=min(self.hidden_size, 256))

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import of_qkv

        return of_qkv(self)


_MODELS = ((4096, 32, 8), (8192, 64, 8))

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (QKVProjection(6, 256, 4, 2, qk_norm=True, head_dim=64, max_position=512),),
    Tier.CI: (QKVProjection(2048, 4096, 32, 8, qk_norm=True),),
    Tier.FULL: tuple(
        QKVProjection(tokens, h, q, kv, qk_norm)
        for h, q, kv in _MODELS
        for qk_norm in (False, True)
        for tokens in (1, 16, 100, 128, 1000, 4096, 8192)
    ),
}

HARD_CASES: tuple[Problem, ...] = (QKVProjection(67, 72, 3, 1, head_dim=48, max_position=100, dtype="float16"),)
