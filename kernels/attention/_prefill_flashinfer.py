"""FlashInfer's prefill over contiguous keys: for a batch of ragged sequences, and for a single one.

Source: flashinfer 0.6, flashinfer/prefill.py. Its causal mask is aligned to the bottom right; its LSE is in base 2,
hence `LSE_FACTOR`. A module is compiled for its dtypes and head dimension at the first plan or call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ._decode_flashinfer import head_dim_unsupported
from ._prefill_problem import AttentionPrefill

if TYPE_CHECKING:
    from ..device import Device
from ..problem import Inputs, Outputs

WORKSPACE_BYTES = 128 << 20  # what FlashInfer's documentation recommends
LSE_FACTOR = {"lse": math.log(2)}


@dataclass(frozen=True)
class Ragged:
    """A wrapper that has planned."""

    problem: AttentionPrefill
    wrapper: Any


@dataclass(frozen=True)
class Single:
    """What the function for one sequence is called with."""

    problem: AttentionPrefill
    backend: str


def unsupported(problem: AttentionPrefill, device: Device, backend: str) -> str | None:
    """None, or the limit that this problem or device is past."""
    if backend == "fa3" and device.compute_capability != 90:
        return f"FlashInfer fa3 is written for sm_90; this is {device.arch}"
    if device.compute_capability < 80:
        return f"FlashInfer fa2 wants an NVIDIA GPU of compute capability 8.0 or more; this is {device.arch}"
    if problem.sees_nothing:
        return "FlashInfer states no result for queries that see no key"
    return head_dim_unsupported(problem)


def unsupported_single(problem: AttentionPrefill, device: Device, backend: str) -> str | None:
    """None, or the limit that this problem or device is past."""
    if problem.batch > 1:
        return f"FlashInfer's single prefill takes one sequence; this batch has {problem.batch}"
    return unsupported(problem, device, backend)


def plan_ragged(problem: AttentionPrefill, plan_inputs: Inputs, device: Device, *, backend: str) -> Ragged:
    """Make a wrapper, and have it plan its work for these lengths."""
    import flashinfer

    starts_q, starts_kv = plan_inputs["cu_seqlens_q"], plan_inputs["cu_seqlens_kv"]
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=starts_q.device)
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend=backend)
    dtype = getattr(torch, problem.dtype)
    wrapper.plan(
        starts_q,
        starts_kv,
        problem.num_heads,
        problem.num_kv_heads,
        problem.head_dim,
        causal=problem.causal,
        window_left=problem.window - 1,  # -1 is no limit
        sm_scale=problem.softmax_scale,
        q_data_type=dtype,
        kv_data_type=dtype,
    )
    return Ragged(problem, wrapper)


def run_ragged(inputs: Inputs, plan: Ragged) -> Outputs:
    """One call."""
    return _outputs(plan.wrapper.run(inputs["q"], inputs["k"], inputs["v"], return_lse=plan.problem.return_lse))


def plan_single(problem: AttentionPrefill, plan_inputs: Inputs, device: Device, *, backend: str) -> Single:
    """Nothing to decide."""
    return Single(problem, backend)


def run_single(inputs: Inputs, plan: Single) -> Outputs:
    """One call."""
    import flashinfer

    problem = plan.problem
    return _outputs(
        flashinfer.single_prefill_with_kv_cache(
            inputs["q"],
            inputs["k"],
            inputs["v"],
            causal=problem.causal,
            window_left=problem.window - 1,
            sm_scale=problem.softmax_scale,
            backend=plan.backend,
            return_lse=problem.return_lse,
        )
    )


def _outputs(result: Any) -> Outputs:
    return {"out": result[0], "lse": result[1]} if isinstance(result, tuple) else {"out": result}
