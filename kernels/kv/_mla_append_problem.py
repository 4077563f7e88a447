"""MLA's step between projections and attention: RoPE on 64 columns, and a latent row appended to a paged cache.

    q_rope         [tokens, num_heads, 64]       dtype; the part of every query head that turns
    k_rope         [tokens, 64]                  dtype; one for all heads
    latent         [tokens, 512]                 dtype
    cos_sin_cache  [max_position, 64]            cos_sin_dtype; 32 cosines, 32 sines
    kv_cache       [num_pages, page_size, 576]   updated: latent | turned k_rope
    q_out          [tokens, num_heads, 64]       dtype; of padding tokens as well

The rotation is _rope_append_problem.py's; DeepSeek's is interleaved. positions, slot_mapping, the scale and what is
stored: _paged.py. Shapes of DeepSeek-V2/V3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..angles import edited_angles
from ..problem import Cost, Edit, Inputs, Problem, TensorSpec, Tier, Tolerance, tagged
from ._paged import PagedAppend, draw_rows, e4m3_tolerance, rotation_tolerance
from ._rotary import ROTATION_FLOPS, draw_cos_sin

if TYPE_CHECKING:
    import torch

KV_LORA_RANK = 512
QK_ROPE_HEAD_DIM = 64
ACTIVATIONS = ("q_rope", "k_rope", "latent")


@dataclass(frozen=True)
class MLAAppend(PagedAppend):
    """One layer's step of a DeepSeek model."""

    num_heads: int = tagged("h", 128)
    is_neox: bool = tagged("neox", False)
    cos_sin_dtype: str = tagged("cs", "float32")
    kv_scale: float = tagged("ks", 1.0)

    task: ClassVar[str] = "mla_append"
    activations: ClassVar[tuple[str, ...]] = ACTIVATIONS
    caches: ClassVar[tuple[str, ...]] = ("kv_cache",)
    tables: ClassVar[tuple[str, ...]] = ("cos_sin_cache", "positions")

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (KV_LORA_RANK + QK_ROPE_HEAD_DIM,)

    @property
    def activation_bytes(self) -> int:
        return 2 * self.tokens * (self.num_heads * QK_ROPE_HEAD_DIM + KV_LORA_RANK + QK_ROPE_HEAD_DIM)

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        shapes = {
            "q_rope": (self.tokens, self.num_heads, QK_ROPE_HEAD_DIM),
            "k_rope": (self.tokens, QK_ROPE_HEAD_DIM),
            "latent": (self.tokens, KV_LORA_RANK),
        }
        if device == "meta":
            angles = torch.empty(
                (self.max_position, QK_ROPE_HEAD_DIM), dtype=getattr(torch, self.cos_sin_dtype), device=device
            )
            index = torch.empty((self.tokens,), dtype=torch.int64, device=device)
            dtype = getattr(torch, self.dtype)
            rows = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
            return {**rows, "cos_sin_cache": angles, "positions": index, "slot_mapping": torch.empty_like(index),
                    **self._empty_caches(device)}  # fmt: skip
        generator = torch.Generator(device).manual_seed(seed)
        positions, slots = self._draw_slots(seed)
        return {
            **{name: draw_rows(shape, self.dtype, distribution, generator) for name, shape in shapes.items()},
            "cos_sin_cache": draw_cos_sin(self.max_position, QK_ROPE_HEAD_DIM, self.cos_sin_dtype).to(device),
            "positions": positions.to(device),
            "slot_mapping": slots.to(device),
            **self._filled_caches(generator),
        }

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        return [edited_angles(inputs, "cos_sin_cache", inputs["positions"], generator)]

    def output_specs(self) -> dict[str, TensorSpec]:
        q_out = TensorSpec((self.tokens, self.num_heads, QK_ROPE_HEAD_DIM), self.dtype)
        return {"q_out": q_out, **self.updated_specs()}

    def tolerances(self) -> dict[str, Tolerance]:
        rotated = rotation_tolerance(self.dtype)
        return {"q_out": rotated, "kv_cache": e4m3_tolerance(True) if self.is_fp8 else rotated}

    def cost(self, inputs: Inputs) -> Cost:
        pairs = (self.tokens * self.num_heads + self.written) * QK_ROPE_HEAD_DIM // 2
        q_bytes = self.tokens * self.num_heads * QK_ROPE_HEAD_DIM * 2
        return Cost(
            flops=ROTATION_FLOPS * pairs,
            cold_read_bytes=self.cold_activation_bytes,
            write_bytes=q_bytes + self.written_bytes,
            compute_dtype="float32",
        )

    def memory_bytes(self) -> int:
        row = 2 * self.num_heads * QK_ROPE_HEAD_DIM + KV_LORA_RANK + QK_ROPE_HEAD_DIM
        table = self.max_position * QK_ROPE_HEAD_DIM * 4
        return self.cache_bytes() + self.tokens * row * 2 + self.written_bytes + table


_HUGE_PAGES = 247_808  # 2.28e9 elements, 4.6 GB; from page 233017 on an offset needs more than 31 bits
_FP8 = ("float8_e4m3fn", "float8_e4m3fnuz")

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (MLAAppend(tokens=16, seqs=4, lengths="skewed", context=64, num_pages=64),),
    Tier.CI: (
        MLAAppend(tokens=128, seqs=128, lengths="skewed", num_pages=_HUGE_PAGES),
        MLAAppend(tokens=8192, seqs=16, lengths="skewed", num_pages=4096),
        MLAAppend(tokens=8192, seqs=16, lengths="skewed", num_pages=4096, cos_sin_dtype="bfloat16"),
    ),
    Tier.FULL: (
        *(
            MLAAppend(tokens=t, seqs=s, num_pages=4096, cache_dtype=kv, kv_scale=1.0 if kv == "bfloat16" else 0.019)
            for t, s in ((1, 1), (4, 4), (16, 16), (64, 64), (128, 128), (512, 8), (1024, 8), (2048, 8), (8192, 16))
            for kv in ("bfloat16", *_FP8)
        ),
        *(MLAAppend(tokens=t, seqs=t, num_pages=4096, cos_sin_dtype="bfloat16") for t in (16, 128)),
        *(MLAAppend(tokens=2048, seqs=8, lengths="skewed", num_pages=4096, num_heads=h) for h in (16, 64)),
        MLAAppend(tokens=2048, seqs=8, num_pages=4096, page_size=64),
        MLAAppend(tokens=2048, seqs=8, num_pages=4096, is_neox=True),
        MLAAppend(tokens=2048, seqs=8, num_pages=4096, padding=511),
        MLAAppend(tokens=8192, seqs=16, num_pages=_HUGE_PAGES),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    MLAAppend(
        tokens=5, seqs=2, lengths="skewed", context=6, padding=1, num_pages=12, page_size=4, num_heads=3, is_neox=True,
        cache_dtype="float8_e4m3fn", kv_scale=0.019,
    ),
)  # fmt: skip
