"""Wrong kernels that a lax tolerance would accept."""

from __future__ import annotations

from collections.abc import Mapping

from ..problem import Inputs, NullKernel, Outputs
from .problem import KV_LORA_RANK, MLADecode
from .reference import decode


def null_kernels(problem: MLADecode) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def run(inputs: Inputs) -> Outputs:
        return decode(inputs, problem)

    def zeros(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": run(inputs)["out"] * 0}

    def mean_of_v(inputs: Inputs) -> Outputs:
        uniform = {**inputs, "q": inputs["q"] * 0}
        return {**run(inputs), "out": run(uniform)["out"]}

    def half_of_kv(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": run({**inputs, "seq_lens": (inputs["seq_lens"] + 1) // 2})["out"]}

    def query_copied(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": inputs["q"][..., :KV_LORA_RANK].float()}

    def rope_ignored(inputs: Inputs) -> Outputs:
        q = inputs["q"].clone()
        q[..., KV_LORA_RANK:] = 0
        return {**run(inputs), "out": run({**inputs, "q": q})["out"]}

    def lse_zero(inputs: Inputs) -> Outputs:
        return {**run(inputs), "lse": run(inputs)["lse"] * 0}

    return {f.__name__: f for f in (zeros, mean_of_v, half_of_kv, query_copied, rope_ignored, lse_zero)}
