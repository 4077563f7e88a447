"""New keys and values appended to a paged cache as they are: vLLM's reshape_and_cache.

    k, v      [tokens, num_kv_heads, head_dim]                  dtype
    k_cache   [num_pages, page_size, num_kv_heads, head_dim]    updated
    v_cache   likewise

Nothing is returned: all outputs are rows of the caches. slot_mapping, scales and what is stored: _paged.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..problem import Cost, Inputs, Problem, TensorSpec, Tier, Tolerance, tagged
from ._paged import COPIED, PagedAppend, draw_rows, e4m3_tolerance

CACHES = ("k_cache", "v_cache")
ACTIVATIONS = ("k", "v")


@dataclass(frozen=True)
class Append(PagedAppend):
    """Copies, rounded to the cache's type."""

    num_kv_heads: int = tagged("k", 8)
    head_dim: int = tagged("d", 128)
    k_scale: float = tagged("ks", 1.0)
    v_scale: float = tagged("vs", 1.0)

    task: ClassVar[str] = "append"
    activations: ClassVar[tuple[str, ...]] = ACTIVATIONS
    caches: ClassVar[tuple[str, ...]] = CACHES

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.num_kv_heads, self.head_dim)

    @property
    def activation_bytes(self) -> int:
        return 4 * self.tokens * self.num_kv_heads * self.head_dim

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        shape = (self.tokens, *self.row_shape)
        if device == "meta":
            rows = {name: torch.empty(shape, dtype=getattr(torch, self.dtype), device=device) for name in ACTIVATIONS}
            slots = torch.empty((self.tokens,), dtype=torch.int64, device=device)
            return {**rows, "slot_mapping": slots, **self._empty_caches(device)}
        generator = torch.Generator(device).manual_seed(seed)
        return {
            **{name: draw_rows(shape, self.dtype, distribution, generator) for name in ACTIVATIONS},
            "slot_mapping": self._draw_slots(seed)[1].to(device),
            **self._filled_caches(generator),
        }

    def output_specs(self) -> dict[str, TensorSpec]:
        return self.updated_specs()

    def tolerances(self) -> dict[str, Tolerance]:
        return dict.fromkeys(CACHES, e4m3_tolerance(False) if self.is_fp8 else COPIED)

    def cost(self, inputs: Inputs) -> Cost:
        return Cost(0, self.cold_activation_bytes, self.written_bytes, "float32")

    def memory_bytes(self) -> int:
        rows = 2 * self.tokens * self.num_kv_heads * self.head_dim * 2
        return self.cache_bytes() + rows + self.written_bytes


_FP8_SCALES: Mapping[str, Any] = {"k_scale": 0.021, "v_scale": 0.017}
_HUGE_PAGES = 139_264

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (Append(tokens=64, seqs=4, lengths="skewed", context=64, num_pages=64),),
    Tier.CI: (Append(tokens=16384, seqs=16, lengths="skewed", num_pages=4096),),
    Tier.FULL: (
        *(Append(tokens=2**n, seqs=max(1, 2**n // 64), context=0, num_pages=8192) for n in range(1, 17)),
        *(
            Append(tokens=t, seqs=16, lengths="skewed", num_pages=8192, cache_dtype=kv, **_FP8_SCALES)
            for t in (64, 4096, 65536)
            for kv in ("float8_e4m3fn", "float8_e4m3fnuz")
        ),
        Append(tokens=4096, seqs=16, padding=1000, num_pages=8192),
        Append(tokens=4096, seqs=16, num_pages=_HUGE_PAGES),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    Append(
        tokens=9, seqs=4, lengths="skewed", context=7, padding=4, num_pages=20, page_size=4, num_kv_heads=3,
        head_dim=80, cache_dtype="float8_e4m3fn", **_FP8_SCALES,
    ),
)  # fmt: skip
