"""The whole MLA layer by torch.compile: Inductor's C++ on the CPU, Inductor's Triton and cuBLAS or hipBLAS on a GPU.

The maths is _layer_problem.py's, naively, one function. The attention within is torch_compile.py's: the pages of every
sequence are gathered into one padded tensor. The cache is updated in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..device import Device
from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from . import torch_compile
from ._dims import HEAD_DIM, KV_LORA_RANK, QK_HEAD_DIM, QK_NOPE_HEAD_DIM, V_HEAD_DIM
from ._layer_inputs import new_rows
from ._layer_problem import MLALayer


def layer(inputs: Inputs, softmax_scale: float, eps: float) -> torch.Tensor:
    """out [batch, hidden_size]; the new tokens' rows go into the cache."""
    hidden, kv_cache = inputs["hidden"], inputs["kv_cache"]
    dtype, q_rank = hidden.dtype, len(inputs["q_norm"])
    cos, sin = inputs["cos_sin"][inputs["seq_lens"].long() - 1].chunk(2, dim=-1)
    projected = (hidden @ inputs["w_qkv_a"].T).float()
    latent = _rms_norm(projected[:, q_rank : q_rank + KV_LORA_RANK], inputs["kv_norm"], eps)
    row = torch.cat([latent, _rope(projected[:, q_rank + KV_LORA_RANK :], cos, sin)], dim=-1).to(dtype)
    kv_cache.view(-1, HEAD_DIM).index_copy_(0, new_rows(inputs), row)

    normalised = _rms_norm(projected[:, :q_rank], inputs["q_norm"], eps).to(dtype)
    heads = (normalised @ inputs["w_q_b"].T).view(len(hidden), -1, QK_HEAD_DIM)
    q_rope = _rope(heads[..., QK_NOPE_HEAD_DIM:].float(), cos[:, None], sin[:, None]).to(dtype)
    w_uk, w_uv = inputs["w_kv_b"].view(heads.shape[1], -1, KV_LORA_RANK).split(V_HEAD_DIM, dim=1)
    absorbed = torch.bmm(heads[..., :QK_NOPE_HEAD_DIM].transpose(0, 1), w_uk).transpose(0, 1)
    q = torch.cat([absorbed, q_rope], dim=-1)

    tables = (inputs["block_table"], inputs["seq_lens"])
    attended, _ = torch_compile.decode(q[:, None], kv_cache, *tables, softmax_scale)
    values = torch.bmm(attended[:, 0].transpose(0, 1), w_uv.transpose(1, 2)).transpose(0, 1)
    return values.flatten(1) @ inputs["w_o"].T


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def _rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


@dataclass(frozen=True)
class Plan:
    """The compiled function, and its constants."""

    function: Callable[[Inputs, float, float], torch.Tensor]
    softmax_scale: float
    rms_norm_eps: float


@functools.cache
def _compiled(problem: MLALayer, torch_device: str) -> Callable[[Inputs, float, float], torch.Tensor]:
    return compiled(layer)


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Compilation itself waits for the first `run`."""
    assert isinstance(problem, MLALayer)
    return Plan(_compiled(problem, device.torch_name), problem.softmax_scale, problem.rms_norm_eps)


def run(inputs: Inputs, state: Plan) -> Outputs:
    """One call of the compiled function; the first one compiles."""
    return {"out": state.function(inputs, state.softmax_scale, state.rms_norm_eps)}


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses what its attention would refuse."""
    assert isinstance(problem, MLALayer)
    return torch_compile.supports(problem.decode_problem(), device)


KERNEL = Kernel(origin=Origin.GENERATED, tasks=("layer",), run=run, plan=plan, supports=supports, warm_up=warm_up)
