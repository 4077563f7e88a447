"""FlashInfer's norms, SwiGLU product, RoPE and paged append, between torch's products.

Source: flashinfer 0.6, flashinfer/{norm,activation,rope,page}. `fused_add_rmsnorm` overwrites both of its inputs and is
given copies, which are part of the call. Slots become pages of sequences of one token each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..installed import module_version
from ..kernel import Kernel, Origin
from . import _torch_ops as ops
from .problem import AddRMSNorm, MLPBlock, QKNormRopeAppend, QKVProjection, RMSNorm, SwiGLU

if TYPE_CHECKING:
    from ..device import Device
from ..problem import Inputs, Outputs, Problem

HEAD_DIMS = (64, 128, 256)
VALUES_OF_A_LOAD = 8


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: Problem
    pages: Pages | None
    """Where tokens go; None for tasks without a cache."""


@dataclass(frozen=True)
class Pages:
    """Every token as a sequence of its own, whose only page it is appended to. All [tokens] int32 but `starts`."""

    sequences: torch.Tensor
    rows: torch.Tensor
    """Row within the page."""
    pages: torch.Tensor
    starts: torch.Tensor
    """[tokens + 1] int32"""
    last_page_lens: torch.Tensor


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability < 80:
        return f"FlashInfer wants an NVIDIA GPU of compute capability 8.0 or more; this is {device.arch}"
    if isinstance(problem, MLPBlock | SwiGLU) and problem.intermediate_size % VALUES_OF_A_LOAD:
        return f"FlashInfer's silu_and_mul wants rows of 16 bytes; these have {problem.intermediate_size} values"
    if isinstance(problem, QKVProjection | QKNormRopeAppend) and problem.head_dim not in HEAD_DIMS:
        return f"FlashInfer's RoPE knows heads of 64, 128 and 256 values; these have {problem.head_dim}"
    return None


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """List the pages, where there are some."""
    if not isinstance(problem, QKNormRopeAppend):
        return Plan(problem, None)
    slots = plan_inputs["slots"]
    counted = torch.arange(problem.tokens + 1, dtype=torch.int32, device=slots.device)
    rows = (slots % problem.page_size).int()
    return Plan(problem, Pages(counted[:-1], rows, (slots // problem.page_size).int(), counted, rows + 1))


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """Any task."""
    from flashinfer.activation import silu_and_mul
    from flashinfer.norm import fused_add_rmsnorm

    problem = plan.problem
    if isinstance(problem, MLPBlock):
        return ops.block(inputs, problem, _rmsnorm, silu_and_mul)
    if isinstance(problem, QKVProjection):
        return ops.qkv(inputs, problem, _rmsnorm, _turned)
    if isinstance(problem, QKNormRopeAppend):
        assert plan.pages is not None
        return _qk_append(inputs, problem, plan.pages)
    if isinstance(problem, SwiGLU):
        return {"out": silu_and_mul(inputs["gate_up"])}
    if isinstance(problem, AddRMSNorm):
        return ops.add_rmsnorm_on_copies(inputs, problem, fused_add_rmsnorm)
    assert isinstance(problem, RMSNorm)
    return {"out": _rmsnorm(inputs["x"], inputs["weight"], problem.epsilon)}


def _rmsnorm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    from flashinfer.norm import rmsnorm

    normed: torch.Tensor = rmsnorm(x.view(-1, x.shape[-1]), weight, epsilon)
    return normed.view(x.shape)


def _turned(q: torch.Tensor, k: torch.Tensor, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    from flashinfer.rope import apply_rope_with_cos_sin_cache

    turned_q, turned_k = apply_rope_with_cos_sin_cache(
        inputs["positions"], q.flatten(1), k.flatten(1), q.shape[-1], inputs["cos_sin"], is_neox=True
    )
    return turned_q.view(q.shape), turned_k.view(k.shape)


def _qk_append(inputs: Inputs, problem: QKNormRopeAppend, pages: Pages) -> Outputs:
    from flashinfer.page import append_paged_kv_cache

    q, k, v = ops.qk_normed(inputs, problem, _rmsnorm)
    q, k = _turned(q, k, inputs)
    append_paged_kv_cache(
        k,
        v,
        pages.sequences,
        pages.rows,
        (inputs["k_cache"], inputs["v_cache"]),
        pages.pages,
        pages.starts,
        pages.last_page_lens,
        kv_layout="NHD",
    )
    return {"q": q}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("block", "qkv", "qk_append", "rmsnorm", "add_rmsnorm", "swiglu"),
    supports=supports,
    requires=("flashinfer",),
    plan=plan,
    run=run,
    version=module_version("flashinfer", "flashinfer {}"),
)
