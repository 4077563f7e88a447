"""Wrong kernels that a lax tolerance would accept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..problem import Inputs, NullKernel, Outputs
from ._prefill_problem import AttentionPrefill
from .prefill_reference import prefill


def null_kernels(problem: AttentionPrefill) -> Mapping[str, NullKernel]:
    """Name -> kernel. Each but the last gives the right LSE, so that `out` alone must tell."""

    def run(inputs: Inputs) -> Outputs:
        return prefill(inputs, problem)

    def with_lse(inputs: Inputs, out: torch.Tensor) -> Outputs:
        return {"out": out, "lse": run(inputs)["lse"]} if problem.return_lse else {"out": out}

    def zeros(inputs: Inputs) -> Outputs:
        return with_lse(inputs, torch.zeros(inputs["q"].shape))

    def mean_of_v(inputs: Inputs) -> Outputs:
        return with_lse(inputs, run({**inputs, "q": torch.zeros_like(inputs["q"])})["out"])

    def value_copied(inputs: Inputs) -> Outputs:
        """Every query gets the value at its own position."""
        lengths_q, lengths_kv = inputs["cu_seqlens_q"].diff(), inputs["cu_seqlens_kv"].diff()
        to_key = inputs["cu_seqlens_kv"][1:] - inputs["cu_seqlens_q"][1:]  # both ends are aligned
        assert bool((lengths_kv >= lengths_q).all())
        row = torch.arange(len(inputs["q"])) + to_key.repeat_interleave(lengths_q)
        return with_lse(inputs, inputs["v"][row].repeat_interleave(problem.group, 1).float())

    def query_copied(inputs: Inputs) -> Outputs:
        return with_lse(inputs, inputs["q"].float())

    def half_of_kv(inputs: Inputs) -> Outputs:
        """The values of every sequence's first half are never read; the mask stays where it is."""
        first, lengths = inputs["cu_seqlens_kv"][:-1], inputs["cu_seqlens_kv"].diff()
        row = torch.arange(len(inputs["k"])) - first.repeat_interleave(lengths)
        unread = (row < (lengths // 2).repeat_interleave(lengths))[:, None, None]
        blind = {**inputs, "v": inputs["v"].masked_fill(unread, 0.0)}
        return with_lse(inputs, run(blind)["out"])

    def mask_flipped(inputs: Inputs) -> Outputs:
        """Full where the problem is causal, causal where it is full."""
        return with_lse(inputs, prefill(inputs, replace(problem, causal=not problem.causal, window=0))["out"])

    def first_head_only(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        return {**outputs, "out": outputs["out"][:, :1].expand_as(outputs["out"])}

    def lse_zero(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        return {**outputs, "lse": outputs["lse"] * 0} if problem.return_lse else {"out": outputs["out"] * 0}

    nulls = (zeros, mean_of_v, value_copied, query_copied, half_of_kv, mask_flipped, first_head_only, lse_zero)
    return {f.__name__: f for f in nulls}
