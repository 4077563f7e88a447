"""Wrong kernels of tree attention that a lax tolerance would accept: those of paged decode, and wrong trees."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..problem import Inputs, NullKernel, Outputs
from . import _decode_null_kernels
from ._tree_problem import TreeDecode
from .decode_reference import decode


def null_kernels(problem: TreeDecode) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def with_mask(inputs: Inputs, mask: torch.Tensor) -> Outputs:
        return decode({**inputs, "tree_mask": mask}, problem)

    def chain(inputs: Inputs) -> Outputs:
        return with_mask(inputs, torch.ones_like(inputs["tree_mask"]).tril())

    def all_drafts(inputs: Inputs) -> Outputs:
        return with_mask(inputs, torch.ones_like(inputs["tree_mask"]))

    def no_ancestors(inputs: Inputs) -> Outputs:
        return with_mask(inputs, torch.eye(problem.seq_len_q, dtype=torch.bool, device=inputs["q"].device))

    def descendants(inputs: Inputs) -> Outputs:
        return with_mask(inputs, inputs["tree_mask"].t().contiguous())

    own = (chain, all_drafts, no_ancestors, descendants)
    return {**_decode_null_kernels.null_kernels(problem), **{f.__name__: f for f in own}}
