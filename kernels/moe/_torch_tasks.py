"""The tasks that PyTorch solves with a few operations each, eagerly or compiled: routing and the exchange of tokens."""

from __future__ import annotations

import torch

from ..problem import Inputs, Outputs
from ._maths import route, router_of, unpermute
from .problem import MoELayer, MoEPermute, MoERouter


def routed(inputs: Inputs, problem: MoELayer) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, weights) [tokens, slots] of a layer, given or by its router."""
    if problem.router == "given":
        return inputs["topk_ids"], inputs["topk_weights"]
    chosen = router(inputs, router_of(problem))
    return chosen["ids"], chosen["weights"]


def router(inputs: Inputs, problem: MoERouter) -> Outputs:
    """Top-k of scores, in float32: the reference does nothing else."""
    return route(inputs, problem)


def permuted(inputs: Inputs, problem: MoEPermute) -> Outputs:
    """A stable sort of the ids, its inverse by scattering, and a gather of rows."""
    ids = inputs["topk_ids"].flatten()
    ordered, slots = ids.sort(stable=True)
    rows = torch.empty_like(ids).scatter_(0, slots, torch.arange(len(ids), dtype=ids.dtype, device=ids.device))
    experts = torch.arange(problem.num_experts, dtype=ids.dtype, device=ids.device)
    return {
        "permuted": inputs["hidden"][slots // problem.top_k],
        "rows": rows.view_as(inputs["topk_ids"]),
        "expert_ends": torch.searchsorted(ordered, experts, right=True).int(),
    }


def unpermuted(inputs: Inputs, problem: object) -> Outputs:
    """A gather of rows, weighted and summed in float32."""
    return {"out": unpermute(inputs, problem)["out"].to(inputs["expert_out"].dtype)}  # type: ignore[arg-type]
