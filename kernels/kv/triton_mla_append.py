"""MLA's RoPE and append in one launch, in Triton.

Of every block of BLOCK_T tokens one program writes the cache rows, the others turn BLOCK_H heads of the queries each.
The cache's program comes first: it waits for a slot and for angles. Tiles are read once and written once, by 16 bytes;
what goes to an e4m3 cache is scaled and rounded in registers. The maths is _mla_append_problem.py's; tiles are chosen
in _plan.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._mla_append_plan import Plan, plan
from ._triton_rows import stored, turn_rows
from .problem import KV_LORA_RANK, QK_ROPE_HEAD_DIM


@triton.jit
def _mla_append(
    q_rope, k_rope, latent, cos_sin_cache, positions, slot_mapping, q_out, kv_cache, num_tokens, inverse_scale,
    HEADS: tl.constexpr, LATENT: tl.constexpr, ROPE: tl.constexpr, IS_NEOX: tl.constexpr, FP8_MAX: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, TOKEN_FIRST: tl.constexpr, LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    """Program p: a block of BLOCK_T tokens; block 0 is the cache, the others are heads."""
    BLOCKS: tl.constexpr = 1 + (HEADS + BLOCK_H - 1) // BLOCK_H
    if TOKEN_FIRST:
        token_blocks = tl.cdiv(num_tokens, BLOCK_T)
        block = tl.program_id(0) // token_blocks
        token_block = tl.program_id(0) % token_blocks
    else:
        block = tl.program_id(0) % BLOCKS
        token_block = tl.program_id(0) // BLOCKS
    token = token_block.to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = token < num_tokens
    position = tl.load(positions + token, mask=is_token, other=0)
    if block == 0:
        slot = tl.load(slot_mapping + token, mask=is_token, other=-1)
        column = tl.arange(0, LATENT)[None, :]
        row = tl.load(
            latent + token[:, None] * LATENT + column, mask=is_token[:, None], other=0.0, eviction_policy=LOAD_POLICY
        )
        written = is_token & (slot >= 0)
        tl.store(
            kv_cache + slot[:, None] * (LATENT + ROPE) + column,
            stored(row, inverse_scale, FP8_MAX, kv_cache.dtype.element_ty),
            mask=written[:, None],
            cache_modifier=STORE_MODIFIER,
        )
        turn_rows(
            k_rope, kv_cache, token[:, None], slot[:, None], is_token[:, None], written[:, None], cos_sin_cache,
            position, is_token, inverse_scale, ROPE, LATENT + ROPE, LATENT, ROPE, IS_NEOX, FP8_MAX, BLOCK_T, 1,
            LOAD_POLICY, STORE_MODIFIER,
        )  # fmt: skip
    else:
        head = (block - 1) * BLOCK_H + tl.arange(0, BLOCK_H)
        head_row = token[:, None] * HEADS + head[None, :]
        mask = is_token[:, None] & (head < HEADS)[None, :]
        turn_rows(
            q_rope, q_out, head_row, head_row, mask, mask, cos_sin_cache, position, is_token, 1.0,
            ROPE, ROPE, 0, ROPE, IS_NEOX, 0, BLOCK_T, BLOCK_H, LOAD_POLICY, STORE_MODIFIER,
        )  # fmt: skip


def run(inputs: Inputs, state: Plan) -> Outputs:
    """One launch."""
    q_rope, kv_cache = inputs["q_rope"], inputs["kv_cache"]
    num_tokens, num_heads, _ = q_rope.shape
    q_out = torch.empty_like(q_rope)
    blocks = 1 + triton.cdiv(num_heads, state.block_heads)
    _mla_append[(triton.cdiv(num_tokens, state.block_tokens) * blocks,)](
        q_rope, inputs["k_rope"], inputs["latent"], inputs["cos_sin_cache"], inputs["positions"],
        inputs["slot_mapping"], q_out, kv_cache, num_tokens, 1 / state.problem.kv_scale,
        HEADS=num_heads, LATENT=KV_LORA_RANK, ROPE=QK_ROPE_HEAD_DIM, IS_NEOX=state.problem.is_neox,
        FP8_MAX=torch.finfo(kv_cache.dtype).max if kv_cache.dtype.itemsize == 1 else 0.0,
        BLOCK_T=state.block_tokens, BLOCK_H=state.block_heads, TOKEN_FIRST=state.token_first,
        LOAD_POLICY=state.load_policy, STORE_MODIFIER=state.store_modifier, num_warps=state.num_warps,
    )  # fmt: skip
    return {"q_out": q_out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("mla_append",), run=run, plan=plan, requires=("triton",), uses_triton=True)
