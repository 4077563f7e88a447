"""All tasks in plain fp32 PyTorch: the maths that every other kernel is held against. See problem.py's modules."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from .problem import AddRMSNorm, MLPBlock, QKNormRopeAppend, QKVProjection, RMSNorm, SwiGLU


def rms_normed(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension, float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight.float()


def turned(heads: torch.Tensor, cos_sin: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """RoPE of [tokens, heads, head_dim], NeoX's halves."""
    cos, sin = cos_sin[positions].float().unsqueeze(1).chunk(2, dim=-1)
    a, b = heads.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def block(inputs: Inputs, problem: MLPBlock) -> Outputs:
    """out [tokens, hidden_size]."""
    x = inputs["x"].float()
    h = rms_normed(x, inputs["norm_weight"], problem.epsilon) if problem.norm else x
    gate, up = (h @ inputs["w_gate_up"].float().T).chunk(2, dim=-1)
    out = (torch.nn.functional.silu(gate) * up) @ inputs["w_down"].float().T
    return {"out": x + out if problem.residual else out}


def qkv(inputs: Inputs, problem: QKVProjection) -> Outputs:
    """q, k, v [tokens, heads, head_dim]."""
    h = rms_normed(inputs["x"], inputs["norm_weight"], problem.epsilon)
    heads = (h @ inputs["w_qkv"].float().T).view(problem.tokens, -1, problem.head_dim)
    q, k, v = heads.split((problem.num_heads, problem.num_kv_heads, problem.num_kv_heads), dim=1)
    if problem.qk_norm:
        q = rms_normed(q, inputs["q_norm_weight"], problem.epsilon)
        k = rms_normed(k, inputs["k_norm_weight"], problem.epsilon)
    table, positions = inputs["cos_sin"], inputs["positions"]
    return {"q": turned(q, table, positions), "k": turned(k, table, positions), "v": v}


def qk_append(inputs: Inputs, problem: QKNormRopeAppend) -> Outputs:
    """q [tokens, num_heads, head_dim]; rows of the caches in place."""
    heads = inputs["qkv"].view(problem.tokens, -1, problem.head_dim)
    q, k, v = heads.split((problem.num_heads, problem.num_kv_heads, problem.num_kv_heads), dim=1)
    q = rms_normed(q, inputs["q_norm_weight"], problem.epsilon)
    k = rms_normed(k, inputs["k_norm_weight"], problem.epsilon)
    k = turned(k, inputs["cos_sin"], inputs["positions"])
    inputs["k_cache"].flatten(0, 1)[inputs["slots"]] = k.to(inputs["k_cache"].dtype)
    inputs["v_cache"].flatten(0, 1)[inputs["slots"]] = v
    return {"q": turned(q, inputs["cos_sin"], inputs["positions"])}


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """Any task, in float32."""
    if isinstance(problem, MLPBlock):
        return block(inputs, problem)
    if isinstance(problem, QKVProjection):
        return qkv(inputs, problem)
    if isinstance(problem, QKNormRopeAppend):
        return qk_append(inputs, problem)
    if isinstance(problem, SwiGLU):
        gate, up = inputs["gate_up"].float().chunk(2, dim=-1)
        return {"out": torch.nn.functional.silu(gate) * up}
    assert isinstance(problem, RMSNorm)
    if isinstance(problem, AddRMSNorm):
        total = inputs["x"].float() + inputs["residual"].float()
        return {"out": rms_normed(total, inputs["weight"], problem.epsilon), "residual_out": total}
    return {"out": rms_normed(inputs["x"], inputs["weight"], problem.epsilon)}


KERNEL = Kernel(
    origin=Origin.REFERENCE,
    tasks=("block", "qkv", "qk_append", "rmsnorm", "add_rmsnorm", "swiglu"),
    run=run,
)
