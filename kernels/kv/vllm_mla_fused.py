"""vLLM's one kernel for MLA's RoPE and append, `concat_and_cache_mla_rope_fused`.

Source: vLLM's csrc/cache_kernels_fused.cu. It turns queries and the key in place, so that copies of both are part of
the call; it wants angles in the dtype of the queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _vllm

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs
    from ._mla_append_problem import MLAAppend


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: MLAAppend
    scale: torch.Tensor


def supports(problem: MLAAppend, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if problem.cos_sin_dtype != problem.dtype:
        return f"vLLM's fused kernel wants angles in {problem.dtype}; these are {problem.cos_sin_dtype}"
    return _vllm.missing("concat_and_cache_mla_rope_fused", device)


def plan(problem: MLAAppend, plan_inputs: Inputs, device: Device) -> Plan:
    """The scale as a tensor."""
    return Plan(problem, _vllm.scale_tensor(problem.kv_scale, plan_inputs))


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """Two copies and one kernel."""
    q_out, k_rope = inputs["q_rope"].clone(), inputs["k_rope"].clone()
    torch.ops._C_cache_ops.concat_and_cache_mla_rope_fused(  # noqa: SLF001 - its public name
        inputs["positions"], q_out, k_rope, inputs["latent"], inputs["cos_sin_cache"], plan.problem.is_neox,
        inputs["slot_mapping"], _vllm.as_stored(inputs["kv_cache"]), _vllm.cache_kind(plan.problem.is_fp8), plan.scale,
    )  # fmt: skip
    return {"q_out": q_out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("mla_append",),
    supports=supports,
    requires=("vllm",),
    plan=plan,
    run=run,
    version=_vllm.version,
)
