"""Routing and the weighted sum in plain fp32 PyTorch, for the reference and for whatever computes them naively."""

from __future__ import annotations

import torch

from ..problem import Inputs, Outputs, Problem
from .problem import MoELayer, MoERouter


def route(inputs: Inputs, problem: MoERouter) -> Outputs:
    """weights [tokens, top_k] float32 and ids int32, those that are chosen first first."""
    logits = inputs["router_logits"].float()
    is_softmax = problem.scoring == "softmax"
    scores = logits.softmax(-1) if is_softmax else logits.sigmoid()
    choosing = scores if is_softmax else scores + inputs["correction_bias"]
    if problem.num_groups > 1:
        groups = choosing.unflatten(-1, (problem.num_groups, -1))
        group_scores = groups.amax(-1) if is_softmax else groups.topk(2, dim=-1).values.sum(-1)
        best = group_scores.topk(problem.top_groups, dim=-1).indices
        outside = torch.ones_like(group_scores).scatter(-1, best, 0.0).bool()
        choosing = groups.masked_fill(outside[..., None], float("-inf")).flatten(-2)
    ids = choosing.topk(problem.top_k, dim=-1).indices
    weights = scores.gather(-1, ids)
    if problem.renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return {"weights": weights * problem.scaling_factor, "ids": ids.int()}


def router_of(problem: MoELayer) -> MoERouter:
    """The router that a layer's field names."""
    if problem.router == "softmax":
        return MoERouter(problem.tokens, problem.num_experts, problem.top_k)
    return MoERouter(
        problem.tokens, problem.num_experts, problem.top_k, "sigmoid", num_groups=8, top_groups=4, scaling_factor=2.5
    )


def unpermute(inputs: Inputs, problem: Problem) -> Outputs:
    """The weighted sum of each token's rows."""
    rows = inputs["expert_out"][inputs["rows"].long()].float()  # [tokens, top_k, hidden_size]
    return {"out": (rows * inputs["topk_weights"][..., None]).sum(1)}
