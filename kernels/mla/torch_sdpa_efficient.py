"""PyTorch's memory-efficient SDPA (CUTLASS), the one fused SDPA on a GPU that takes heads of 576 and 512.

All queries go in one call of `aten::_efficient_attention_forward`, the operator behind it, in its form for packed
sequences: the pages in use are gathered one after the other, and query i of a sequence is a batch entry of its own
(num_heads rows) that begins where the sequence does and sees seq_len - seq_len_q + i + 1 of its keys. So neither
padding nor a mask is needed. It does not split long sequences over the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from ..paging import packed_pages, uniform_indptr
from ._sdpa import gather
from .problem import HEAD_DIM, KV_LORA_RANK, MLADecode

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs

NO_MASK = 0


@dataclass(frozen=True)
class Plan:
    """What to gather, and how the gathered rows are shared out."""

    problem: MLADecode
    pages: torch.Tensor
    """All pages in use, sequence by sequence."""
    query_starts: torch.Tensor
    """[queries + 1] int32: first row of each query's num_heads."""
    key_starts: torch.Tensor
    """[queries + 1] int32: first gathered row that each query sees. The last entry is not read."""
    key_counts: torch.Tensor
    """[queries] int32"""


def supports(problem: MLADecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "hip":
        return "memory-efficient SDPA on ROCm (AOTriton) takes head dimensions up to 512; absorbed MLA has 576"
    if device.kind != "cuda":
        return "memory-efficient SDPA wants a GPU"
    if problem.lengths == "empties":
        return "memory-efficient SDPA defines no output for queries that see no token"
    return None


def plan(problem: MLADecode, plan_inputs: Inputs, device: Device) -> Plan:
    """Where each query's rows and keys begin, and how many keys it sees."""
    seq_lens, seq_len_q = plan_inputs["seq_lens"], problem.seq_len_q
    page_starts, pages = packed_pages(plan_inputs, problem.page_size)
    starts = page_starts * problem.page_size
    key_starts = torch.cat([starts[:-1].repeat_interleave(seq_len_q), starts[-1:]])
    unseen = torch.arange(seq_len_q - 1, -1, -1, dtype=torch.int32, device=seq_lens.device)
    query_starts = uniform_indptr(problem.batch * seq_len_q, problem.num_heads, seq_lens.device)
    return Plan(problem, pages, query_starts, key_starts, (seq_lens[:, None] - unseen).flatten())


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """Gather the pages, attend, cut the padding off the LSE."""
    q, num_heads = inputs["q"], plan.problem.num_heads
    kv = gather(inputs["kv_cache"], plan.pages, q.dtype).view(1, -1, 1, HEAD_DIM)
    out, lse, *_ = torch.ops.aten._efficient_attention_forward(  # noqa: SLF001 - the public function drops the LSE
        q.view(1, -1, 1, HEAD_DIM),
        kv,
        kv[..., :KV_LORA_RANK],
        None,
        plan.query_starts,
        plan.key_starts,
        num_heads,
        plan.problem.max_seq_len,
        0.0,
        NO_MASK,
        True,
        scale=plan.problem.softmax_scale,
        seqlen_k=plan.key_counts,
    )
    rows = q.shape[:-1]
    # lse is [queries, 1, num_heads rounded up to 32]
    return {"out": out.view(*rows, KV_LORA_RANK), "lse": lse[:, 0, :num_heads].contiguous().view(rows)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    plan=plan,
    run=run,
    version=lambda: torch.__version__,
)
