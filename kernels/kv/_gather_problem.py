"""Gather: the tokens of one paged cache, contiguous, sequence after sequence.

    cache        [num_pages, page_size, num_kv_heads, head_dim]  cache_dtype
    block_table  [batch, max_pages]   int32; entries past a sequence's end are valid but unrelated pages
    cu_seqlens   [batch + 1]          int32; sequence b has the tokens [cu_seqlens[b], cu_seqlens[b + 1]) of the output
    out          [tokens, num_kv_heads, head_dim]  dtype; an e4m3 value times kv_scale

Pages are as many as the sequences need or more: the others hold tokens of nobody. Keys, values, or with one head of
576 MLA's latent rows, as chunked prefill reads them (vLLM's gather_and_maybe_dequant_cache).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..problem import EDITED_ROWS, Cost, Edit, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance
from ..problem import tagged as field
from ._paged import BF16_EPS, COPIED, fp8_unsupported, residencies

if TYPE_CHECKING:
    import torch

    from ..device import Device

LENGTHS = ("equal", "skewed", "empties")
DRAWN_ROWS = 1 << 16


@dataclass(frozen=True)
class Gather(Problem):
    """A copy whose source is scattered."""

    batch: int = field("b")
    seq_len: int = field("s")
    """Of every sequence, or in the mean."""
    lengths: str = field("", "equal")
    """`skewed`: the i-th of them in proportion to 1 / (i + 1), at least 1. `empties`: every third has no token."""
    num_pages: int = field("np", 0)
    """The least number of pages."""
    page_size: int = field("p", 16)
    num_kv_heads: int = field("k", 8)
    head_dim: int = field("d", 128)
    dtype: str = field("", "bfloat16")
    cache_dtype: str = field("kv", "bfloat16")
    kv_scale: float = field("ks", 1.0)

    family: ClassVar[str] = "kv"
    task: ClassVar[str] = "gather"
    residency: ClassVar[Mapping[str, Residency]] = residencies(("cache",), (), 0, ("block_table", "cu_seqlens"))
    activations: ClassVar[tuple[str, ...]] = ()
    plan_inputs: ClassVar[tuple[str, ...]] = ("block_table", "cu_seqlens")

    def __post_init__(self) -> None:
        if self.lengths not in LENGTHS:
            raise ValueError(f"Gather.lengths is {self.lengths!r}; it must be one of {', '.join(LENGTHS)}.")
        if self.cache_dtype != self.dtype and not self.cache_dtype.startswith("float8_e4m3"):
            raise ValueError(f"Gather.cache_dtype is {self.cache_dtype!r}; it must be {self.dtype} or an e4m3 type.")

    @property
    def is_fp8(self) -> bool:
        """Whether the cache holds scaled e4m3 values."""
        return self.cache_dtype != self.dtype

    @property
    def width(self) -> int:
        """Values of a token."""
        return self.num_kv_heads * self.head_dim

    def seq_lens(self) -> list[int]:
        """Always the same in the same order, so that every launch has the same work."""
        if self.lengths == "empties":
            return [(0, self.seq_len, 2 * self.seq_len)[i % 3] for i in range(self.batch)]
        share = [1.0 / (i + 1) if self.lengths == "skewed" else 1.0 for i in range(self.batch)]
        random.Random(0).shuffle(share)
        return [max(1, round(self.seq_len * self.batch * part / sum(share))) for part in share]

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(self.seq_lens())

    @property
    def max_pages(self) -> int:
        """Columns of the block table."""
        return max(1, math.ceil(max(self.seq_lens()) / self.page_size))

    @property
    def pages_in_cache(self) -> int:
        """Those of sequences, or `num_pages`."""
        return max(1, self.num_pages, sum(math.ceil(n / self.page_size) for n in self.seq_lens()))

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        from ..paging import draw_block_table

        lens = self.seq_lens()
        cache = torch.empty(
            (self.pages_in_cache, self.page_size, self.num_kv_heads, self.head_dim),
            dtype=getattr(torch, self.cache_dtype), device=device,
        )  # fmt: skip
        if device == "meta":
            table = torch.empty((self.batch, self.max_pages), dtype=torch.int32, device=device)
            starts = torch.empty((self.batch + 1,), dtype=torch.int32, device=device)
            return {"cache": cache, "block_table": table, "cu_seqlens": starts}
        on_cpu = torch.Generator().manual_seed(seed + 1)
        table, used = draw_block_table(torch.tensor(lens, dtype=torch.int32), self.page_size, self.max_pages, on_cpu)
        places = torch.randperm(self.pages_in_cache, generator=on_cpu, dtype=torch.int32)[:used]
        places[0] = self.pages_in_cache - 1 if self.pages_in_cache - 1 not in places else places[0]  # the last one too
        generator = torch.Generator(device).manual_seed(seed)
        for part in cache.view(-1, self.width).split(DRAWN_ROWS):
            part.copy_(torch.empty_like(part, dtype=getattr(torch, self.dtype)).normal_(generator=generator))
        starts = torch.tensor([0, *itertools.accumulate(lens)], dtype=torch.int32)
        return {"cache": cache, "block_table": places[table.long()].to(device), "cu_seqlens": starts.to(device)}

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        """There are no activations."""

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        """A few tokens in use change their sign."""
        import torch

        table, cache, starts = inputs["block_table"], inputs["cache"], inputs["cu_seqlens"].long()
        token = torch.randint(self.tokens, (EDITED_ROWS,), device=table.device, generator=generator)
        sequence = torch.searchsorted(starts, token, right=True) - 1
        place = token - starts[sequence]
        page = table[sequence, place // self.page_size].long()
        slots = (page * self.page_size + place % self.page_size).unique()
        heads = torch.arange(self.num_kv_heads, device=table.device)
        rows = (slots[:, None] * self.num_kv_heads + heads).flatten()
        flat = cache.view(-1, self.head_dim).view(torch.uint8)
        values = (-flat[rows].view(cache.dtype).float()).to(cache.dtype)
        return [Edit("cache", rows, values)]

    def shorten(self, inputs: Inputs, generator: torch.Generator) -> bool:
        """The same lengths of other pages."""
        inputs["block_table"].copy_(inputs["block_table"].roll(1, 0).roll(1, 1))
        return True

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"out": TensorSpec((self.tokens, self.num_kv_heads, self.head_dim), self.dtype)}

    def tolerances(self) -> dict[str, Tolerance]:
        """One rounding, of a stored value times the scale: eps of it at most, an RMS error of 0.42 eps."""
        scaled = Tolerance(rtol=BF16_EPS, atol=1e-30, relative_rms=0.6 * BF16_EPS)
        return {"out": scaled if self.is_fp8 else COPIED}

    def cost(self, inputs: Inputs) -> Cost:
        values = self.tokens * self.width
        read = values * inputs["cache"].element_size()
        return Cost(values if self.is_fp8 else 0, read, values * 2, "float32")

    def memory_bytes(self) -> int:
        cache = self.pages_in_cache * self.page_size * self.width * (1 if self.is_fp8 else 2)
        return cache + self.tokens * self.width * 2 + self.batch * (self.max_pages + 1) * 4

    def cut(self) -> Problem:
        """Short sequences in a small cache."""
        return replace(self, batch=min(self.batch, 5), seq_len=min(self.seq_len, 17), num_pages=min(self.num_pages, 40))

    def unsupported_by(self, device: Device) -> str | None:
        return fp8_unsupported(self.dtype, self.cache_dtype, device)

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import null_kernels

        return null_kernels(self)


_HUGE_PAGES = 139_264  # 2.3e9 elements, 4.6 GB: 6% past the reach of 32 bits
_MLA: Mapping[str, Any] = {"num_kv_heads": 1, "head_dim": 576}

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (Gather(batch=4, seq_len=300, lengths="skewed", num_pages=64),),
    Tier.CI: (Gather(batch=16, seq_len=2048, lengths="skewed", num_pages=_HUGE_PAGES),),
    Tier.FULL: (
        *(Gather(batch=b, seq_len=s, lengths=n) for b, s in ((1, 8192), (64, 4096)) for n in ("equal", "skewed")),
        *(Gather(batch=b, seq_len=s, page_size=64, **_MLA) for b, s in ((1, 32768), (16, 8192), (64, 1024))),
        *(Gather(64, 4096, cache_dtype=kv, kv_scale=0.021) for kv in ("float8_e4m3fn", "float8_e4m3fnuz")),
        *(Gather(16, 8192, cache_dtype=kv, kv_scale=0.021, **_MLA) for kv in ("float8_e4m3fn", "float8_e4m3fnuz")),
        Gather(batch=64, seq_len=1024, page_size=1),
        Gather(batch=1, seq_len=131072),
        Gather(batch=32, seq_len=4096, num_pages=_HUGE_PAGES),
        Gather(batch=16, seq_len=8192, num_pages=260_000, **_MLA),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    Gather(
        batch=5, seq_len=7, lengths="empties", page_size=4, num_kv_heads=3, head_dim=40, cache_dtype="float8_e4m3fnuz",
        kv_scale=0.021,
    ),
)  # fmt: skip
