"""Mixture of experts in plain fp32 PyTorch: the maths that every other kernel is held against. See problem.py."""

from __future__ import annotations

from typing import Any

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._maths import route, router_of, unpermute
from ._quant import dequantize, dequantize_weight, quantize
from .problem import MoEGroupedGEMM, MoELayer


def routed(inputs: Inputs, problem: MoELayer) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, weights) [tokens, slots] of a layer, given or by its router."""
    if problem.router == "given":
        return inputs["topk_ids"], inputs["topk_weights"]
    chosen = route(inputs, router_of(problem))
    return chosen["ids"], chosen["weights"]


def permute(inputs: Inputs, problem: Problem) -> Outputs:
    """Rows sorted by expert, in order of tokens."""
    ids = inputs["topk_ids"].flatten().long()
    order = ids.argsort(stable=True)
    num_experts = problem.num_experts  # type: ignore[attr-defined]
    return {
        "permuted": inputs["hidden"][order // inputs["topk_ids"].shape[1]],
        "rows": order.argsort().view_as(inputs["topk_ids"]).int(),
        "expert_ends": torch.bincount(ids, minlength=num_experts).cumsum(0).int(),
    }


def swiglu(x: torch.Tensor, w13: torch.Tensor) -> torch.Tensor:
    """silu(x . gate^T) * (x . up^T)."""
    gate, up = (x @ w13.T).chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def weight(inputs: Inputs, name: str, expert: int) -> torch.Tensor:
    """One expert's matrix in float32."""
    stored = inputs[name][expert]
    scale = inputs.get(f"{name}_scale")
    return stored.float() if scale is None else dequantize_weight(stored, scale[expert])


def grouped_gemm(inputs: Inputs, problem: MoEGroupedGEMM) -> Outputs:
    """One expert after the other."""
    x = dequantize(inputs["x"], inputs["x_scale"]) if problem.is_fp8 else inputs["x"].float()
    h = x.new_empty((len(x), problem.intermediate_size))
    start = 0
    for expert, end in enumerate(inputs["expert_ends"].tolist()):
        if end > start:
            h[start:end] = swiglu(x[start:end], weight(inputs, "w13", expert))
        start = end
    return {"h": h}


def layer(inputs: Inputs, problem: MoELayer) -> Outputs:
    """One expert after the other, each added to the tokens that chose it."""
    ids, weights = routed(inputs, problem)
    hidden = inputs["hidden"].float()
    out = torch.zeros_like(hidden)
    for expert in ids[ids >= 0].unique().tolist():
        token, slot = torch.nonzero(ids == expert, as_tuple=True)
        x = _as_seen(hidden[token], inputs["w13"].dtype, problem)
        h = _as_seen(swiglu(x, weight(inputs, "w13", expert)), inputs["w13"].dtype, problem)
        y = h @ weight(inputs, "w2", expert).T
        out.index_add_(0, token, y * weights[token, slot, None])
    return {"out": out}


def _as_seen(x: torch.Tensor, dtype: torch.dtype, problem: MoELayer) -> torch.Tensor:
    """What a product sees of its activations: the quantised ones where the weights have 8 bits."""
    return dequantize(*quantize(x, dtype)) if problem.is_fp8 else x


_TASKS: dict[str, Any] = {
    "router": route,
    "permute": permute,
    "unpermute": unpermute,
    "grouped_gemm": grouped_gemm,
    "layer": layer,
}


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """The task's outputs, float32 where they are not copies or counts."""
    outputs: Outputs = _TASKS[problem.task](inputs, problem)
    return outputs


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("router", "permute", "unpermute", "grouped_gemm", "layer"), run=run)
