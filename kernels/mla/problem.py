"""MLA decode, absorbed: every query head attends over one paged latent KV head.

With q = [q_latent | q_rope], a cache row c = [latent | rope], softmax scale a, and query i of `seq_len_q` at
position `seq_len - seq_len_q + i` (it sees itself and what came before):

    out = softmax(a * q . c^T) . latent        lse = ln sum exp(a * q . c^T)

    q            [batch, seq_len_q, num_heads, 576]   dtype
    kv_cache     [num_pages, page_size, 576]          kv_dtype; the first 512 columns are the latent, which is also V
    block_table  [batch, max_pages]                   int32; entries past a sequence's end are valid but unrelated pages
    seq_lens     [batch]                              int32; 0 is an empty sequence
    out          [batch, seq_len_q, num_heads, 512]   dtype; a query that sees no token: 0
    lse          [batch, seq_len_q, num_heads]        float32, natural log; a query that sees no token: -inf

Source of the shapes: DeepSeek-V2/V3, as FlashMLA's dense decode has them. The scale is explicit because some use
1/sqrt(192), the un-absorbed head, and some 1/sqrt(576).

The family's other tasks: `_prefill_problem` (un-absorbed, packed sequences) and `_layer_problem` (projections, append,
decode and output projection in one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..lengths import LENGTHS, drawn_lengths, most
from ..problem import (
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
from . import _layer_problem, _prefill_problem
from ._dims import HEAD_DIM as HEAD_DIM
from ._dims import KV_LORA_RANK as KV_LORA_RANK
from ._dims import QK_ROPE_HEAD_DIM as QK_ROPE_HEAD_DIM
from ._dims import SCALE_192 as SCALE_192
from ._dims import SCALE_576 as SCALE_576

if TYPE_CHECKING:
    import torch

    from ..device import Device


@dataclass(frozen=True)
class MLADecode(Problem):
    """One decode step of `batch` sequences. `seq_len_kv` counts the new tokens too."""

    batch: int = tagged("b")
    seq_len_q: int = tagged("q")
    seq_len_kv: int = tagged("s")
    """The length of every sequence, or the parameter of their distribution: see `lengths`."""
    num_heads: int = tagged("h")
    lengths: str = tagged("", "equal")
    """`equal`: all seq_len_kv. Otherwise quantiles of a distribution, in an order that is always the same: `normal` of
    N(s, s/2) within [seq_len_q, 2s], FlashMLA's; `uniform` of U(s/8, s). `empties`: a third 0, a third seq_len_q, the
    rest s."""
    page_size: int = tagged("p", 64)
    """Tokens in a page of the cache."""
    dtype: str = tagged("", "bfloat16")
    kv_dtype: str = tagged("kv", "bfloat16")
    """`dtype`, or an e4m3 type of `Device.fp8_dtype`: values as stored, without a scale."""
    softmax_scale: float = tagged("scale", SCALE_192)

    family: ClassVar[str] = "mla"
    task: ClassVar[str] = "decode"
    residency: ClassVar[Mapping[str, Residency]] = {
        "q": Residency.WARM,
        "kv_cache": Residency.COLD,
        "block_table": Residency.WARM,
        "seq_lens": Residency.WARM,
    }
    activations: ClassVar[tuple[str, ...]] = ("q",)
    plan_inputs: ClassVar[tuple[str, ...]] = ("block_table", "seq_lens")
    distributions: ClassVar[tuple[str, ...]] = ("normal", "peaked", "flat")

    def __post_init__(self) -> None:
        if self.lengths not in LENGTHS:
            raise ValueError(f"MLADecode.lengths is {self.lengths!r}; it must be one of {', '.join(LENGTHS)}.")
        if self.kv_dtype != self.dtype and not self.kv_dtype.startswith("float8_e4m3"):
            raise ValueError(
                f"MLADecode.kv_dtype is {self.kv_dtype!r}; it must be dtype ({self.dtype}) or an e4m3 type."
            )
        if self.softmax_scale <= 0:
            raise ValueError(f"MLADecode.softmax_scale is {self.softmax_scale}; it must be positive.")

    @property
    def max_seq_len(self) -> int:
        """Tokens of the longest sequence that `lengths` allows."""
        return most(self.lengths, self.seq_len_kv)

    @property
    def max_pages(self) -> int:
        """Columns of the block table."""
        return math.ceil(self.max_seq_len / self.page_size)

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        from ..paging import draw_block_table

        dtype, kv_dtype = getattr(torch, self.dtype), getattr(torch, self.kv_dtype)
        q_shape = (self.batch, self.seq_len_q, self.num_heads, HEAD_DIM)
        if device == "meta":
            return {
                "q": torch.empty(q_shape, dtype=dtype, device=device),
                "kv_cache": torch.empty(
                    (self.batch * self.max_pages, self.page_size, HEAD_DIM), dtype=kv_dtype, device=device
                ),
                "block_table": torch.empty((self.batch, self.max_pages), dtype=torch.int32, device=device),
                "seq_lens": torch.empty((self.batch,), dtype=torch.int32, device=device),
            }
        q_scale, kv_scale = {"normal": (1.0, 1.0), "peaked": (4.0, 1.0), "flat": (0.1, 0.1)}[distribution]
        seq_lens = torch.tensor(
            drawn_lengths(self.lengths, self.batch, self.seq_len_kv, self.seq_len_q), dtype=torch.int32
        )
        block_table, num_pages = draw_block_table(
            seq_lens, self.page_size, self.max_pages, torch.Generator().manual_seed(seed + 1)
        )
        generator = torch.Generator(device).manual_seed(seed)
        kv_cache = _draw(num_pages * self.page_size, kv_scale, kv_dtype, generator).view(
            num_pages, self.page_size, HEAD_DIM
        )
        q = torch.empty(q_shape, dtype=dtype, device=device).normal_(0, q_scale, generator=generator)
        _spoil_unused_rows(kv_cache, block_table, seq_lens)
        return {"q": q, "kv_cache": kv_cache, "block_table": block_table.to(device), "seq_lens": seq_lens.to(device)}

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        inputs["q"].normal_(generator=generator)

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        from ._edits import most_attended_tokens

        return most_attended_tokens(self, inputs, generator)

    def shorten(self, inputs: Inputs, generator: torch.Generator) -> bool:
        import torch

        fraction = torch.rand(self.batch, device=inputs["seq_lens"].device, generator=generator)
        shorter = (inputs["seq_lens"] * (0.25 + 0.75 * fraction)).ceil().int()
        inputs["seq_lens"].copy_(torch.maximum(shorter, inputs["seq_lens"].clamp_max(self.seq_len_q)))
        return True

    def _lengths(self) -> list[int]:
        return drawn_lengths(self.lengths, self.batch, self.seq_len_kv, self.seq_len_q)

    def output_specs(self) -> dict[str, TensorSpec]:
        rows = (self.batch, self.seq_len_q, self.num_heads)
        return {"out": TensorSpec((*rows, KV_LORA_RANK), self.dtype), "lse": TensorSpec(rows, "float32")}

    def tolerances(self) -> dict[str, Tolerance]:
        # `out` carries two roundings to dtype: of the probabilities before P.V and of the result.
        eps = 2**-8 if self.dtype == "bfloat16" else 2**-11
        return {
            "out": Tolerance(atol_rms=8 * eps, rtol=4 * eps, relative_rms=1.5 * eps),
            "lse": Tolerance(atol=eps / 4, rtol=eps / 16, relative_rms=eps / 4),
        }

    def cost(self, inputs: Inputs) -> Cost:
        seq_lens = inputs["seq_lens"].tolist()
        seen = sum(max(0, n - self.seq_len_q + i + 1) for n in seq_lens for i in range(self.seq_len_q))
        row_bytes = HEAD_DIM * inputs["kv_cache"].element_size()
        outputs = self.batch * self.seq_len_q * self.num_heads * (KV_LORA_RANK * inputs["q"].element_size() + 4)
        return Cost(
            flops=2 * seen * self.num_heads * (HEAD_DIM + KV_LORA_RANK),
            cold_read_bytes=sum(seq_lens) * row_bytes,
            write_bytes=outputs,
            compute_dtype=self.dtype,
        )

    def memory_bytes(self) -> int:
        cache = self.batch * self.max_pages * self.page_size * HEAD_DIM * (1 if "float8" in self.kv_dtype else 2)
        return cache + self.batch * self.seq_len_q * self.num_heads * (HEAD_DIM + KV_LORA_RANK + 2) * 2

    def cut(self) -> Problem:
        """At most three sequences: each is computed by itself."""
        return replace(self, batch=min(self.batch, 3))

    def unsupported_by(self, device: Device) -> str | None:
        if self.kv_dtype != self.dtype and self.kv_dtype != device.fp8_dtype and device.kind != "cpu":
            return f"{device.arch} has no {self.kv_dtype} (its e4m3 type is {device.fp8_dtype or 'none'})"
        return None

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import null_kernels

        return null_kernels(self)


def _draw(rows: int, scale: float, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """[rows, 576] of N(0, scale), drawn in slices so that an fp8 cache needs no bf16 copy of itself."""
    import torch

    out = torch.empty((rows, HEAD_DIM), dtype=dtype, device=generator.device)
    drawn_as = torch.bfloat16 if dtype.itemsize == 1 else dtype
    for part in out.split(1 << 20):
        part.copy_(torch.empty_like(part, dtype=drawn_as).normal_(0, scale, generator=generator))
    return out


def _spoil_unused_rows(kv_cache: torch.Tensor, block_table: torch.Tensor, seq_lens: torch.Tensor) -> None:
    """Fill rows past each sequence's end with a large finite value: stale tokens, which a dropped mask would read."""
    page_size = kv_cache.shape[1]
    for row, length in enumerate(seq_lens.tolist()):
        if length % page_size:
            kv_cache[int(block_table[row, length // page_size]), length % page_size :] = 200.0  # within both e4m3 types


_ANCHORS = tuple((b, s, h) for h in (64, 128) for s in (1024, 2048, 8192) for b in (64, 128, 768))  # FlashInfer's bench

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (
        MLADecode(batch=4, seq_len_q=1, seq_len_kv=2048, num_heads=16),
        MLADecode(batch=8, seq_len_q=1, seq_len_kv=2048, num_heads=32, lengths="uniform", page_size=16),
        MLADecode(batch=1, seq_len_q=2, seq_len_kv=2048, num_heads=128),
        *_prefill_problem.PROBLEMS[Tier.SMOKE],
        *_layer_problem.PROBLEMS[Tier.SMOKE],
    ),
    Tier.CI: (
        MLADecode(batch=64, seq_len_q=1, seq_len_kv=4096, num_heads=16),
        MLADecode(batch=64, seq_len_q=1, seq_len_kv=4096, num_heads=32),
        MLADecode(batch=64, seq_len_q=1, seq_len_kv=4096, num_heads=64),
        MLADecode(batch=128, seq_len_q=1, seq_len_kv=4096, num_heads=128),
        MLADecode(batch=16, seq_len_q=2, seq_len_kv=4096, num_heads=128, lengths="normal"),
        MLADecode(batch=64, seq_len_q=1, seq_len_kv=8192, num_heads=128, lengths="uniform"),
        MLADecode(batch=1, seq_len_q=1, seq_len_kv=32768, num_heads=16),
        MLADecode(batch=1, seq_len_q=1, seq_len_kv=4096, num_heads=128),
        MLADecode(batch=64, seq_len_q=1, seq_len_kv=4096, num_heads=16, kv_dtype="float8_e4m3fn"),
        MLADecode(batch=64, seq_len_q=1, seq_len_kv=4096, num_heads=16, kv_dtype="float8_e4m3fnuz"),
        *_prefill_problem.PROBLEMS[Tier.CI],
        *_layer_problem.PROBLEMS[Tier.CI],
    ),
    Tier.FULL: (
        *(  # FlashMLA's bench
            MLADecode(batch=128, seq_len_q=q, seq_len_kv=s, num_heads=128, lengths=lengths)
            for q in (1, 2)
            for s in (4096, 8192, 16384, 32768)
            for lengths in ("equal", "normal")
        ),
        *(MLADecode(batch=b, seq_len_q=1, seq_len_kv=s, num_heads=h, softmax_scale=SCALE_576) for b, s, h in _ANCHORS),
        *(  # AITER's test: (heads, q_len), page 1 in random order
            MLADecode(batch=b, seq_len_q=q, seq_len_kv=s, num_heads=h, page_size=1)
            for b, s in ((1, 21), (16, 512), (128, 1024), (256, 8192))
            for h, q in ((16, 1), (16, 2), (16, 4), (128, 1), (128, 2))
        ),
        *(  # AMD challenge 2026, bf16 and fp8
            MLADecode(batch=b, seq_len_q=1, seq_len_kv=s, num_heads=16, kv_dtype=kv)
            for b in (4, 32, 64, 256)
            for s in (1024, 8192)
            for kv in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz")
        ),
        *(  # FlashInfer's 128 heads, page 32
            MLADecode(batch=b, seq_len_q=q, seq_len_kv=s, num_heads=128, page_size=32)
            for b in (1, 16, 256, 1024)
            for s in (1024, 4096, 8192)
            for q in (1, 4)
        ),
        *(MLADecode(batch=64, seq_len_q=1, seq_len_kv=4096, num_heads=h) for h in (16, 32, 64)),
        MLADecode(batch=1, seq_len_q=1, seq_len_kv=131072, num_heads=128),
        MLADecode(batch=4, seq_len_q=1, seq_len_kv=131072, num_heads=16),
        *_prefill_problem.PROBLEMS[Tier.FULL],
        *_layer_problem.PROBLEMS[Tier.FULL],
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    MLADecode(batch=6, seq_len_q=1, seq_len_kv=140, num_heads=16, lengths="empties"),
    MLADecode(batch=3, seq_len_q=4, seq_len_kv=65, num_heads=48, lengths="empties", page_size=16),
    MLADecode(batch=2, seq_len_q=1, seq_len_kv=1, num_heads=128, page_size=1),
    MLADecode(batch=3, seq_len_q=3, seq_len_kv=333, num_heads=63, lengths="uniform", page_size=1),
    MLADecode(batch=5, seq_len_q=2, seq_len_kv=257, num_heads=126, lengths="normal", page_size=32),
    MLADecode(batch=2, seq_len_q=1, seq_len_kv=1023, num_heads=128, dtype="float16", kv_dtype="float16"),
    MLADecode(batch=1, seq_len_q=1, seq_len_kv=4096, num_heads=1, softmax_scale=SCALE_576, page_size=16),
    MLADecode(batch=3, seq_len_q=1, seq_len_kv=500, num_heads=17, lengths="uniform", kv_dtype="float8_e4m3fn"),
    MLADecode(batch=3, seq_len_q=1, seq_len_kv=500, num_heads=17, lengths="uniform", kv_dtype="float8_e4m3fnuz"),
    MLADecode(batch=3, seq_len_q=2, seq_len_kv=200, num_heads=20, lengths="empties", kv_dtype="float8_e4m3fn"),
    *_prefill_problem.HARD_CASES,
    *_layer_problem.HARD_CASES,
)
