"""RoPE on queries and keys alone, out of place.

    q, k            [tokens, num_heads | num_kv_heads, head_dim]  dtype
    cos_sin_cache   [max_position, rotary_dim]                    cos_sin_dtype
    positions       [tokens]  int64: 0, 1, ...
    q_out, k_out    as q and k

The rotation is _rope_append_problem.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..angles import edited_angles
from ..problem import Cost, Edit, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged
from ._paged import DISTRIBUTIONS, MOST_WARM_BYTES, draw_rows, residencies, rotation_tolerance
from ._rotary import ROTATION_FLOPS, draw_cos_sin

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rope(Problem):
    """The queries and keys of one sequence."""

    tokens: int = tagged("t")
    num_heads: int = tagged("h", 32)
    num_kv_heads: int = tagged("k", 8)
    head_dim: int = tagged("d", 128)
    rotary_dim: int = tagged("r", 128)
    is_neox: bool = tagged("neox", True)
    dtype: str = tagged("", "bfloat16")
    cos_sin_dtype: str = tagged("cs", "float32")

    family: ClassVar[str] = "kv"
    task: ClassVar[str] = "rope"
    activations: ClassVar[tuple[str, ...]] = ("q", "k")
    plan_inputs: ClassVar[tuple[str, ...]] = ()
    distributions: ClassVar[tuple[str, ...]] = DISTRIBUTIONS

    def __post_init__(self) -> None:
        if not 0 < self.rotary_dim <= self.head_dim or self.rotary_dim % 2:
            raise ValueError(f"Rope.rotary_dim is {self.rotary_dim}; it must be even and at most {self.head_dim}.")

    @property
    def residency(self) -> Mapping[str, Residency]:  # type: ignore[override]
        """It depends on how many tokens there are."""
        return residencies((), self.activations, self._activation_bytes, ("cos_sin_cache", "positions"))

    @property
    def _activation_bytes(self) -> int:
        return 2 * self.tokens * (self.num_heads + self.num_kv_heads) * self.head_dim

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        heads = {"q": self.num_heads, "k": self.num_kv_heads}
        return {name: (self.tokens, count, self.head_dim) for name, count in heads.items()}

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        if device == "meta":
            dtype = getattr(torch, self.dtype)
            rows = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in self._shapes.items()}
            angles = torch.empty(
                (self.tokens, self.rotary_dim), dtype=getattr(torch, self.cos_sin_dtype), device=device
            )
            return {**rows, "cos_sin_cache": angles,
                    "positions": torch.empty((self.tokens,), dtype=torch.int64, device=device)}  # fmt: skip
        generator = torch.Generator(device).manual_seed(seed)
        return {
            **{name: draw_rows(shape, self.dtype, distribution, generator) for name, shape in self._shapes.items()},
            "cos_sin_cache": draw_cos_sin(self.tokens, self.rotary_dim, self.cos_sin_dtype).to(device),
            "positions": torch.arange(self.tokens, device=device),
        }

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        for name in self.activations:
            inputs[name].normal_(generator=generator)

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        return [edited_angles(inputs, "cos_sin_cache", inputs["positions"], generator)]

    def output_specs(self) -> dict[str, TensorSpec]:
        return {f"{name}_out": TensorSpec(shape, self.dtype) for name, shape in self._shapes.items()}

    def tolerances(self) -> dict[str, Tolerance]:
        return dict.fromkeys(("q_out", "k_out"), rotation_tolerance(self.dtype))

    def cost(self, inputs: Inputs) -> Cost:
        heads, num_bytes = self.tokens * (self.num_heads + self.num_kv_heads), self._activation_bytes
        return Cost(
            flops=ROTATION_FLOPS * heads * self.rotary_dim // 2,
            cold_read_bytes=num_bytes if num_bytes > MOST_WARM_BYTES else 0,
            write_bytes=num_bytes,
            compute_dtype="float32",
        )

    def memory_bytes(self) -> int:
        return self.tokens * (4 * (self.num_heads + self.num_kv_heads) * self.head_dim + 4 * self.rotary_dim + 8)

    def cut(self) -> Problem:
        return replace(self, tokens=min(self.tokens, 12))

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import null_kernels

        return null_kernels(self)


PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (),
    Tier.CI: (Rope(tokens=4096),),
    Tier.FULL: (
        *(Rope(tokens=2**n) for n in range(1, 17)),
        *(Rope(tokens=t, is_neox=False) for t in (64, 8192)),
        Rope(tokens=8192, rotary_dim=64),
        Rope(tokens=8192, cos_sin_dtype="bfloat16"),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    Rope(tokens=3, num_heads=5, num_kv_heads=1, head_dim=64, rotary_dim=24, is_neox=True, dtype="float16"),
)
