"""Paged decode: the last `seq_len_q` tokens of every sequence attend over its paged KV cache, heads in groups (GQA).

With query head h, its KV head g = h // (num_heads / num_kv_heads), softmax scale a, the scales of an 8-bit cache, and
query i of `seq_len_q` at position `seq_len - seq_len_q + i` (it sees itself and what came before):

    K = k_scale * k_cache    V = v_scale * v_cache
    out = softmax(a * q . K^T) . V        lse = ln sum exp(a * q . K^T)

    q            [batch, seq_len_q, num_heads, head_dim]          dtype
    k_cache      [num_pages, page_size, num_kv_heads, head_dim]   kv_dtype ("NHD"; the new tokens are in it)
    v_cache      likewise
    block_table  [batch, max_pages]                int32; entries past a sequence's end are valid but unrelated pages
    seq_lens     [batch]                           int32; 0 is an empty sequence
    out          [batch, seq_len_q, num_heads, head_dim]   dtype; a query that sees no token: 0
    lse          [batch, seq_len_q, num_heads]     float32, natural log; a query that sees no token: -inf

Heads: Llama-3-8B has 32/8 of 128, Llama-3-70B 64/8, of which 8/1 are one GPU's share in tensor parallelism of 8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..lengths import LENGTHS, drawn_lengths, most
from ..problem import Cost, Edit, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged

if TYPE_CHECKING:
    import torch

    from ..device import Device

SCALE_128, SCALE_64 = 1 / math.sqrt(128), 1 / math.sqrt(64)
FP8_SCALES: Mapping[str, Any] = {"k_scale": 0.03, "v_scale": 0.04}
"""No powers of two, and two of them: neither can be left out, nor one taken for the other."""
E4M3_MOST = 240.0
"""The largest value of the smaller one of the two e4m3 types."""
CUT_TOKENS = 2048


@dataclass(frozen=True)
class PagedDecode(Problem):
    """One decode step of `batch` sequences. `seq_len_kv` counts the new tokens too."""

    batch: int = tagged("b")
    seq_len_q: int = tagged("q")
    seq_len_kv: int = tagged("s")
    """The length of every sequence, or the parameter of their distribution: see kernels/lengths.py."""
    num_heads: int = tagged("h")
    num_kv_heads: int = tagged("g")
    """As many groups of query heads."""
    head_dim: int = tagged("d", 128)
    lengths: str = tagged("", "equal")
    page_size: int = tagged("p", 16)
    """Tokens in a page of the cache."""
    dtype: str = tagged("", "bfloat16")
    kv_dtype: str = tagged("kv", "bfloat16")
    """`dtype`, or an e4m3 type of `Device.fp8_dtype`."""
    softmax_scale: float = tagged("scale", SCALE_128)
    k_scale: float = tagged("ks", 1.0)
    """What a stored key is multiplied by; other than 1 in 8-bit caches only."""
    v_scale: float = tagged("vs", 1.0)
    with_lse: bool = tagged("lse", True)
    """Whether `lse` is asked for: some libraries do not give it."""

    family: ClassVar[str] = "attention"
    task: ClassVar[str] = "decode"
    residency: ClassVar[Mapping[str, Residency]] = {
        "q": Residency.WARM,
        "k_cache": Residency.COLD,
        "v_cache": Residency.COLD,
        "block_table": Residency.WARM,
        "seq_lens": Residency.WARM,
    }
    activations: ClassVar[tuple[str, ...]] = ("q",)
    plan_inputs: ClassVar[tuple[str, ...]] = ("block_table", "seq_lens")
    distributions: ClassVar[tuple[str, ...]] = ("normal", "peaked", "flat")

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.lengths not in LENGTHS:
            raise ValueError(f"{name}.lengths is {self.lengths!r}; it must be one of {', '.join(LENGTHS)}.")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{name}: {self.num_heads} heads do not share {self.num_kv_heads} KV heads evenly.")
        if not self.is_fp8 and self.kv_dtype != self.dtype:
            raise ValueError(f"{name}.kv_dtype is {self.kv_dtype!r}; it must be dtype ({self.dtype}) or an e4m3 type.")
        if not self.is_fp8 and (self.k_scale, self.v_scale) != (1.0, 1.0):
            raise ValueError(f"{name}: a {self.kv_dtype} cache has the scales 1.")
        if min(self.softmax_scale, self.k_scale) <= 0:
            raise ValueError(
                f"{name}.softmax_scale is {self.softmax_scale} and k_scale {self.k_scale}; both must be positive."
            )

    @property
    def is_fp8(self) -> bool:
        """Whether the cache holds 8-bit floats."""
        return self.kv_dtype.startswith("float8_e4m3")

    @property
    def group(self) -> int:
        """Query heads of one KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def max_seq_len(self) -> int:
        """Tokens of the longest sequence that `lengths` allows."""
        return most(self.lengths, self.seq_len_kv)

    @property
    def max_pages(self) -> int:
        """Columns of the block table."""
        return math.ceil(self.max_seq_len / self.page_size)

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        from ._decode_inputs import decode_inputs

        return decode_inputs(self, seed, device, distribution)

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        inputs["q"].normal_(generator=generator)

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        from ._decode_inputs import most_attended_tokens

        return most_attended_tokens(self, inputs, generator)

    def shorten(self, inputs: Inputs, generator: torch.Generator) -> bool:
        import torch

        fraction = torch.rand(self.batch, device=inputs["seq_lens"].device, generator=generator)
        shorter = (inputs["seq_lens"] * (0.25 + 0.75 * fraction)).ceil().int()
        inputs["seq_lens"].copy_(torch.maximum(shorter, inputs["seq_lens"].clamp_max(self.seq_len_q)))
        return True

    def drawn_lengths(self) -> list[int]:
        """The length of every sequence; the same in every launch."""
        return drawn_lengths(self.lengths, self.batch, self.seq_len_kv, self.seq_len_q)

    def output_specs(self) -> dict[str, TensorSpec]:
        rows = (self.batch, self.seq_len_q, self.num_heads)
        out = {"out": TensorSpec((*rows, self.head_dim), self.dtype)}
        return out | ({"lse": TensorSpec(rows, "float32")} if self.with_lse else {})

    def tolerances(self) -> dict[str, Tolerance]:
        # `out` carries two roundings to dtype, each by eps / 2 at most: of the probabilities before P.V and of the
        # result. Those of the probabilities are independent, hence relative to the RMS whatever the number of tokens;
        # a library that multiplies its rounded result by v_scale rounds a third time. The LSE is a float32 throughout.
        eps = 2**-8 if self.dtype == "bfloat16" else 2**-11
        out = {"out": Tolerance(atol_rms=8 * eps, rtol=4 * eps, relative_rms=1.5 * eps)}
        lse = {"lse": Tolerance(atol=eps / 4, rtol=eps / 16, relative_rms=eps / 4)}
        return out | (lse if self.with_lse else {})

    def cost(self, inputs: Inputs) -> Cost:
        seq_lens = inputs["seq_lens"].tolist()
        token_bytes = 2 * self.num_kv_heads * self.head_dim * inputs["k_cache"].element_size()
        row_bytes = self.head_dim * inputs["q"].element_size() + (4 if self.with_lse else 0)
        return Cost(
            flops=4 * self.seen_tokens(inputs) * self.num_heads * self.head_dim,
            cold_read_bytes=sum(seq_lens) * token_bytes,
            write_bytes=self.batch * self.seq_len_q * self.num_heads * row_bytes,
            compute_dtype=self.dtype,
        )

    def seen_tokens(self, inputs: Inputs) -> int:
        """Pairs of a query token and a token that it sees."""
        lengths, q = inputs["seq_lens"].tolist(), self.seq_len_q
        return sum(max(0, n - q + i + 1) for n in lengths for i in range(q))

    def memory_bytes(self) -> int:
        token_bytes = 2 * self.num_kv_heads * self.head_dim * (1 if self.is_fp8 else 2)
        rows = self.batch * self.seq_len_q * self.num_heads
        tables = 4 * self.batch * (self.max_pages + 1)
        return self.batch * self.max_pages * self.page_size * token_bytes + rows * (4 * self.head_dim + 4) + tables

    def cut(self) -> Problem:
        """At most two sequences and two KV heads, sequences of 2048 tokens: each is computed by itself."""
        num_kv_heads = min(self.num_kv_heads, 2)
        return replace(
            self,
            batch=min(self.batch, 2),
            seq_len_kv=min(self.seq_len_kv, CUT_TOKENS),
            num_heads=self.group * num_kv_heads,
            num_kv_heads=num_kv_heads,
        )

    def unsupported_by(self, device: Device) -> str | None:
        if self.is_fp8 and self.kv_dtype != device.fp8_dtype and device.kind != "cpu":
            return f"{device.arch} has no {self.kv_dtype} (its e4m3 type is {device.fp8_dtype or 'none'})"
        return None

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._decode_null_kernels import null_kernels

        return null_kernels(self)


def _decode(b: int, s: int, h: int, g: int, q: int = 1, **fields: Any) -> PagedDecode:
    return PagedDecode(batch=b, seq_len_q=q, seq_len_kv=s, num_heads=h, num_kv_heads=g, **fields)


FP8 = tuple({"kv_dtype": kv_dtype, **FP8_SCALES} for kv_dtype in ("float8_e4m3fn", "float8_e4m3fnuz"))
MOST_TOKENS = 1 << 24
"""In all sequences together: 69 GB of 8 KV heads in bfloat16."""
_SWEEP = tuple(
    (b, s)
    for s in (512, 2048, 8192, 32768, 131072)
    for b in (1, 8, 32, 128, 512)
    if b * s <= MOST_TOKENS
)  # fmt: skip
_ISSUED = ((1, 8192, 64, 8), (16, 8192, 64, 8), (64, 8192, 64, 8), (128, 2048, 64, 8), (4, 32768, 64, 8),
           (64, 8192, 8, 1), (1, 131072, 8, 1))  # fmt: skip

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (_decode(4, 2048, 16, 4, head_dim=64, softmax_scale=SCALE_64, lengths="uniform"),),
    Tier.CI: (
        _decode(64, 8192, 64, 8),
        _decode(1, 8192, 64, 8),
        _decode(1, 131072, 8, 1),
        _decode(64, 8192, 8, 1),
        *(_decode(64, 8192, 32, 8, lengths="uniform", **fp8) for fp8 in FP8),
    ),
    Tier.FULL: (
        *(_decode(b, s, h, 8) for b, s in _SWEEP for h in (32, 64)),
        *(_decode(b, s, 64, 8, **fp8) for b, s in _SWEEP for fp8 in FP8),
        *(_decode(b, s, h, g, lengths=lengths, q=q)  # variable lengths, several new tokens
          for b, s, h, g in ((64, 8192, 64, 8), (64, 8192, 8, 1)) for lengths in ("uniform", "normal")
          for q in (1, 2, 4)),
        *(_decode(b, s, h, g) for b, s, h, g in ((8, 1024, 32, 8), (32, 2048, 32, 8), (4, 4096, 64, 8),
                                                 (16, 1535, 32, 8))),
        _decode(8, 2000, 16, 4, head_dim=64, softmax_scale=SCALE_64),
        *(_decode(b, s, h, g, page_size=p) for b, s, h, g in ((64, 8192, 64, 8), (1, 8192, 64, 8))
          for p in (1, 64, 256)),
        *(_decode(b, s, h, g) for b, s, h, g in ((16, 8192, 64, 8), (128, 2048, 64, 8), (4, 32768, 64, 8))),
        *(_decode(b, s, h, g, page_size=p, with_lse=False) for b, s, h, g in _ISSUED for p in (16, 64)),
    ),
}  # fmt: skip
# An anchor of two lists stands once.
PROBLEMS = {tier: tuple(dict.fromkeys(problems)) for tier, problems in PROBLEMS.items()}

HARD_CASES: tuple[Problem, ...] = (
    _decode(6, 140, 8, 1, lengths="empties"),
    _decode(3, 65, 6, 2, q=4, head_dim=64, lengths="empties", page_size=1),
    _decode(2, 333, 10, 2, q=3, lengths="normal", page_size=64, dtype="float16", kv_dtype="float16"),
    _decode(2, 150, 6, 3, q=2, head_dim=80, lengths="uniform", page_size=48),
    *(_decode(3, 500, 8, 2, q=2, head_dim=64, lengths="uniform", softmax_scale=0.1, **fp8) for fp8 in FP8),
)
