"""FlashInfer's RoPE and its paged appends, two kernels where a task wants both.

Source: flashinfer 0.6, flashinfer/rope.py and flashinfer/page.py. `apply_rope_with_cos_sin_cache` is the form that
leaves its inputs as they are; it wants a float32 table. The appends copy 16-bit values; they know no padding and do not
quantise. They find a token's row by its sequence's list of pages; here every token is a sequence of one page, its own,
which says the same with 8 bytes more a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from ._append_problem import Append
from ._mla_append_problem import KV_LORA_RANK, QK_ROPE_HEAD_DIM, MLAAppend
from ._paged import PagedAppend
from ._rope_append_problem import RopeAppend
from ._rope_problem import Rope

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs, Problem

HEAD_DIMS = (64, 128, 256)


@dataclass(frozen=True)
class Plan:
    """Where every token goes."""

    problem: Any
    pages: dict[str, torch.Tensor]
    """The arguments of both appends, by name; empty for RoPE alone."""


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability < 80:
        return f"FlashInfer wants an NVIDIA GPU of compute capability 8.0 or more; this is {device.arch}"
    if isinstance(problem, PagedAppend) and problem.is_fp8:
        return f"FlashInfer's appends do not quantise; this cache is {problem.cache_dtype}"
    if isinstance(problem, PagedAppend) and problem.padding:
        return "FlashInfer's appends write every token that they are given; some of these are padding"
    if isinstance(problem, Append | RopeAppend | Rope) and problem.head_dim not in HEAD_DIMS:
        return f"FlashInfer has kernels for heads of 64, 128 and 256; these have {problem.head_dim}"
    if getattr(problem, "cos_sin_dtype", "float32") != "float32":
        return "FlashInfer wants a float32 table of cosines and sines"
    return None


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """List every token's page and its place within."""
    if not isinstance(problem, PagedAppend):
        return Plan(problem, {})
    slots = plan_inputs["slot_mapping"]
    starts = torch.arange(len(slots) + 1, dtype=torch.int32, device=slots.device)
    place = (slots % problem.page_size).int()
    pages = {
        "batch_indices": starts[:-1].clone(),
        "positions": place,
        "kv_indices": (slots // problem.page_size).int(),
        "kv_indptr": starts,
        "kv_last_page_len": place + 1,
    }
    return Plan(problem, pages)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One or two kernels, into fresh outputs and the caches."""
    from flashinfer.page import append_paged_kv_cache, append_paged_mla_kv_cache

    problem = plan.problem
    if isinstance(problem, MLAAppend):
        q_out, k_rope = _turned(inputs, "q_rope", "k_rope", QK_ROPE_HEAD_DIM, problem.is_neox)
        latent, rope = inputs["kv_cache"].split((KV_LORA_RANK, QK_ROPE_HEAD_DIM), dim=-1)
        append_paged_mla_kv_cache(inputs["latent"], k_rope, ckv_cache=latent, kpe_cache=rope, **plan.pages)
        return {"q_out": q_out}
    if isinstance(problem, Rope):
        return dict(zip(("q_out", "k_out"), _turned(inputs, "q", "k", problem.head_dim, problem.is_neox), strict=True))
    caches = (inputs["k_cache"], inputs["v_cache"])
    if isinstance(problem, Append):
        append_paged_kv_cache(inputs["k"], inputs["v"], paged_kv_cache=caches, **plan.pages)
        return {}
    q_out, k = _turned(inputs, "q", "k", problem.head_dim, problem.is_neox)
    append_paged_kv_cache(k, inputs["v"], paged_kv_cache=caches, **plan.pages)
    return {"q_out": q_out}


def _turned(inputs: Inputs, q: str, k: str, head_dim: int, is_neox: bool) -> tuple[torch.Tensor, torch.Tensor]:
    from flashinfer.rope import apply_rope_with_cos_sin_cache

    queries, keys = inputs[q], inputs[k]
    q_out, k_out = apply_rope_with_cos_sin_cache(
        inputs["positions"], queries.flatten(1), keys.flatten(1), head_dim, inputs["cos_sin_cache"], is_neox
    )
    return q_out.view(queries.shape), k_out.view(keys.shape)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("rope_append", "append", "mla_append", "rope"),
    supports=supports,
    requires=("flashinfer",),
    plan=plan,
    run=run,
    version=flashinfer_version,
)
