"""Wrong kernels of paged decode that a lax tolerance would accept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..problem import Inputs, NullKernel, Outputs
from ._decode_problem import PagedDecode
from .decode_reference import decode


def null_kernels(problem: PagedDecode) -> Mapping[str, NullKernel]:
    """Name -> kernel; where `out` alone can be wrong the `lse` is right."""

    def run(inputs: Inputs) -> Outputs:
        return decode(inputs, problem)

    def zeros(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": inputs["q"].float() * 0}

    def mean_of_v(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": run({**inputs, "q": inputs["q"] * 0})["out"]}

    def half_of_kv(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": run({**inputs, "seq_lens": (inputs["seq_lens"] + 1) // 2})["out"]}

    def query_copied(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": inputs["q"].float()}

    def k_as_v(inputs: Inputs) -> Outputs:
        return run({**inputs, "v_cache": inputs["k_cache"]})

    def another_kv_head(inputs: Inputs) -> Outputs:
        caches = {name: inputs[name].roll(1, dims=2) for name in ("k_cache", "v_cache")}
        return run({**inputs, **caches})

    def another_query_head(inputs: Inputs) -> Outputs:
        return {**run(inputs), "out": run({**inputs, "q": inputs["q"].roll(1, dims=2)})["out"]}

    def scales_swapped(inputs: Inputs) -> Outputs:
        return decode(inputs, replace(problem, k_scale=problem.v_scale, v_scale=problem.k_scale))

    def lse_zero(inputs: Inputs) -> Outputs:
        return {**run(inputs), "lse": run(inputs)["lse"] * 0}

    found = [zeros, mean_of_v, half_of_kv, query_copied, k_as_v]
    found += [another_kv_head] if problem.num_kv_heads > 1 else []
    found += [another_query_head] if problem.num_heads > 1 else []
    found += [scales_swapped] if problem.is_fp8 else []
    return {f.__name__: f for f in found + ([lse_zero] if problem.with_lse else [])}
