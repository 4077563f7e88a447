"""vLLM's Triton unified attention, also for trees: a bias among the queries hides what is no ancestor. No LSE.

Source: vLLM's vllm/v1/attention/ops/triton_unified_attention.py, called as in backends/triton_attn.py and
backends/tree_attn.py, with the buffers of its form that splits a long sequence in 16 segments.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..installed import vllm_version
from ..kernel import Kernel, Origin
from ..paging import uniform_indptr
from ..problem import Inputs, Outputs
from ._decode_problem import PagedDecode

if TYPE_CHECKING:
    from ..device import Device

NUM_SEGMENTS = 16  # vLLM's
LEAST_PAGE_SIZE = 16
LEAST_PROGRAMS = 128  # vLLM's: with fewer it splits


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: PagedDecode
    block_table: torch.Tensor
    seq_lens: torch.Tensor
    cu_seqlens_q: torch.Tensor
    """[batch + 1] int32"""
    k_scale: torch.Tensor
    """[batch, num_kv_heads] float32, one number."""
    v_scale: torch.Tensor
    tree_bias: torch.Tensor | None
    """[seq_len_q, seq_len_q] float32, 0 or -inf."""
    segments: dict[str, Any] = field(default_factory=dict)
    """The buffers of split sequences."""


def supports(problem: PagedDecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if problem.with_lse:
        return "vLLM's unified attention gives no LSE"
    if device.kind == "cpu":
        return "vLLM's unified attention wants a GPU"
    if problem.page_size < LEAST_PAGE_SIZE:
        return f"vLLM's unified attention wants pages of 16 tokens or more; these have {problem.page_size}"
    return None


def plan(problem: PagedDecode, plan_inputs: Inputs, device: Device) -> Plan:
    """Allocate what the call takes besides the data."""
    from vllm.v1.attention.ops.triton_unified_attention import unified_attention

    seq_lens = plan_inputs["seq_lens"]
    where, bias = seq_lens.device, None
    if "tree_mask" in plan_inputs:
        bias = torch.zeros(plan_inputs["tree_mask"].shape, dtype=torch.float32, device=where)
        bias.masked_fill_(~plan_inputs["tree_mask"], float("-inf"))
    k_scale, v_scale = (
        torch.full((1, 1), scale, dtype=torch.float32, device=where).expand(problem.batch, problem.num_kv_heads)
        for scale in (problem.k_scale, problem.v_scale)
    )
    most_split = max(1, LEAST_PROGRAMS // problem.num_kv_heads)
    rows = (most_split, problem.num_heads, NUM_SEGMENTS)
    segments = {
        "seq_threshold_3D": most_split,
        "num_par_softmax_segments": NUM_SEGMENTS,
        "softmax_segm_output": torch.empty((*rows, problem.head_dim), dtype=torch.float32, device=where),
        "softmax_segm_max": torch.empty(rows, dtype=torch.float32, device=where),
        "softmax_segm_expsum": torch.empty(rows, dtype=torch.float32, device=where),
    }
    known = inspect.signature(unified_attention).parameters  # older versions allocate them
    return Plan(
        problem,
        plan_inputs["block_table"],
        seq_lens,
        uniform_indptr(problem.batch, problem.seq_len_q, where),
        k_scale,
        v_scale,
        bias,
        {name: value for name, value in segments.items() if name in known},
    )


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call into a fresh output."""
    from vllm.v1.attention.ops.triton_unified_attention import unified_attention

    q, problem = inputs["q"], plan.problem
    out = torch.empty_like(q)
    unified_attention(
        q=q.flatten(0, 1),
        k=inputs["k_cache"],
        v=inputs["v_cache"],
        out=out.flatten(0, 1),
        cu_seqlens_q=plan.cu_seqlens_q,
        max_seqlen_q=problem.seq_len_q,
        seqused_k=plan.seq_lens,
        max_seqlen_k=problem.max_seq_len,
        softmax_scale=problem.softmax_scale,
        causal=True,
        window_size=(-1, -1),
        block_table=plan.block_table,
        softcap=0,
        q_descale=None,
        k_descale=plan.k_scale,
        v_descale=plan.v_scale,
        qq_bias=plan.tree_bias,
        **plan.segments,
    )
    return {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode", "tree"),
    supports=supports,
    requires=("vllm.v1.attention.ops.triton_unified_attention",),
    plan=plan,
    run=run,
    version=vllm_version,
)
