"""What the vendors' layers share: every product by torch (cuBLAS, hipBLASLt), nothing fused, and the attention by one
of the family's adapters for decode.

Weights are used as they lie: the operands of the batched products are views of W_kv_b.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..kernel import Kernel
from ._dims import HEAD_DIM, KV_LORA_RANK, QK_HEAD_DIM, QK_NOPE_HEAD_DIM, QK_ROPE_HEAD_DIM, V_HEAD_DIM
from ._layer_inputs import new_rows

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs
    from ._layer_problem import MLALayer


@dataclass(frozen=True)
class Plan:
    """The layer, and the state of its attention."""

    problem: MLALayer
    attention: Any
    """What the adapter's `plan` made."""


def supports_with(decode: Kernel) -> Callable[[MLALayer, Device], str | None]:
    """`supports`: what the adapter says of the decode within."""
    return lambda problem, device: decode.supports(problem.decode_problem(), device)


def plan_with(decode: Kernel) -> Callable[[MLALayer, Inputs, Device], Plan]:
    """`plan`: the adapter's."""

    def plan(problem: MLALayer, plan_inputs: Inputs, device: Device) -> Plan:
        return Plan(problem, decode.plan(problem.decode_problem(), plan_inputs, device))

    return plan


def run_with(decode: Kernel) -> Callable[[Inputs, Plan], Outputs]:
    """`run`: the layer with the adapter's attention."""

    def run(inputs: Inputs, plan: Plan) -> Outputs:
        q, w_uv = project(inputs, plan.problem)
        attended = decode.run({**inputs, "q": q}, plan.attention)["out"][:, 0]
        values = torch.bmm(attended.transpose(0, 1), w_uv.transpose(1, 2)).transpose(0, 1)
        return {"out": torch.nn.functional.linear(values.flatten(1), inputs["w_o"])}

    return run


def project(inputs: Inputs, problem: MLALayer) -> tuple[torch.Tensor, torch.Tensor]:
    """(absorbed queries [batch, 1, num_heads, 576], W_uv [num_heads, 128, 512]); the new rows go into the cache."""
    linear, rms_norm, eps = torch.nn.functional.linear, torch.nn.functional.rms_norm, problem.rms_norm_eps
    cos_sin = inputs["cos_sin"][inputs["seq_lens"].long() - 1]
    projected = linear(inputs["hidden"], inputs["w_qkv_a"])
    c_q, latent, k_rope = projected.split([problem.q_lora_rank, KV_LORA_RANK, QK_ROPE_HEAD_DIM], dim=-1)

    latent = rms_norm(latent, (KV_LORA_RANK,), inputs["kv_norm"], eps)
    row = torch.cat([latent, rope(k_rope, cos_sin)], dim=-1)
    inputs["kv_cache"].view(-1, HEAD_DIM).index_copy_(0, new_rows(inputs), row)

    heads = linear(rms_norm(c_q, (problem.q_lora_rank,), inputs["q_norm"], eps), inputs["w_q_b"])
    heads = heads.view(-1, problem.num_heads, QK_HEAD_DIM)
    w_uk, w_uv = inputs["w_kv_b"].view(problem.num_heads, -1, KV_LORA_RANK).split(V_HEAD_DIM, dim=1)
    q = torch.empty((len(heads), 1, problem.num_heads, HEAD_DIM), dtype=heads.dtype, device=heads.device)
    q[:, 0, :, :KV_LORA_RANK] = torch.bmm(heads[..., :QK_NOPE_HEAD_DIM].transpose(0, 1), w_uk).transpose(0, 1)
    q[:, 0, :, KV_LORA_RANK:] = rope(heads[..., QK_NOPE_HEAD_DIM:], cos_sin[:, None])
    return q, w_uv


def rope(x: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """Neighbours of x [..., 64] as complex numbers, turned in float32."""
    cos, sin = cos_sin.chunk(2, dim=-1)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2).to(x.dtype)
