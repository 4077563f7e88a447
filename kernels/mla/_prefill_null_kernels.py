"""Wrong kernels of prefill that a lax tolerance would accept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch

from ..problem import Inputs, NullKernel, Outputs
from ._dims import QK_NOPE_HEAD_DIM
from ._prefill_problem import MLAPrefill
from .prefill_reference import prefill


def null_kernels(problem: MLAPrefill) -> Mapping[str, NullKernel]:
    """Name -> kernel. Each has the reference's `lse` but for the last two."""

    def run(inputs: Inputs) -> Outputs:
        return prefill(inputs, problem)

    def zeros(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": run(inputs)["out"] * 0}

    def mean_of_v(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": run({**inputs, "q": inputs["q"] * 0})["out"]}

    def own_value(inputs: Inputs) -> Outputs:
        new_tokens, ends = inputs["cu_seqlens_q"].diff().tolist(), inputs["cu_seqlens_kv"][1:].tolist()
        own = [inputs["v"][end - n : end] for n, end in zip(new_tokens, ends, strict=True)]
        return {**run(inputs), "out": torch.cat(own).float()}

    def rope_ignored(inputs: Inputs) -> Outputs:
        q = inputs["q"].clone()
        q[..., QK_NOPE_HEAD_DIM:] = 0
        return {**run(inputs), "out": run({**inputs, "q": q})["out"]}

    def last_query_only(inputs: Inputs) -> Outputs:
        right = run(inputs)
        out = right["out"].clone()
        for start, end in pairwise(inputs["cu_seqlens_q"].tolist()):
            out[start:end] = out[end - 1 : end]
        return {**right, "out": out}

    def one_head_for_all(inputs: Inputs) -> Outputs:
        out = run(inputs)["out"]
        return {**run(inputs), "out": out[:, :1].expand_as(out)}

    def scale_of_576(inputs: Inputs) -> Outputs:
        return prefill(inputs, replace(problem, softmax_scale=problem.softmax_scale / 3**0.5))

    def lse_zero(inputs: Inputs) -> Outputs:
        return {**run(inputs), "lse": run(inputs)["lse"] * 0}

    kernels = (zeros, mean_of_v, own_value, rope_ignored, last_query_only, one_head_for_all, scale_of_576, lse_zero)
    return {f.__name__: f for f in kernels}
