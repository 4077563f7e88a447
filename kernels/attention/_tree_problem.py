"""Tree attention of speculative decoding: the last tokens of a sequence are a tree of drafts, verified at once.

As `_decode_problem`, with `seq_len_q` draft tokens a sequence: nodes of a tree in an order in which a node comes after
its parent. Node i sees all tokens before the drafts, and of the drafts itself and its ancestors:

    tree_mask    [seq_len_q, seq_len_q]   bool, one tree for the batch; row i: which drafts node i sees

Medusa verifies a tree of 64 nodes of depth 5 (https://arxiv.org/abs/2401.10774): its root is the token that is already
accepted. Here trees are drawn from the seed; keys of drafts are larger than others, so that they weigh in the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..problem import Inputs, NullKernel, Problem, Residency, Tier
from ._decode_problem import FP8, SCALE_64, PagedDecode

CUT_TREE_TOKENS = 1024


@dataclass(frozen=True)
class TreeDecode(PagedDecode):
    """One verification step of `batch` sequences with `seq_len_q` drafts each, which `seq_len_kv` counts too."""

    task: ClassVar[str] = "tree"
    residency: ClassVar[Mapping[str, Residency]] = {**PagedDecode.residency, "tree_mask": Residency.WARM}
    plan_inputs: ClassVar[tuple[str, ...]] = (*PagedDecode.plan_inputs, "tree_mask")

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        from ._tree_inputs import tree_inputs

        return tree_inputs(self, seed, device, distribution)

    def seen_tokens(self, inputs: Inputs) -> int:
        lengths, q = inputs["seq_lens"].tolist(), self.seq_len_q
        return sum((n - q) * q + int(inputs["tree_mask"].sum()) for n in lengths if n)

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self.seq_len_q**2

    def cut(self) -> Problem:
        """One sequence of 1024 tokens at most: many queries make each of them dear."""
        cut = super().cut()
        assert isinstance(cut, TreeDecode)
        return replace(cut, batch=1, seq_len_kv=min(cut.seq_len_kv, CUT_TREE_TOKENS))

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._tree_null_kernels import null_kernels

        return null_kernels(self)


def _tree(b: int, q: int, s: int, h: int, g: int, **fields: Any) -> TreeDecode:
    return TreeDecode(batch=b, seq_len_q=q, seq_len_kv=s, num_heads=h, num_kv_heads=g, **fields)


PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (_tree(2, 16, 600, 8, 2, head_dim=64, softmax_scale=SCALE_64),),
    Tier.CI: (_tree(16, 64, 4096, 32, 8),),
    Tier.FULL: (
        *(_tree(b, q, s, h, 8) for b in (1, 16, 64) for q in (16, 64) for s in (1024, 8192) for h in (32, 64)),
        *(_tree(16, 64, 4096, 64, 8, lengths=lengths) for lengths in ("uniform", "normal")),
        *(_tree(16, 64, 4096, 32, 8, **fp8) for fp8 in FP8),
        _tree(1, 64, 131072, 8, 1),
        _tree(16, 64, 4096, 64, 8, with_lse=False),
        _tree(16, 64, 4096, 64, 8, page_size=64),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    _tree(4, 7, 100, 6, 2, head_dim=64, lengths="empties", page_size=1),
    _tree(2, 33, 150, 4, 1, lengths="uniform", softmax_scale=0.1),
)
