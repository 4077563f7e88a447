"""FlashAttention-3 as its own package: `flash_attn_with_kvcache` on a paged cache with pages of any size.

Source: flash-attention's hopper/flash_attn_interface.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..installed import package_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._decode_problem import PagedDecode
from .decode_flash_attn import MOST_HEAD_DIM, Plan, plan

if TYPE_CHECKING:
    from ..device import Device


def supports(problem: PagedDecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability != 90:
        return f"FlashAttention-3 is written for sm_90; this is {device.arch}"
    if problem.head_dim % 8 or problem.head_dim > MOST_HEAD_DIM:
        return f"FlashAttention-3 takes multiples of 8 up to 256 as head dimension; these have {problem.head_dim}"
    if problem.is_fp8:
        return f"FlashAttention-3 wants queries of the cache's dtype; these are {problem.dtype} and {problem.kv_dtype}"
    return None


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call, and the transposition of the LSE."""
    from flash_attn_interface import flash_attn_with_kvcache

    out, lse, *_ = flash_attn_with_kvcache(
        inputs["q"],
        inputs["k_cache"],
        inputs["v_cache"],
        cache_seqlens=plan.seq_lens,
        page_table=plan.block_table,
        softmax_scale=plan.problem.softmax_scale,
        causal=True,
        return_softmax_lse=True,
    )
    return {"out": out, "lse": lse.transpose(1, 2).contiguous()} if plan.problem.with_lse else {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("flash_attn_interface",),
    plan=plan,
    run=run,
    version=package_version("flash_attn_3"),
)
