"""AITER's RoPE and appends for AMD GPUs.

Written from AITER's source, aiter/ops/rope.py and aiter/ops/cache.py. Its RoPE takes cosines and sines as two dense
tables in the dtype of the queries: halves of the one table here are copied in every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..installed import package_version
from ..kernel import Kernel, Origin
from ._mla_append_problem import MLAAppend
from ._rope_append_problem import RopeAppend
from ._rope_problem import Rope

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs, Problem

ARCHS = ("gfx942", "gfx950")
NEOX, INTERLEAVED = 0, 1


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: Any
    scales: tuple[torch.Tensor, ...]


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.arch not in ARCHS:
        return f"AITER is written for {' and '.join(ARCHS)}; this is {device.arch}"
    if getattr(problem, "cos_sin_dtype", None) not in (None, getattr(problem, "dtype", None)):
        return "AITER's RoPE wants cosines and sines in the dtype of the queries"
    return None


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Scales as tensors."""
    names = {MLAAppend: ("kv_scale",), Rope: ()}.get(type(problem), ("k_scale", "v_scale"))
    where = next((tensor.device for tensor in plan_inputs.values()), None)
    scales = (torch.tensor([getattr(problem, name)], dtype=torch.float32, device=where) for name in names)
    return Plan(problem, tuple(scales))


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """RoPE, then the append."""
    from aiter import concat_and_cache_mla, reshape_and_cache_flash

    problem = plan.problem
    if isinstance(problem, Rope):
        q_out, k_out = _turned(inputs["q"], inputs["k"], inputs, problem.is_neox)
        return {"q_out": q_out, "k_out": k_out}
    kind, slots = "fp8" if problem.is_fp8 else "auto", inputs["slot_mapping"]
    if isinstance(problem, MLAAppend):
        q_out, k_rope = _turned(inputs["q_rope"], inputs["k_rope"].unsqueeze(1), inputs, problem.is_neox)
        concat_and_cache_mla(inputs["latent"], k_rope.squeeze(1), inputs["kv_cache"], slots, kind, plan.scales[0])
        return {"q_out": q_out}
    outputs, k = {}, inputs["k"]
    if isinstance(problem, RopeAppend):
        outputs["q_out"], k = _turned(inputs["q"], k, inputs, problem.is_neox)
    reshape_and_cache_flash(k, inputs["v"], inputs["k_cache"], inputs["v_cache"], slots, kind, *plan.scales)
    return outputs


def _turned(q: torch.Tensor, k: torch.Tensor, inputs: Inputs, is_neox: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, heads, head_dim] each: sequences of a batch of one."""
    from aiter import rope_cached_positions_2c_fwd_impl

    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    cos, sin = (half.contiguous()[:, None, None] for half in inputs["cos_sin_cache"].chunk(2, dim=-1))
    rope_cached_positions_2c_fwd_impl(
        q_out.unsqueeze(1), k_out.unsqueeze(1), q.unsqueeze(1), k.unsqueeze(1), cos, sin,
        inputs["positions"].unsqueeze(1), NEOX if is_neox else INTERLEAVED, True, False,
    )  # fmt: skip
    return q_out, k_out


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("rope_append", "append", "mla_append", "rope"),
    supports=supports,
    requires=("aiter",),
    plan=plan,
    run=run,
    version=package_version("aiter"),
)
