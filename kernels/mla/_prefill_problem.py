"""MLA prefill, un-absorbed: causal attention of new tokens with heads of 192 (128 + 64 rope) for Q and K, 128 for V.

Sequences are packed one behind the other. Query i of a sequence with n new tokens out of N stands at position
N - n + i (chunked prefill: N - n tokens of context precede it) and sees itself and what came before. Per head, with
softmax scale a:

    out = softmax(a * q . k^T) . v        lse = ln sum exp(a * q . k^T)

    q              [total_q, num_heads, 192]    dtype; the last 64 columns are the rotated part
    k              [total_kv, num_heads, 192]   dtype; likewise, the rotated part already repeated for every head
    v              [total_kv, num_heads, 128]   dtype
    cu_seqlens_q   [batch + 1]                  int32; sequence b has the rows cu_seqlens_q[b] : cu_seqlens_q[b + 1]
    cu_seqlens_kv  [batch + 1]                  int32; no sequence has fewer tokens than queries
    out            [total_q, num_heads, 128]    dtype
    lse            [total_q, num_heads]         float32, natural log

Source of the shapes: DeepSeek-V2/V3, as vLLM, FlashInfer's ragged prefill and FlashMLA's dense prefill take them.
Q, K and V have just been computed, hence are activations.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from ..problem import Cost, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged
from ._dims import QK_HEAD_DIM, SCALE_192, SCALE_576, V_HEAD_DIM

if TYPE_CHECKING:
    import torch

LENGTHS = ("equal", "uniform", "empties")


@dataclass(frozen=True)
class MLAPrefill(Problem):
    """One step of prefill. `seq_len_kv` counts the new tokens too."""

    batch: int = tagged("b")
    seq_len_q: int = tagged("q")
    """New tokens of every sequence, or the parameter of their distribution: see `lengths`."""
    seq_len_kv: int = tagged("s")
    num_heads: int = tagged("h")
    lengths: str = tagged("", "equal")
    """`equal`: every sequence has seq_len_q new tokens behind seq_len_kv - seq_len_q of context. `uniform`: quantiles
    of U(q/8, q) new tokens behind quantiles of U(0, context), each in an order that is always the same. `empties`: a
    third has no new token, a third one, the rest seq_len_q; all the same context."""
    dtype: str = tagged("", "bfloat16")
    softmax_scale: float = tagged("scale", SCALE_192)

    family: ClassVar[str] = "mla"
    task: ClassVar[str] = "prefill"
    residency: ClassVar[Mapping[str, Residency]] = {
        "q": Residency.WARM,
        "k": Residency.WARM,
        "v": Residency.WARM,
        "cu_seqlens_q": Residency.WARM,
        "cu_seqlens_kv": Residency.WARM,
    }
    activations: ClassVar[tuple[str, ...]] = ("q", "k", "v")
    plan_inputs: ClassVar[tuple[str, ...]] = ("cu_seqlens_q", "cu_seqlens_kv")
    distributions: ClassVar[tuple[str, ...]] = ("normal", "peaked", "flat")

    def __post_init__(self) -> None:
        if self.lengths not in LENGTHS:
            raise ValueError(f"MLAPrefill.lengths is {self.lengths!r}; it must be one of {', '.join(LENGTHS)}.")
        if self.seq_len_kv < self.seq_len_q:
            raise ValueError(f"MLAPrefill.seq_len_kv is {self.seq_len_kv}, fewer than its {self.seq_len_q} new tokens.")
        if self.softmax_scale <= 0:
            raise ValueError(f"MLAPrefill.softmax_scale is {self.softmax_scale}; it must be positive.")

    def sequence_lengths(self) -> list[tuple[int, int]]:
        """(new tokens, all tokens) of every sequence: always the same, so that every launch has the same work to do."""
        context = self.seq_len_kv - self.seq_len_q
        if self.lengths == "empties":
            new_tokens = [(self.seq_len_q, 0, 1)[i % 3] for i in range(self.batch)]
            return [(n, n + context) for n in new_tokens]
        if self.lengths == "equal":
            return [(self.seq_len_q, self.seq_len_kv)] * self.batch
        at = [(i + 0.5) / self.batch for i in range(self.batch)]
        new_tokens = [max(1, round(self.seq_len_q * (1 + 7 * p) / 8)) for p in at]
        contexts = [round(context * p) for p in at]
        order = random.Random(0)
        order.shuffle(new_tokens)
        order.shuffle(contexts)
        return [(n, n + before) for n, before in zip(new_tokens, contexts, strict=True)]

    @property
    def total_q(self) -> int:
        """New tokens of all sequences."""
        return sum(n for n, _ in self.sequence_lengths())

    @property
    def total_kv(self) -> int:
        """Tokens of all sequences."""
        return sum(n for _, n in self.sequence_lengths())

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype = getattr(torch, self.dtype)
        shapes = {
            "q": (self.total_q, self.num_heads, QK_HEAD_DIM),
            "k": (self.total_kv, self.num_heads, QK_HEAD_DIM),
            "v": (self.total_kv, self.num_heads, V_HEAD_DIM),
        }
        inputs = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
        if device != "meta":
            q_scale, k_scale = {"normal": (1.0, 1.0), "peaked": (4.0, 1.0), "flat": (0.1, 0.1)}[distribution]
            generator = torch.Generator(device).manual_seed(seed)
            inputs["q"].normal_(0, q_scale, generator=generator)
            inputs["k"].normal_(0, k_scale, generator=generator)
            inputs["v"].normal_(generator=generator)  # the tolerance of `out` counts on it
        lengths = self.sequence_lengths()
        for name, counts in (("cu_seqlens_q", [n for n, _ in lengths]), ("cu_seqlens_kv", [n for _, n in lengths])):
            inputs[name] = torch.tensor([0, *accumulate(counts)], dtype=torch.int32).to(device)
        return inputs

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        for name in self.activations:
            inputs[name].normal_(generator=generator)

    def shorten(self, inputs: Inputs, generator: torch.Generator) -> bool:
        """Less context; the rows of K and V are shared out anew. Without context nothing can become shorter: all
        queries are outputs' rows."""
        import torch

        if self.seq_len_kv == self.seq_len_q:
            return False
        new_tokens, tokens = inputs["cu_seqlens_q"].diff(), inputs["cu_seqlens_kv"].diff()
        fraction = torch.rand(self.batch, device=tokens.device, generator=generator)
        shorter = new_tokens + ((tokens - new_tokens) * fraction).int()
        inputs["cu_seqlens_kv"][1:] = shorter.cumsum(0)
        return True

    def output_specs(self) -> dict[str, TensorSpec]:
        rows = (self.total_q, self.num_heads)
        return {"out": TensorSpec((*rows, V_HEAD_DIM), self.dtype), "lse": TensorSpec(rows, "float32")}

    def tolerances(self) -> dict[str, Tolerance]:
        # `out` carries two roundings to dtype, of unit roundoff u: of the probabilities before P.V and of the result.
        # In a row that sees few tokens the first is up to u * sum p |v|, however small the rms over all rows is, most
        # of which are means of thousands: no multiple of that rms bounds it. The largest p, a 1 before the division,
        # has no part; v is N(0, 1), so 2.5 u lets five standard deviations cancel where two tokens share the weight.
        # (Drawn: in 10^8 elements of rows of up to 128 tokens 0.9 u beyond the rtol, 1.6 u if the division comes
        # first.) That is lax for a query that sees thousands: there the RMS judges, to which either rounding adds at
        # most u / sqrt(3).
        u = 2**-8 if self.dtype == "bfloat16" else 2**-11
        return {
            "out": Tolerance(atol=2.5 * u, rtol=2 * u, relative_rms=1.5 * u),
            "lse": Tolerance(atol=u / 4, rtol=u / 16, relative_rms=u / 4),
        }

    def cost(self, inputs: Inputs) -> Cost:
        new_tokens, tokens = inputs["cu_seqlens_q"].diff().tolist(), inputs["cu_seqlens_kv"].diff().tolist()
        seen = sum(n * (total - n) + n * (n + 1) // 2 for n, total in zip(new_tokens, tokens, strict=True))
        return Cost(
            flops=2 * seen * self.num_heads * (QK_HEAD_DIM + V_HEAD_DIM),
            cold_read_bytes=0,
            write_bytes=sum(new_tokens) * self.num_heads * (V_HEAD_DIM * inputs["q"].element_size() + 4),
            compute_dtype=self.dtype,
        )

    def memory_bytes(self) -> int:
        columns = self.total_q * (QK_HEAD_DIM + V_HEAD_DIM + 2) + self.total_kv * (QK_HEAD_DIM + V_HEAD_DIM)
        return 2 * self.num_heads * columns

    def cut(self) -> Problem:
        """Two heads of at most two sequences, and the last of their tokens: heads and queries are independent."""
        new_tokens, context = min(self.seq_len_q, 128), min(self.seq_len_kv - self.seq_len_q, 1024)
        return replace(
            self,
            batch=min(self.batch, 2),
            num_heads=min(self.num_heads, 2),
            seq_len_q=new_tokens,
            seq_len_kv=new_tokens + context,
        )

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._prefill_null_kernels import null_kernels

        return null_kernels(self)


PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (MLAPrefill(batch=2, seq_len_q=256, seq_len_kv=384, num_heads=4),),
    Tier.CI: (
        MLAPrefill(batch=1, seq_len_q=8192, seq_len_kv=8192, num_heads=128),
        MLAPrefill(batch=8, seq_len_q=4096, seq_len_kv=4096, num_heads=16, lengths="uniform"),
        MLAPrefill(batch=1, seq_len_q=2048, seq_len_kv=16384, num_heads=128),
    ),
    Tier.FULL: (
        *(MLAPrefill(batch=1, seq_len_q=s, seq_len_kv=s, num_heads=128) for s in (1024, 2048, 4096, 8192, 16384)),
        *(MLAPrefill(batch=4, seq_len_q=s, seq_len_kv=s, num_heads=h) for h in (16, 128) for s in (1024, 4096, 16384)),
        *(MLAPrefill(batch=1, seq_len_q=8192, seq_len_kv=8192, num_heads=h) for h in (16, 32, 64)),
        *(  # variable lengths, with and without context
            MLAPrefill(batch=16, seq_len_q=4096, seq_len_kv=s, num_heads=h, lengths="uniform")
            for h in (16, 128)
            for s in (4096, 8192)
        ),
        *(  # chunks of a long context
            MLAPrefill(batch=1, seq_len_q=q, seq_len_kv=s, num_heads=h)
            for q, s, h in (
                (512, 8192, 128), (2048, 32768, 128), (8192, 32768, 128), (2048, 131072, 128), (8192, 131072, 16)
            )
        ),
        MLAPrefill(batch=1, seq_len_q=8192, seq_len_kv=8192, num_heads=128, dtype="float16"),
        MLAPrefill(batch=1, seq_len_q=8192, seq_len_kv=8192, num_heads=128, softmax_scale=SCALE_576),
    ),
}  # fmt: skip

HARD_CASES: tuple[Problem, ...] = (
    MLAPrefill(batch=3, seq_len_q=131, seq_len_kv=131, num_heads=3, lengths="uniform"),
    MLAPrefill(batch=7, seq_len_q=33, seq_len_kv=133, num_heads=2, lengths="empties"),
    MLAPrefill(batch=2, seq_len_q=65, seq_len_kv=321, num_heads=5, lengths="uniform", dtype="float16",
               softmax_scale=SCALE_576),
)  # fmt: skip
