"""The whole MLA layer in plain fp32 PyTorch: what every other kernel is held against. See _layer_problem.py."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._dims import HEAD_DIM, KV_LORA_RANK, QK_HEAD_DIM, QK_NOPE_HEAD_DIM, QK_ROPE_HEAD_DIM, V_HEAD_DIM
from ._layer_inputs import new_rows
from ._layer_problem import MLALayer
from .reference import decode


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Over the last dimension, in float32."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def rope(x: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """Rotate neighbours of x [batch, ..., 64] by the angles of each sequence's position; cos_sin [batch, 64]."""
    cos, sin = cos_sin.view(len(x), *[1] * (x.dim() - 2), QK_ROPE_HEAD_DIM).chunk(2, dim=-1)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def layer(inputs: Inputs, problem: MLALayer) -> Outputs:
    """out [batch, hidden_size] float32; the new tokens' rows go into the cache."""
    cos_sin = inputs["cos_sin"][inputs["seq_lens"].long() - 1]
    projected = inputs["hidden"].float() @ inputs["w_qkv_a"].float().T
    c_q, latent, k_rope = projected.split([problem.q_lora_rank, KV_LORA_RANK, QK_ROPE_HEAD_DIM], dim=-1)

    row = torch.cat([rms_norm(latent, inputs["kv_norm"], problem.rms_norm_eps), rope(k_rope, cos_sin)], dim=-1)
    inputs["kv_cache"].view(-1, HEAD_DIM)[new_rows(inputs)] = row.to(inputs["kv_cache"].dtype)

    heads = rms_norm(c_q, inputs["q_norm"], problem.rms_norm_eps) @ inputs["w_q_b"].float().T
    q_nope, q_rope = heads.view(-1, problem.num_heads, QK_HEAD_DIM).split([QK_NOPE_HEAD_DIM, QK_ROPE_HEAD_DIM], dim=-1)
    w_uk, w_uv = inputs["w_kv_b"].float().view(problem.num_heads, -1, KV_LORA_RANK).split(V_HEAD_DIM, dim=1)
    q = torch.cat([torch.einsum("bhn,hnl->bhl", q_nope, w_uk), rope(q_rope, cos_sin)], dim=-1)

    attended = decode({**inputs, "q": q[:, None]}, problem.decode_problem())["out"][:, 0]
    values = torch.einsum("bhl,hvl->bhv", attended, w_uv)
    return {"out": values.flatten(1) @ inputs["w_o"].float().T}


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("layer",), run=layer)
