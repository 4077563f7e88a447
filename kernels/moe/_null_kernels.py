"""Wrong kernels that a lax tolerance would accept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from ..problem import Inputs, NullKernel, Outputs
from ._maths import route, unpermute
from .problem import MoEGroupedGEMM, MoELayer, MoEPermute, MoERouter, MoEUnpermute
from .reference import grouped_gemm, layer, permute, routed


def _named(*kernels: Callable[[Inputs], Outputs]) -> Mapping[str, NullKernel]:
    return {f.__name__: f for f in kernels}


def router_null_kernels(problem: MoERouter) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def run(inputs: Inputs) -> Outputs:
        return route(inputs, problem)

    def zeros(inputs: Inputs) -> Outputs:
        return {name: value * 0 for name, value in run(inputs).items()}

    def equal_weights(inputs: Inputs) -> Outputs:
        weights = run(inputs)["weights"]
        return {**run(inputs), "weights": weights.mean(-1, keepdim=True).expand_as(weights)}

    def first_experts(inputs: Inputs) -> Outputs:
        ids = run(inputs)["ids"]
        return {**run(inputs), "ids": torch.arange(problem.top_k).expand_as(ids)}

    def other_normalisation(inputs: Inputs) -> Outputs:
        return route(inputs, replace(problem, renormalize=not problem.renormalize))

    def last_choice_dropped(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        outputs["weights"][:, -1] = 0
        return outputs

    def smallest_first(inputs: Inputs) -> Outputs:
        return {name: value.flip(-1) for name, value in run(inputs).items()}

    return _named(zeros, equal_weights, first_experts, other_normalisation, last_choice_dropped, smallest_first)


def permute_null_kernels(problem: MoEPermute) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def run(inputs: Inputs) -> Outputs:
        return permute(inputs, problem)

    def zeros(inputs: Inputs) -> Outputs:
        return {**run(inputs), "permuted": run(inputs)["permuted"] * 0}

    def unsorted(inputs: Inputs) -> Outputs:
        return {**run(inputs), "permuted": inputs["hidden"].repeat_interleave(problem.top_k, 0)}

    def first_token_everywhere(inputs: Inputs) -> Outputs:
        return {**run(inputs), "permuted": inputs["hidden"][:1].expand(problem.slots, -1)}

    def rows_in_order(inputs: Inputs) -> Outputs:
        return {**run(inputs), "rows": torch.arange(problem.slots).view(problem.tokens, -1)}

    def experts_backwards(inputs: Inputs) -> Outputs:
        return run({**inputs, "topk_ids": problem.num_experts - 1 - inputs["topk_ids"]})

    def last_row_dropped(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        outputs["permuted"][-1] = 0
        return outputs

    return _named(zeros, unsorted, first_token_everywhere, rows_in_order, experts_backwards, last_row_dropped)


def unpermute_null_kernels(problem: MoEUnpermute) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def run(inputs: Inputs) -> Outputs:
        return unpermute(inputs, problem)

    def zeros(inputs: Inputs) -> Outputs:
        return {"out": run(inputs)["out"] * 0}

    def first_choice_only(inputs: Inputs) -> Outputs:
        return {"out": inputs["expert_out"][inputs["rows"][:, 0].long()].float()}

    def equal_weights(inputs: Inputs) -> Outputs:
        return run({**inputs, "topk_weights": torch.full_like(inputs["topk_weights"], 1 / problem.top_k)})

    def rows_in_order(inputs: Inputs) -> Outputs:
        return run({**inputs, "rows": torch.arange(problem.slots).view_as(inputs["rows"])})

    def last_choice_dropped(inputs: Inputs) -> Outputs:
        weights = inputs["topk_weights"].clone()
        weights[:, -1] = 0
        return run({**inputs, "topk_weights": weights})

    return _named(zeros, first_choice_only, equal_weights, rows_in_order, last_choice_dropped)


def grouped_gemm_null_kernels(problem: MoEGroupedGEMM) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def run(inputs: Inputs) -> Outputs:
        return grouped_gemm(inputs, problem)

    def zeros(inputs: Inputs) -> Outputs:
        return {"h": run(inputs)["h"] * 0}

    def one_expert_only(inputs: Inputs) -> Outputs:
        ends = torch.full_like(inputs["expert_ends"], problem.rows)
        return run({**inputs, "expert_ends": ends})

    def one_row_late(inputs: Inputs) -> Outputs:
        return run({**inputs, "expert_ends": (inputs["expert_ends"] + 1).clamp_max(problem.rows)})

    def gate_and_up_exchanged(inputs: Inputs) -> Outputs:
        return run(_exchanged(inputs))

    def half_of_columns(inputs: Inputs) -> Outputs:
        x = inputs["x"].clone()
        x[:, problem.hidden_size // 2 :] = 0
        return run({**inputs, "x": x})

    def input_copied(inputs: Inputs) -> Outputs:
        return {"h": inputs["x"].float().repeat(1, 8)[:, : problem.intermediate_size]}

    return _named(zeros, one_expert_only, one_row_late, gate_and_up_exchanged, half_of_columns, input_copied)


def layer_null_kernels(problem: MoELayer) -> Mapping[str, NullKernel]:
    """Name -> kernel."""
    given = replace(problem, router="given")

    def run(inputs: Inputs) -> Outputs:
        return layer(inputs, problem)

    def with_routing(inputs: Inputs, ids: torch.Tensor, weights: torch.Tensor) -> Outputs:
        return layer({**inputs, "topk_ids": ids, "topk_weights": weights}, given)

    def zeros(inputs: Inputs) -> Outputs:
        return {"out": run(inputs)["out"] * 0}

    def residual_only(inputs: Inputs) -> Outputs:
        return {"out": inputs["hidden"].float()}

    def first_choice_only(inputs: Inputs) -> Outputs:
        ids, weights = routed(inputs, problem)
        return with_routing(inputs, ids[:, :1], torch.ones_like(weights[:, :1]))

    def one_expert_only(inputs: Inputs) -> Outputs:
        ids, weights = routed(inputs, problem)
        return with_routing(inputs, torch.where(ids >= 0, ids[ids >= 0][0], -1), weights)

    def last_choice_dropped(inputs: Inputs) -> Outputs:
        ids, weights = (value.clone() for value in routed(inputs, problem))
        last = problem.top_k - 1 - (ids[:, : problem.top_k] >= 0).flip(-1).int().argmax(-1)  # of those that are here
        weights[torch.arange(len(ids)), last] = 0
        return with_routing(inputs, ids, weights)

    def equal_weights(inputs: Inputs) -> Outputs:
        ids, weights = routed(inputs, problem)
        return with_routing(inputs, ids, weights.mean(-1, keepdim=True).expand_as(weights))

    def gate_and_up_exchanged(inputs: Inputs) -> Outputs:
        return run(_exchanged(inputs))

    def half_of_hidden(inputs: Inputs) -> Outputs:
        hidden = inputs["hidden"].clone()
        hidden[:, problem.hidden_size // 2 :] = 0
        return run({**inputs, "hidden": hidden})

    return _named(
        zeros, residual_only, first_choice_only, one_expert_only, last_choice_dropped, equal_weights,
        gate_and_up_exchanged, half_of_hidden,
    )  # fmt: skip


def _exchanged(inputs: Inputs) -> Inputs:
    """Inputs whose gate and up projections have changed places."""
    moved: Inputs = {}
    for name in ("w13", "w13_scale"):
        if name in inputs:
            table = inputs[name]
            raw = table.view(torch.uint8) if table.dtype.itemsize == 1 else table
            moved[name] = raw.roll(table.shape[1] // 2, dims=1).view(table.dtype)
    return {**inputs, **moved}
