"""The router's kernel and its launch: one program a token, or some, scores in registers from logits to experts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from ..problem import Inputs, Outputs
from ._router_plan import RouterPlan


@triton.jit
def _open_groups(choosing, IS_SOFTMAX: tl.constexpr, TOP_GROUPS: tl.constexpr):
    """[tokens, groups] bool: the TOP_GROUPS groups with the best scores of [tokens, groups, members]."""
    group, member = tl.arange(0, choosing.shape[1]), tl.arange(0, choosing.shape[2])
    best = tl.max(choosing, 2)
    if not IS_SOFTMAX:
        first = tl.argmax(choosing, 2)
        rest = tl.where(member[None, None, :] == first[:, :, None], float("-inf"), choosing)
        best += tl.max(rest, 2)
    is_open = tl.zeros_like(best) > 0
    for _ in tl.static_range(TOP_GROUPS):
        chosen = group[None, :] == tl.argmax(best, 1)[:, None]
        is_open = is_open | chosen
        best = tl.where(chosen, float("-inf"), best)
    return is_open


@triton.jit
def _score(logit, largest, total, IS_SOFTMAX: tl.constexpr, RENORMALIZE: tl.constexpr):
    """Of logits [tokens, *]; `largest` and `total`, for a softmax, are of each token."""
    if IS_SOFTMAX:
        score = tl.exp(logit - largest[:, None])
        if not RENORMALIZE:
            score = score / total[:, None]
    else:
        score = 1.0 / (1.0 + tl.exp(-logit))
    return score


@triton.jit
def _route(  # noqa: PLR0915 - a branch for each way of scoring
    logits, bias, weights, ids, num_tokens, scaling_factor,
    NUM_EXPERTS: tl.constexpr, NUM_GROUPS: tl.constexpr, GROUPS: tl.constexpr, MEMBERS: tl.constexpr,
    TOP_GROUPS: tl.constexpr, TOP_K: tl.constexpr, TOP_K_BLOCK: tl.constexpr, BLOCK_T: tl.constexpr,
    IS_SOFTMAX: tl.constexpr, RENORMALIZE: tl.constexpr, LATE_SCORES: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program t: weights and ids [BLOCK_T, TOP_K] of tokens [t * BLOCK_T, ..).

    LATE_SCORES: those of the chosen are computed once more, from their logits, instead of sought along with them.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    GROUP_SIZE: tl.constexpr = NUM_EXPERTS // NUM_GROUPS
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    group, member = tl.arange(0, GROUPS), tl.arange(0, MEMBERS)
    expert = group[:, None] * GROUP_SIZE + member[None, :]  # [GROUPS, MEMBERS]
    is_expert = ((group < NUM_GROUPS)[:, None] & (member < GROUP_SIZE)[None, :])[None, :, :]
    pointers = logits + token.to(tl.int64)[:, None, None] * NUM_EXPERTS + expert[None, :, :]
    mask = (token < num_tokens)[:, None, None] & is_expert
    logit = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    largest, total = logit, logit  # stand-ins, where there is nothing to normalise
    if IS_SOFTMAX:
        choosing = tl.where(is_expert, logit, float("-inf"))
        largest = tl.max(tl.max(choosing, 2), 1)
        score = tl.exp(choosing - largest[:, None, None])
        total = tl.sum(tl.sum(score, 2), 1)
        if not RENORMALIZE:
            score = score / total[:, None, None]
    else:
        score = 1.0 / (1.0 + tl.exp(-logit))
        correction = tl.load(bias + expert[None, :, :], mask=is_expert, other=0.0)
        choosing = tl.where(is_expert, score + correction, float("-inf"))
    if NUM_GROUPS > 1:
        choosing = tl.where(_open_groups(choosing, IS_SOFTMAX, TOP_GROUPS)[:, :, None], choosing, float("-inf"))
    choosing = tl.reshape(choosing, [BLOCK_T, GROUPS * MEMBERS])
    score = tl.reshape(score, [BLOCK_T, GROUPS * MEMBERS])
    place, column = tl.arange(0, GROUPS * MEMBERS)[None, :], tl.arange(0, TOP_K_BLOCK)[None, :]
    out_weights = tl.zeros([BLOCK_T, TOP_K_BLOCK], tl.float32)
    out_ids = tl.zeros([BLOCK_T, TOP_K_BLOCK], tl.int32)
    for i in tl.static_range(TOP_K):
        at = tl.argmax(choosing, 1)[:, None]
        if not LATE_SCORES:
            out_weights = tl.where(column == i, tl.sum(tl.where(place == at, score, 0.0), 1)[:, None], out_weights)
        out_ids = tl.where(column == i, (at // MEMBERS) * GROUP_SIZE + at % MEMBERS, out_ids)
        choosing = tl.where(place == at, float("-inf"), choosing)
    if LATE_SCORES:
        stored = (token < num_tokens)[:, None] & (column < TOP_K)
        chosen = tl.load(logits + token.to(tl.int64)[:, None] * NUM_EXPERTS + out_ids, mask=stored, other=0.0)
        out_weights = tl.where(stored, _score(chosen.to(tl.float32), largest, total, IS_SOFTMAX, RENORMALIZE), 0.0)
    if RENORMALIZE:
        out_weights = out_weights / tl.sum(out_weights, 1)[:, None]
    at = token.to(tl.int64)[:, None] * TOP_K + column
    stored = (token < num_tokens)[:, None] & (column < TOP_K)
    tl.store(weights + at, out_weights * scaling_factor, mask=stored)
    tl.store(ids + at, out_ids, mask=stored)


def route_tokens(inputs: Inputs, state: RouterPlan, dependent_launch: bool) -> Outputs:
    """One launch. `dependent_launch`: the next kernel may be launched while this one runs."""
    problem, logits = state.problem, inputs["router_logits"]
    shape = (problem.tokens, problem.top_k)
    weights = torch.empty(shape, dtype=torch.float32, device=logits.device)
    ids = torch.empty(shape, dtype=torch.int32, device=logits.device)
    _route[(triton.cdiv(problem.tokens, state.block_t),)](
        logits, inputs.get("correction_bias", logits), weights, ids, problem.tokens, problem.scaling_factor,
        NUM_EXPERTS=problem.num_experts, NUM_GROUPS=problem.num_groups,
        GROUPS=triton.next_power_of_2(problem.num_groups),
        MEMBERS=triton.next_power_of_2(problem.num_experts // problem.num_groups),
        TOP_GROUPS=problem.top_groups, TOP_K=problem.top_k, TOP_K_BLOCK=triton.next_power_of_2(problem.top_k),
        BLOCK_T=state.block_t,
        IS_SOFTMAX=problem.scoring == "softmax", RENORMALIZE=problem.renormalize,
        LATE_SCORES=state.late_scores, DEPENDENT_LAUNCH=dependent_launch,
        num_warps=state.num_warps,
    )  # fmt: skip
    return {"weights": weights, "ids": ids}
