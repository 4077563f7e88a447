"""RoPE on queries and keys, and the new keys and values appended to a paged cache.

With r = rotary_dim, position p, c = cos_sin_cache[p, : r/2] and s = cos_sin_cache[p, r/2 :], each head's first r
values turn pairwise, the others stay:

    (x_i, y_i) -> (x_i c_i - y_i s_i, y_i c_i + x_i s_i)    x_i, y_i: values i, i + r/2 (neox), or 2 i, 2 i + 1

    q, k, v        [tokens, num_heads | num_kv_heads, head_dim]  dtype
    cos_sin_cache  [max_position, rotary_dim]                    cos_sin_dtype
    k_cache        [num_pages, page_size, num_kv_heads, head_dim]  updated: turned keys
    v_cache        likewise; updated: values
    q_out          [tokens, num_heads, head_dim]                 dtype; of padding tokens as well

positions, slot_mapping, scales and what is stored: _paged.py. GPT-NeoX and GPT-J (interleaved) styles as vLLM and
FlashInfer have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..angles import edited_angles
from ..problem import Cost, Edit, Inputs, Problem, TensorSpec, Tier, Tolerance, tagged
from ._paged import COPIED, PagedAppend, draw_rows, e4m3_tolerance, rotation_tolerance
from ._rotary import ROTATION_FLOPS, draw_cos_sin

if TYPE_CHECKING:
    import torch

CACHES = ("k_cache", "v_cache")
ACTIVATIONS = ("q", "k", "v")


@dataclass(frozen=True)
class RopeAppend(PagedAppend):
    """One layer's step between the projections and attention."""

    num_heads: int = tagged("h", 64)
    num_kv_heads: int = tagged("k", 8)
    head_dim: int = tagged("d", 128)
    rotary_dim: int = tagged("r", 128)
    is_neox: bool = tagged("neox", True)
    cos_sin_dtype: str = tagged("cs", "float32")
    k_scale: float = tagged("ks", 1.0)
    v_scale: float = tagged("vs", 1.0)

    task: ClassVar[str] = "rope_append"
    activations: ClassVar[tuple[str, ...]] = ACTIVATIONS
    caches: ClassVar[tuple[str, ...]] = CACHES
    tables: ClassVar[tuple[str, ...]] = ("cos_sin_cache", "positions")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rotary_dim <= self.head_dim or self.rotary_dim % 2:
            raise ValueError(f"RopeAppend.rotary_dim is {self.rotary_dim}; it must be even, up to {self.head_dim}.")

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.num_kv_heads, self.head_dim)

    @property
    def activation_bytes(self) -> int:
        return 2 * self.tokens * (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype = getattr(torch, self.dtype)
        heads = {"q": self.num_heads, "k": self.num_kv_heads, "v": self.num_kv_heads}
        shapes = {name: (self.tokens, count, self.head_dim) for name, count in heads.items()}
        if device == "meta":
            angles = torch.empty(
                (self.max_position, self.rotary_dim), dtype=getattr(torch, self.cos_sin_dtype), device=device
            )
            index = torch.empty((self.tokens,), dtype=torch.int64, device=device)
            rows = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
            return {**rows, "cos_sin_cache": angles, "positions": index, "slot_mapping": torch.empty_like(index),
                    **self._empty_caches(device)}  # fmt: skip
        generator = torch.Generator(device).manual_seed(seed)
        positions, slots = self._draw_slots(seed)
        return {
            **{name: draw_rows(shape, self.dtype, distribution, generator) for name, shape in shapes.items()},
            "cos_sin_cache": draw_cos_sin(self.max_position, self.rotary_dim, self.cos_sin_dtype).to(device),
            "positions": positions.to(device),
            "slot_mapping": slots.to(device),
            **self._filled_caches(generator),
        }

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        return [edited_angles(inputs, "cos_sin_cache", inputs["positions"], generator)]

    def output_specs(self) -> dict[str, TensorSpec]:
        q_out = TensorSpec((self.tokens, self.num_heads, self.head_dim), self.dtype)
        return {"q_out": q_out, **self.updated_specs()}

    def tolerances(self) -> dict[str, Tolerance]:
        rotated = rotation_tolerance(self.dtype)
        if self.is_fp8:
            return {"q_out": rotated, "k_cache": e4m3_tolerance(True), "v_cache": e4m3_tolerance(False)}
        return {"q_out": rotated, "k_cache": rotated, "v_cache": COPIED}

    def cost(self, inputs: Inputs) -> Cost:
        pairs = self.tokens * self.num_heads + self.written * self.num_kv_heads
        q_bytes = self.tokens * self.num_heads * self.head_dim * 2
        return Cost(
            flops=ROTATION_FLOPS * pairs * self.rotary_dim // 2,
            cold_read_bytes=self.cold_activation_bytes,
            write_bytes=q_bytes + self.written_bytes,
            compute_dtype="float32",
        )

    def memory_bytes(self) -> int:
        rows = self.tokens * self.head_dim * 2 * (2 * self.num_heads + 2 * self.num_kv_heads)
        return self.cache_bytes() + rows + self.written_bytes + self.max_position * self.rotary_dim * 4


_FP8_SCALES: Mapping[str, Any] = {"k_scale": 0.021, "v_scale": 0.017}
_DECODE_TOKENS = (1, 4, 16, 64, 128, 256, 512)
_PREFILL_TOKENS = (1024, 2048, 4096, 8192, 16384)
_HUGE_PAGES = 139_264  # 2.3e9 elements, 4.6 GB: 6% past the reach of 32 bits

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (RopeAppend(tokens=16, seqs=4, lengths="skewed", context=64, num_pages=64, num_heads=32),),
    Tier.CI: (
        RopeAppend(tokens=128, seqs=128, lengths="skewed", num_pages=4096),
        RopeAppend(tokens=8192, seqs=16, lengths="skewed", num_pages=4096),
        RopeAppend(tokens=8192, seqs=16, lengths="skewed", num_pages=4096, cache_dtype="float8_e4m3fn",
                   **_FP8_SCALES),
        RopeAppend(tokens=8192, seqs=16, lengths="skewed", num_pages=4096, cache_dtype="float8_e4m3fnuz",
                   **_FP8_SCALES),
    ),
    Tier.FULL: (
        *(
            RopeAppend(tokens=t, seqs=t, lengths=lengths, num_pages=4096, num_heads=h)
            for h in (32, 64)
            for t in _DECODE_TOKENS
            for lengths in ("equal", "skewed")
        ),
        *(
            RopeAppend(tokens=t, seqs=s, lengths=lengths, context=0, num_pages=4096, num_heads=h)
            for h in (32, 64)
            for t in _PREFILL_TOKENS
            for s, lengths in ((1, "equal"), (16, "equal"), (16, "skewed"))
        ),
        *(
            RopeAppend(tokens=t, seqs=s, context=512, num_pages=4096, cache_dtype=kv, **_FP8_SCALES)
            for t, s in ((128, 128), (8192, 16))
            for kv in ("float8_e4m3fn", "float8_e4m3fnuz")
        ),
        *(
            RopeAppend(tokens=t, seqs=s, num_pages=4096, rotary_dim=r, is_neox=neox)
            for t, s in ((128, 128), (8192, 16))
            for r, neox in ((128, False), (64, True), (64, False))
        ),
        RopeAppend(tokens=8192, seqs=16, num_pages=4096, cos_sin_dtype="bfloat16"),
        RopeAppend(tokens=128, seqs=128, num_pages=4096, padding=37),
        RopeAppend(tokens=128, seqs=128, num_pages=_HUGE_PAGES),
        RopeAppend(tokens=8192, seqs=16, num_pages=_HUGE_PAGES),
    ),
}  # fmt: skip

HARD_CASES: tuple[Problem, ...] = (
    RopeAppend(
        tokens=7, seqs=3, lengths="skewed", context=9, padding=2, num_pages=9, num_heads=5, num_kv_heads=3,
        head_dim=96, rotary_dim=48, is_neox=False, dtype="float16", cache_dtype="float16",
    ),
    RopeAppend(
        tokens=3, seqs=1, context=0, num_pages=7, page_size=1, num_heads=1, num_kv_heads=1,
        rotary_dim=80, cache_dtype="float8_e4m3fn", **_FP8_SCALES,
    ),
    RopeAppend(
        tokens=6, seqs=2, context=30, padding=1, num_pages=8, num_heads=9, num_kv_heads=2, head_dim=64,
        rotary_dim=64, is_neox=False, cos_sin_dtype="bfloat16", cache_dtype="float8_e4m3fnuz", **_FP8_SCALES,
    ),
)  # fmt: skip
