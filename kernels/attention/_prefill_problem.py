"""Attention prefill: the queries of several sequences, packed one after the other, over keys and values of their own.

Sequence b owns rows [cu_seqlens_q[b], cu_seqlens_q[b + 1]) of q and out, and [cu_seqlens_kv[b], cu_seqlens_kv[b + 1])
of k and v. Its query i of n_q is at position p = n_kv - n_q + i of its n_kv keys: the mask is aligned to the bottom
right, as it must be where part of a prompt is already cached (chunked prefill). It sees key j where

    full      always
    causal    j <= p
    window    p - window < j <= p: at most `window` keys, its own among them

Query head h attends over KV head h // (num_heads / num_kv_heads). With softmax scale a, over the keys seen:

    out = softmax(a * q . k^T) . v        lse = ln sum exp(a * q . k^T)

    q              [total_q, num_heads, head_dim]      dtype
    k, v           [total_kv, num_kv_heads, head_dim]  dtype
    cu_seqlens_q   [batch + 1]                         int32, begins with 0, ends with total_q
    cu_seqlens_kv  [batch + 1]                         int32, begins with 0, ends with total_kv
    out            [total_q, num_heads, head_dim]      dtype; a query that sees no key: 0
    lse            [total_q, num_heads]                float32, natural log; a query that sees no key: -inf.
                                                       An output where the problem has `return_lse`, as not every
                                                       library gives it

Source of the layout: flash-attn's `flash_attn_varlen_func`. All inputs are warm activations, redrawn before each
timed call: a prefill reads what the projections before it have just written.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..problem import Cost, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged

if TYPE_CHECKING:
    import torch

SCALE_64 = 1 / math.sqrt(64)
SCALE_128 = 1 / math.sqrt(128)
LENGTHS = ("equal", "uniform", "empties")
HEAD_DIMS = range(16, 257, 8)
"""What tensor cores take, in rows of whole 16 bytes."""
UNIT_ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


@dataclass(frozen=True)
class AttentionPrefill(Problem):
    """One prefill step of `batch` sequences."""

    batch: int = tagged("b")
    seq_len_q: int = tagged("q")
    """Queries of every sequence, or of the longest: see `lengths`."""
    seq_len_kv: int = tagged("s")
    """Keys of every sequence, those of its own queries among them, or of the longest."""
    num_heads: int = tagged("h")
    num_kv_heads: int = tagged("kvh")
    """Divides num_heads."""
    head_dim: int = tagged("d", 128)
    causal: bool = tagged("causal", True)
    window: int = tagged("w", 0)
    """Most keys that a query sees; 0 is no limit. Wants `causal`."""
    lengths: str = tagged("", "equal")
    """`equal`: all seq_len_q and seq_len_kv. `uniform`: quantiles of U(s/8, s) keys in an order that is always the
    same, and queries in the ratio seq_len_q / seq_len_kv. `empties`: in turn all of both, no query, no key, one query,
    nothing, and one key. Or the lengths themselves, `5x9+3x3`: 5 queries over 9 keys, then 3 over 3."""
    dtype: str = tagged("", "bfloat16")
    softmax_scale: float = tagged("scale", SCALE_128)
    return_lse: bool = tagged("lse", False)

    family: ClassVar[str] = "attention"
    task: ClassVar[str] = "prefill"
    residency: ClassVar[Mapping[str, Residency]] = dict.fromkeys(
        ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_kv"), Residency.WARM
    )
    activations: ClassVar[tuple[str, ...]] = ("q", "k", "v")
    plan_inputs: ClassVar[tuple[str, ...]] = ("cu_seqlens_q", "cu_seqlens_kv")
    distributions: ClassVar[tuple[str, ...]] = ("normal", "peaked", "flat")

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"AttentionPrefill.num_heads is {self.num_heads}; it must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})."
            )
        if self.head_dim not in HEAD_DIMS:
            raise ValueError(
                f"AttentionPrefill.head_dim is {self.head_dim}; it must be a multiple of {HEAD_DIMS.step} from "
                f"{HEAD_DIMS[0]} to {HEAD_DIMS[-1]}."
            )
        if self.window and not self.causal:
            raise ValueError(f"AttentionPrefill.window is {self.window}, which wants causal=True.")
        if self.softmax_scale <= 0:
            raise ValueError(f"AttentionPrefill.softmax_scale is {self.softmax_scale}; it must be positive.")
        if self.lengths not in LENGTHS and len(self.lengths.split("+")) != self.batch:
            raise ValueError(
                f"AttentionPrefill.lengths is {self.lengths!r}; it must be one of {', '.join(LENGTHS)}, or name "
                f"{self.batch} sequences as queries x keys, like 5x9+3x3."
            )

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads // self.num_kv_heads

    def sequences(self) -> list[tuple[int, int]]:
        """(queries, keys) of every sequence: always the same in the same order, so that every launch does the same."""
        q, s = self.seq_len_q, self.seq_len_kv
        if self.lengths == "equal":
            return [(q, s)] * self.batch
        if self.lengths == "empties":
            return [((q, s), (0, s), (q, 0), (1, s), (0, 0), (q, 1))[i % 6] for i in range(self.batch)]
        if self.lengths == "uniform":
            keys = [max(1, round(s / 8 + (i + 0.5) / self.batch * (s - s / 8))) for i in range(self.batch)]
            random.Random(0).shuffle(keys)
            return [(max(1, round(n * q / s)), n) for n in keys]
        pairs = [sequence.split("x") for sequence in self.lengths.split("+")]
        return [(int(queries), int(keys)) for queries, keys in pairs]

    @property
    def sees_nothing(self) -> bool:
        """Whether some query sees no key."""
        return any(n_q and (n_kv == 0 or (self.causal and n_q > n_kv)) for n_q, n_kv in self.sequences())

    @property
    def is_uniform(self) -> bool:
        """Whether all sequences have the same lengths, so that [total, ...] is [batch, length, ...]."""
        return len(set(self.sequences())) == 1

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        sequences = self.sequences()
        starts = [[0], [0]]
        for lengths, own in zip(zip(*sequences, strict=True), starts, strict=True):
            for length in lengths:
                own.append(own[-1] + length)
        dtype = getattr(torch, self.dtype)
        q = torch.empty((starts[0][-1], self.num_heads, self.head_dim), dtype=dtype, device=device)
        k = torch.empty((starts[1][-1], self.num_kv_heads, self.head_dim), dtype=dtype, device=device)
        inputs = {"q": q, "k": k, "v": torch.empty_like(k)}
        if device != "meta":
            generator = torch.Generator(device).manual_seed(seed)
            for name, tensor in inputs.items():
                sharpness = {"normal": 1.0, "peaked": 4.0, "flat": 0.1}[distribution] if name == "q" else 1.0
                tensor.normal_(0, sharpness, generator=generator)
        for name, own in zip(self.plan_inputs, starts, strict=True):
            inputs[name] = torch.tensor(own, dtype=torch.int32, device=device)
        return inputs

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        for name in self.activations:
            inputs[name].normal_(generator=generator)

    def shorten(self, inputs: Inputs, generator: torch.Generator) -> bool:
        """The same sequences in another order: packed rows belong to some sequence, so their number must stay."""
        import torch

        if self.is_uniform:
            return False
        order = torch.rand(self.batch, device=inputs["q"].device, generator=generator).argsort()
        for name in self.plan_inputs:
            inputs[name][1:] = inputs[name].diff()[order].cumsum(0)
        return True

    def output_specs(self) -> dict[str, TensorSpec]:
        rows = (sum(n_q for n_q, _ in self.sequences()), self.num_heads)
        specs = {"out": TensorSpec((*rows, self.head_dim), self.dtype)}
        return {**specs, "lse": TensorSpec(rows, "float32")} if self.return_lse else specs

    def tolerances(self) -> dict[str, Tolerance]:
        # With u the unit roundoff of dtype: probabilities are rounded before P.V, and so is the result. The first sums
        # to at most u * sum p |v| over what a query sees, of which the largest p, a 1 before the division, has no part:
        # v is N(0, 1), so 2.5 u lets five standard deviations cancel where two keys share the weight. That is lax for a
        # query that sees thousands: there the RMS judges. Either rounding contributes at most u / sqrt(3) to it.
        u = UNIT_ROUNDOFF[self.dtype]
        tolerances = {
            "out": Tolerance(atol=2.5 * u, rtol=2 * u, relative_rms=1.5 * u),
            "lse": Tolerance(atol=u / 4, rtol=u / 16, relative_rms=u / 4),  # float32 from exact products throughout
        }
        return {name: tolerances[name] for name in self.output_specs()}

    def keys_seen(self) -> int:
        """(query, key) pairs that the mask leaves, over all sequences, for one head."""
        return sum(self._seen(n_q, n_kv) for n_q, n_kv in self.sequences())

    def _seen(self, n_q: int, n_kv: int) -> int:
        if not self.causal:
            return n_q * n_kv
        last = n_kv - min(n_q, n_kv) + 1  # keys that the first query with any sees
        total = (last + n_kv) * (n_kv - last + 1) // 2
        first_cut = max(last, self.window + 1) if self.window else n_kv + 1
        cut = n_kv - first_cut + 1  # queries that would see more than `window`
        excess = (first_cut + n_kv - 2 * self.window) * cut // 2 if cut > 0 else 0
        return total - excess

    def cost(self, inputs: Inputs) -> Cost:
        outputs = inputs["q"].numel() * inputs["q"].element_size()
        if self.return_lse:
            outputs += inputs["q"].shape[0] * self.num_heads * 4
        return Cost(
            flops=4 * self.keys_seen() * self.num_heads * self.head_dim,
            cold_read_bytes=0,
            write_bytes=outputs,
            compute_dtype=self.dtype,
        )

    def memory_bytes(self) -> int:
        rows_q = self.num_heads * sum(n_q for n_q, _ in self.sequences())
        rows_kv = self.num_kv_heads * sum(n_kv for _, n_kv in self.sequences())
        return 2 * self.head_dim * 2 * (rows_q + rows_kv) + (4 * rows_q if self.return_lse else 0)

    def cut(self) -> Problem:
        """At most three sequences of 192 keys, two KV heads and two query heads each; the mask keeps its shape."""
        keys = min(self.seq_len_kv, 192)
        ratio = keys / self.seq_len_kv
        num_kv_heads = min(self.num_kv_heads, 2)
        return replace(
            self,
            batch=min(self.batch, 3),
            seq_len_q=max(1, round(self.seq_len_q * ratio)),
            seq_len_kv=keys,
            num_heads=num_kv_heads * min(self.group, 2),
            num_kv_heads=num_kv_heads,
            window=max(1, round(self.window * ratio)) if self.window else 0,
        )

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._prefill_null_kernels import null_kernels

        return null_kernels(self)


def _square(batch: int, seq_len: int, num_heads: int, num_kv_heads: int, **fields: object) -> AttentionPrefill:
    """A whole prompt: as many queries as keys."""
    return AttentionPrefill(batch, seq_len, seq_len, num_heads, num_kv_heads, **fields)  # type: ignore[arg-type]


_D64 = {"head_dim": 64, "softmax_scale": SCALE_64}

PROBLEMS: Mapping[Tier, tuple[AttentionPrefill, ...]] = {
    Tier.SMOKE: (
        _square(1, 256, 8, 2, **_D64),
        AttentionPrefill(4, 128, 256, 4, 2, lengths="uniform", return_lse=True),
    ),
    Tier.CI: (
        _square(1, 8192, 64, 8),  # Llama-3-70B
        _square(1, 2048, 64, 8),
        _square(4, 4096, 64, 8),
        _square(1, 16384, 8, 1),  # the same on one of eight GPUs
        _square(4, 4096, 48, 48),
        _square(2, 4096, 32, 32, causal=False, **_D64),
        _square(1, 16384, 32, 8, window=4096),  # Mistral-7B
        _square(8, 4096, 64, 8, lengths="uniform", return_lse=True),
        AttentionPrefill(4, 1024, 16384, 64, 8),  # a chunk after a cached prefix
        _square(1, 8192, 64, 8, dtype="float16"),
    ),
    Tier.FULL: (
        *(_square(4, s, 48, 48, causal=causal) for s in (1024, 2048, 4096, 8192, 16384) for causal in (True, False)),
        *(_square(b, s, 64, 8) for b, s in ((1, 1024), (1, 4096), (1, 16384), (1, 32768), (1, 131072), (16, 1024))),
        *(_square(1, s, 8, 1) for s in (2048, 8192, 32768, 131072)),
        *(_square(b, s, 32, 1) for b, s in ((1, 8192), (4, 4096))),  # MQA
        *(_square(b, s, 32, 8, window=4096) for b, s in ((1, 8192), (1, 32768), (4, 16384))),
        *(_square(1, 32768, 32, 8, window=w) for w in (128, 1024)),
        *(
            _square(b, s, 64, 8, lengths="uniform", return_lse=lse)
            for b, s in ((16, 1024), (32, 2048), (8, 16384))
            for lse in (True, False)
        ),
        *(AttentionPrefill(b, q, s, 64, 8) for b in (1, 8) for q in (512, 2048) for s in (8192, 32768)),
        AttentionPrefill(8, 512, 8192, 64, 8, lengths="uniform", return_lse=True),
        *(_square(b, s, 32, 32, causal=c, **_D64) for b, s in ((2, 16384), (16, 1024)) for c in (True, False)),
        *(_square(4, 4096, 48, 48, dtype="float16", causal=causal) for causal in (True, False)),
        _square(1, 2048, 32, 8, softmax_scale=1.0),
        _square(1, 3001, 40, 8),
    ),
}

HARD_CASES: tuple[AttentionPrefill, ...] = (
    _square(6, 37, 4, 2, lengths="empties", return_lse=True, **_D64),
    _square(3, 70, 2, 2, lengths="empties", causal=False, return_lse=True),
    _square(3, 150, 6, 2, lengths="uniform", window=33, return_lse=True),
    AttentionPrefill(2, 19, 131, 3, 3, dtype="float16", softmax_scale=0.3),
    AttentionPrefill(2, 21, 45, 6, 2, 80, lengths="uniform", return_lse=True),
    AttentionPrefill(
        4, 40, 130, 4, 1, 64, window=5, lengths="40x9+7x130+1x65+1x1", softmax_scale=SCALE_64, return_lse=True
    ),
)
