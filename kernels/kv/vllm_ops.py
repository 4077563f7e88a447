"""vLLM's compiled operators, two where a task wants RoPE and an append.

Source: vLLM's csrc/cache_kernels.cu and csrc/pos_encoding_kernels.cu, called as vllm/_custom_ops.py does.
`rotary_embedding` turns queries and keys in place; inputs must stay, so that copies of both are part of the call: an
engine that may overwrite its projections is spared them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..kernel import Kernel, Origin
from . import _vllm
from ._append_problem import Append
from ._gather_problem import Gather
from ._mla_append_problem import QK_ROPE_HEAD_DIM, MLAAppend
from ._rope_append_problem import RopeAppend
from ._rope_problem import Rope

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs, Problem

OPERATORS: dict[type, str] = {
    RopeAppend: "reshape_and_cache_flash",
    Append: "reshape_and_cache_flash",
    MLAAppend: "concat_and_cache_mla",
    Gather: "gather_and_maybe_dequant_cache",
    Rope: "reshape_and_cache_flash",
}
DEQUANTISED_WIDTH = 576


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: Any
    scales: tuple[torch.Tensor, ...]
    sequences: torch.Tensor | None = None
    """[tokens] int32, of gather: whose each token is."""


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if isinstance(problem, Gather) and problem.is_fp8 and problem.width != DEQUANTISED_WIDTH:
        return f"vLLM's gather dequantises rows of {DEQUANTISED_WIDTH} only; these have {problem.width}"
    if getattr(problem, "cos_sin_dtype", None) not in (None, "float32", getattr(problem, "dtype", None)):
        return "vLLM's rotary embedding wants angles in float32 or in the dtype of the queries"
    return _vllm.missing(OPERATORS[type(problem)], device)


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Scales as tensors; of gather, every token's sequence."""
    names = {MLAAppend: ("kv_scale",), Gather: ("kv_scale",), Rope: ()}.get(type(problem), ("k_scale", "v_scale"))
    scales = tuple(_vllm.scale_tensor(getattr(problem, name), plan_inputs) for name in names)
    sequences = None
    if isinstance(problem, Gather):
        lengths = plan_inputs["cu_seqlens"].diff()
        sequences = torch.arange(problem.batch, dtype=torch.int32, device=lengths.device).repeat_interleave(lengths)
    return Plan(problem, scales, sequences)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """The task's operators."""
    problem, caches = plan.problem, torch.ops._C_cache_ops  # noqa: SLF001 - its public name
    if isinstance(problem, Gather):
        return {"out": _gathered(inputs, plan)}
    if isinstance(problem, Rope):
        q_out, k_out = _turned(inputs["q"], inputs["k"], problem.head_dim, inputs, problem.is_neox)
        return {"q_out": q_out, "k_out": k_out}
    kind, slots = _vllm.cache_kind(problem.is_fp8), inputs["slot_mapping"]
    if isinstance(problem, MLAAppend):
        q_out, k_rope = _turned(inputs["q_rope"], inputs["k_rope"], QK_ROPE_HEAD_DIM, inputs, problem.is_neox)
        cache = _vllm.as_stored(inputs["kv_cache"])
        caches.concat_and_cache_mla(inputs["latent"], k_rope, cache, slots, kind, plan.scales[0])
        return {"q_out": q_out}
    outputs, k = {}, inputs["k"]
    if isinstance(problem, RopeAppend):
        outputs["q_out"], k = _turned(inputs["q"], k, problem.head_dim, inputs, problem.is_neox)
    k_cache, v_cache = _vllm.as_stored(inputs["k_cache"]), _vllm.as_stored(inputs["v_cache"])
    caches.reshape_and_cache_flash(k, inputs["v"], k_cache, v_cache, slots, kind, *plan.scales)
    return outputs


def _turned(
    q: torch.Tensor, k: torch.Tensor, head_dim: int, inputs: Inputs, is_neox: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    q_out, k_out = q.clone(), k.clone()
    torch.ops._C.rotary_embedding(  # noqa: SLF001 - its public name
        inputs["positions"], q_out.flatten(1), k_out.flatten(1), head_dim, inputs["cos_sin_cache"], is_neox
    )
    return q_out, k_out


def _gathered(inputs: Inputs, plan: Plan) -> torch.Tensor:
    problem, cache, operators = plan.problem, inputs["cache"], torch.ops._C_cache_ops  # noqa: SLF001 - its public name
    out = torch.empty((problem.tokens, *cache.shape[2:]), dtype=getattr(torch, problem.dtype), device=cache.device)
    pages, rows = _vllm.as_stored(cache).flatten(2), out.flatten(1)
    if problem.is_fp8:
        operators.gather_and_maybe_dequant_cache(
            pages, rows, inputs["block_table"], inputs["cu_seqlens"], plan.sequences, problem.tokens, "fp8",
            plan.scales[0], None,
        )  # fmt: skip
    else:
        operators.cp_gather_cache(pages, rows, inputs["block_table"], inputs["cu_seqlens"], problem.batch, None)
    return out


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("rope_append", "append", "mla_append", "gather", "rope"),
    supports=supports,
    requires=("vllm",),
    plan=plan,
    run=run,
    version=_vllm.version,
)
