"""vLLM's CUDA and HIP kernels: norms, SwiGLU product, RoPE and paged append, between torch's products.

Source: vLLM's vllm/_custom_ops.py; `silu_and_mul` has no wrapper there. `fused_add_rms_norm` overwrites both of its
inputs and is given copies, which are part of the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..installed import vllm_version
from ..kernel import Kernel, Origin
from . import _torch_ops as ops
from .problem import AddRMSNorm, MLPBlock, QKNormRopeAppend, QKVProjection, RMSNorm, SwiGLU

if TYPE_CHECKING:
    from ..device import Device
from ..problem import Inputs, Outputs, Problem


def supports(problem: Problem, device: Device) -> str | None:
    """None, or why not."""
    return "vLLM's operations are built for GPUs" if device.kind == "cpu" else None


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """Any task."""
    from vllm import _custom_ops

    if isinstance(problem, MLPBlock):
        return ops.block(inputs, problem, _rmsnorm, _swiglu)
    if isinstance(problem, QKVProjection):
        return ops.qkv(inputs, problem, _rmsnorm, _turned)
    if isinstance(problem, QKNormRopeAppend):
        return _qk_append(inputs, problem)
    if isinstance(problem, SwiGLU):
        return {"out": _swiglu(inputs["gate_up"])}
    if isinstance(problem, AddRMSNorm):
        return ops.add_rmsnorm_on_copies(inputs, problem, _custom_ops.fused_add_rms_norm)
    assert isinstance(problem, RMSNorm)
    return {"out": _rmsnorm(inputs["x"], inputs["weight"], problem.epsilon)}


def _rmsnorm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    from vllm import _custom_ops

    out = torch.empty_like(x)
    _custom_ops.rms_norm(out, x, weight, epsilon)
    return out


def _swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    out = gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))
    torch.ops._C.silu_and_mul(out, gate_up)  # noqa: SLF001 - vLLM's name for its own
    return out


def _turned(q: torch.Tensor, k: torch.Tensor, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    from vllm import _custom_ops

    if q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr():  # parts of the product's output
        q, k = q.clone(memory_format=torch.contiguous_format), k.clone(memory_format=torch.contiguous_format)
    _custom_ops.rotary_embedding(
        inputs["positions"], q.flatten(1), k.flatten(1), q.shape[-1], inputs["cos_sin"], is_neox=True
    )
    return q, k


def _qk_append(inputs: Inputs, problem: QKNormRopeAppend) -> Outputs:
    from vllm import _custom_ops

    q, k, v = ops.qk_normed(inputs, problem, _rmsnorm)
    q, k = _turned(q, k, inputs)
    one = torch.ones((), dtype=torch.float32, device=q.device)  # the scales of an fp8 cache: read for no other
    _custom_ops.reshape_and_cache_flash(k, v, inputs["k_cache"], inputs["v_cache"], inputs["slots"], "auto", one, one)
    return {"q": q}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("block", "qkv", "qk_append", "rmsnorm", "add_rmsnorm", "swiglu"),
    supports=supports,
    requires=("vllm._custom_ops",),
    run=run,
    version=vllm_version,
)
