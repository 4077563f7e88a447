"""QK-norm, RoPE and the append to a paged cache: what stands between a QKV projection and decode attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..angles import edited_angles
from ..problem import Cost, Edit, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged
from ._draw import DISTRIBUTIONS, draw_activation, draw_norm_weight, rope_table, unit_roundoff

if TYPE_CHECKING:
    import torch

SPARE_SLOTS = 4
"""The caches have this many times the slots that a call writes."""


@dataclass(frozen=True)
class QKNormRopeAppend(Problem):
    """Queries and keys are normed and turned; keys and values go to their slots of a paged cache, in place.

    For each head of q and k: q = q / sqrt(mean(q^2) + epsilon) * q_norm_weight, k likewise; then RoPE (NeoX's halves)
    at position p, with [c | s] = cos_sin[p]: [a | b] -> [a * c - b * s | b * c + a * s]. Values stay as they are.

        qkv            [tokens, (num_heads + 2 * num_kv_heads) * head_dim]   dtype; q's heads, k's, v's
        q_norm_weight, k_norm_weight  [head_dim]                             dtype
        cos_sin        [max_position, head_dim]                              float32; cosines, then sines
        positions      [tokens]                                              int64, any order
        slots          [tokens]                                              int64, none twice: page * page_size + row
        k_cache, v_cache  [num_pages, page_size, num_kv_heads, head_dim]     dtype; rows of `slots` are written
        q              [tokens, num_heads, head_dim]                         dtype

    Source: Qwen3's attention over vLLM's and FlashInfer's paged cache (layout NHD).
    """

    tokens: int = tagged("t")
    num_heads: int = tagged("q")
    num_kv_heads: int = tagged("kv")
    head_dim: int = tagged("d", 128)
    page_size: int = tagged("p", 16)
    max_position: int = tagged("pos", 8192)
    dtype: str = tagged("", "bfloat16")
    epsilon: float = tagged("eps", 1e-6)

    family: ClassVar[str] = "mlp"
    task: ClassVar[str] = "qk_append"
    residency: ClassVar[Mapping[str, Residency]] = {
        "qkv": Residency.WARM,
        "q_norm_weight": Residency.COLD,
        "k_norm_weight": Residency.COLD,
        "cos_sin": Residency.WARM,
        "positions": Residency.WARM,
        "slots": Residency.WARM,
        "k_cache": Residency.COLD,
        "v_cache": Residency.COLD,
    }
    activations: ClassVar[tuple[str, ...]] = ("qkv",)
    plan_inputs: ClassVar[tuple[str, ...]] = ("positions", "slots")
    distributions: ClassVar[tuple[str, ...]] = DISTRIBUTIONS

    def __post_init__(self) -> None:
        if self.head_dim % 2:
            raise ValueError(f"QKNormRopeAppend.head_dim is {self.head_dim}; RoPE needs an even one.")

    @property
    def num_pages(self) -> int:
        """Pages of each cache."""
        return math.ceil(SPARE_SLOTS * self.tokens / self.page_size)

    @property
    def num_columns(self) -> int:
        """Columns of q, k and v together."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype, d, t = getattr(torch, self.dtype), self.head_dim, self.tokens
        cache_shape = (self.num_pages, self.page_size, self.num_kv_heads, d)
        if device == "meta":
            shapes = {"qkv": (t, self.num_columns), "q_norm_weight": (d,), "k_norm_weight": (d,),
                      "k_cache": cache_shape, "v_cache": cache_shape}  # fmt: skip
            inputs = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
            inputs["cos_sin"] = torch.empty((self.max_position, d), dtype=torch.float32, device=device)
            return inputs | {n: torch.empty((t,), dtype=torch.int64, device=device) for n in ("positions", "slots")}
        generator = torch.Generator(device).manual_seed(seed)
        num_slots = self.num_pages * self.page_size
        return {
            "qkv": draw_activation((t, self.num_columns), dtype, generator, distribution),
            "q_norm_weight": draw_norm_weight(d, dtype, generator),
            "k_norm_weight": draw_norm_weight(d, dtype, generator),
            "cos_sin": rope_table(self.max_position, d, device),
            "positions": torch.randint(self.max_position, (t,), device=device, generator=generator),
            "slots": torch.randperm(num_slots, device=device, generator=generator)[:t].contiguous(),
            "k_cache": torch.empty(cache_shape, dtype=dtype, device=device).normal_(generator=generator),
            "v_cache": torch.empty(cache_shape, dtype=dtype, device=device).normal_(generator=generator),
        }

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        inputs["qkv"].normal_(generator=generator)

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        """Only of the norms' weights and the angles: nothing of a cache is read."""
        weights = [edit for edit in super().edits(inputs, generator) if edit.name.endswith("_norm_weight")]
        return [*weights, edited_angles(inputs, "cos_sin", inputs["positions"], generator)]

    def updated_rows(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        import torch

        heads = torch.arange(self.num_kv_heads, device=inputs["slots"].device)
        rows = (inputs["slots"][:, None] * self.num_kv_heads + heads).flatten()
        return {"k_cache": rows, "v_cache": rows}

    def output_specs(self) -> dict[str, TensorSpec]:
        rows = TensorSpec((self.tokens * self.num_kv_heads, self.head_dim), self.dtype)
        q = TensorSpec((self.tokens, self.num_heads, self.head_dim), self.dtype)
        return {"q": q, "k_cache": rows, "v_cache": rows}

    def tolerances(self) -> dict[str, Tolerance]:
        # Two roundings, of the norm and of the rotation, which mixes two elements; k's reference is rounded as well.
        # Values are copied: no error but what a comparison in float32 may make.
        eps = unit_roundoff(self.dtype)
        turned = Tolerance(atol_rms=8 * eps, rtol=3 * eps, relative_rms=2 * eps)
        return {"q": turned, "k_cache": turned, "v_cache": Tolerance(rtol=eps / 64, relative_rms=eps / 64)}

    def cost(self, inputs: Inputs) -> Cost:
        # 4 FLOPs an element of a norm, 3 of a rotation.
        return Cost(
            flops=7 * self.tokens * (self.num_heads + self.num_kv_heads) * self.head_dim,
            cold_read_bytes=4 * self.head_dim,
            write_bytes=2 * self.tokens * self.num_columns,
            compute_dtype="float32",
        )

    def memory_bytes(self) -> int:
        caches = 2 * self.num_pages * self.page_size * self.num_kv_heads * self.head_dim
        table = 4 * self.max_position * self.head_dim + 16 * self.tokens
        return 2 * (caches + 2 * self.tokens * self.num_columns + 2 * self.head_dim) + table

    def cut(self) -> Problem:
        """Three tokens."""
        return replace(self, tokens=min(self.tokens, 3))

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import of_qk_append

        return of_qk_append(self)


PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (QKNormRopeAppend(24, 8, 2, max_position=512),),
    Tier.CI: (QKNormRopeAppend(8192, 64, 8),),
    Tier.FULL: tuple(
        QKNormRopeAppend(tokens, q, 8) for q in (32, 64) for tokens in (1, 16, 100, 128, 1024, 8192, 65536)
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    QKNormRopeAppend(7, 5, 2, head_dim=48, page_size=3, max_position=100, dtype="float16"),
)
