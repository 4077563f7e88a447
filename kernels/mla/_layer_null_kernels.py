"""Wrong kernels of the whole layer that a lax tolerance would accept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..problem import Inputs, NullKernel, Outputs
from ..updates import taken_updates
from ._dims import KV_LORA_RANK, QK_NOPE_HEAD_DIM
from ._layer_problem import MLALayer
from .layer_reference import layer


def null_kernels(problem: MLALayer) -> Mapping[str, NullKernel]:
    """Name -> kernel. The first ones leave the right rows in the cache, the last ones give the right `out`."""

    def run(inputs: Inputs) -> Outputs:
        return layer(inputs, problem) | taken_updates(problem, inputs)

    def with_inputs(inputs: Inputs, **others: torch.Tensor) -> Outputs:
        """`out` of other inputs, and the right rows."""
        own = {**inputs, "kv_cache": inputs["kv_cache"].clone()}
        return {**run(inputs), "out": layer({**own, **others}, problem)["out"]}

    def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> NullKernel:
        return lambda inputs: with_inputs(inputs, **{name: change(inputs[name])})

    def mean_of_latents(inputs: Inputs) -> Outputs:
        return with_inputs(inputs, w_q_b=inputs["w_q_b"] * 0)

    def half_of_the_cache(inputs: Inputs) -> Outputs:
        return with_inputs(inputs, seq_lens=(inputs["seq_lens"] + 1) // 2)

    def rows_of_the_tokens_before(inputs: Inputs) -> Outputs:
        before = problem.updated_rows({**inputs, "seq_lens": inputs["seq_lens"] - 1})["kv_cache"]
        return {**run(inputs), "kv_cache": inputs["kv_cache"].flatten(0, 1)[before].float()}

    def rows_not_rotated(inputs: Inputs) -> Outputs:
        own = {**inputs, "kv_cache": inputs["kv_cache"].clone(), "cos_sin": inputs["cos_sin"][:1].expand_as(
            inputs["cos_sin"])}  # fmt: skip
        layer(own, problem)
        return {**run(inputs), **taken_updates(problem, own)}

    def rows_not_normalised(inputs: Inputs) -> Outputs:
        right = run(inputs)
        projected = inputs["hidden"].float() @ inputs["w_qkv_a"].float().T
        raw = projected[:, problem.q_lora_rank :].clone()
        raw[:, KV_LORA_RANK:] = right["kv_cache"][:, KV_LORA_RANK:]
        return {**right, "kv_cache": raw}

    kernels = {
        "zeros": changed("w_o", lambda w: w * 0),
        "one_head_only": changed("w_o", lambda w: torch.cat([w[:, :QK_NOPE_HEAD_DIM], w[:, QK_NOPE_HEAD_DIM:] * 0], 1)),
        "not_rotated": changed("cos_sin", lambda t: t[:1].expand_as(t)),
        "query_not_normalised": changed("q_norm", lambda w: w * 0.9),
    }
    others = (mean_of_latents, half_of_the_cache, rows_of_the_tokens_before, rows_not_rotated, rows_not_normalised)
    return {**kernels, **{f.__name__: f for f in others}}
