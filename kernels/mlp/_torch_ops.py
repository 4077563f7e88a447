"""What the adapters of this family share: products by torch, RoPE by torch, in-place operations on copies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import linear

from ..problem import Inputs, Outputs
from .problem import AddRMSNorm, MLPBlock, QKNormRopeAppend, QKVProjection

Norm = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(x, weight, epsilon) -> the normed x, over the last dimension."""
SwiGLUProduct = Callable[[torch.Tensor], torch.Tensor]
"""[.., 2 * intermediate] -> [.., intermediate]."""
Rope = Callable[[torch.Tensor, torch.Tensor, Inputs], tuple[torch.Tensor, torch.Tensor]]
"""(q, k [tokens, heads, head_dim], views where there is no QK-norm; inputs) -> both turned, in memory of their own."""


def block(inputs: Inputs, problem: MLPBlock, norm: Norm, swiglu: SwiGLUProduct) -> Outputs:
    """The unfused block: torch's products (cuBLAS, hipBLASLt, oneDNN) between a library's memory-bound kernels."""
    x = inputs["x"]
    h = norm(x, inputs["norm_weight"], problem.epsilon) if problem.norm else x
    activated = swiglu(linear(h, inputs["w_gate_up"]))
    if problem.residual:
        return {"out": torch.addmm(x, activated, inputs["w_down"].t())}
    return {"out": linear(activated, inputs["w_down"])}


def qkv(inputs: Inputs, problem: QKVProjection, norm: Norm, rope: Rope) -> Outputs:
    """The unfused projection."""
    h = norm(inputs["x"], inputs["norm_weight"], problem.epsilon)
    q, k, v = heads_of(linear(h, inputs["w_qkv"]), problem)
    if problem.qk_norm:
        q = norm(q.contiguous(), inputs["q_norm_weight"], problem.epsilon)
        k = norm(k.contiguous(), inputs["k_norm_weight"], problem.epsilon)
    q, k = rope(q, k, inputs)
    return {"q": q, "k": k, "v": v.contiguous()}


def qk_normed(inputs: Inputs, problem: QKNormRopeAppend, norm: Norm) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q and k after their norm, contiguous, and v, a view."""
    q, k, v = heads_of(inputs["qkv"], problem)
    q = norm(q.contiguous(), inputs["q_norm_weight"], problem.epsilon)
    return q, norm(k.contiguous(), inputs["k_norm_weight"], problem.epsilon), v


def heads_of(
    merged: torch.Tensor, problem: QKVProjection | QKNormRopeAppend
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views of q, k and v, [tokens, heads, head_dim]."""
    counts = (problem.num_heads, problem.num_kv_heads, problem.num_kv_heads)
    q, k, v = merged.view(problem.tokens, -1, problem.head_dim).split(counts, dim=1)
    return q, k, v


def add_rmsnorm_on_copies(
    inputs: Inputs, problem: AddRMSNorm, in_place: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], None]
) -> Outputs:
    """Of an operation that overwrites x with the result and the residual with the sum."""
    out, residual_out = inputs["x"].clone(), inputs["residual"].clone()
    in_place(out, residual_out, inputs["weight"], problem.epsilon)
    return {"out": out, "residual_out": residual_out}


def turned(q: torch.Tensor, k: torch.Tensor, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """RoPE in float32, rounded once."""
    cos, sin = inputs["cos_sin"][inputs["positions"]].unsqueeze(1).chunk(2, dim=-1)
    results = []
    for heads in (q, k):
        a, b = heads.chunk(2, dim=-1)
        results.append(torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(heads.dtype))
    return results[0], results[1]


def write_rows(cache: torch.Tensor, slots: torch.Tensor, values: torch.Tensor) -> None:
    """Append by torch's indexing: cache [pages, page_size, heads, head_dim], values [tokens, heads, head_dim]."""
    cache.flatten(0, 1).index_copy_(0, slots, values)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu rounds to the tensor's dtype, and so does the product."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def rmsnorm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """torch's fused RMSNorm."""
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, epsilon)
