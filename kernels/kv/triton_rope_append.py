"""RoPE, the append to a paged cache, and both in one launch, in Triton.

A program owns BLOCK_T tokens and BLOCK_H heads of keys, values or queries, in this order within a token block, so that
the longest chain of dependent loads (slot, angles, row) begins first and one token's angles are read by neighbours.
It reads its tile once, turns it in registers, scales and rounds what goes to an e4m3 cache, and writes it once. A
negative slot masks its token's stores. Neox pairs are two tiles of half a head with the same layout; interleaved ones
are one tile whose pairs lie in one thread: neither exchanges values between threads.

The maths is that of _rope_append_problem.py, _append_problem.py and _rope_problem.py; tiles are chosen in _plan.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._rope_append_plan import Plan, plan
from ._triton_rows import move_columns, turn_rows
from .problem import Append, Rope, RopeAppend


@triton.jit
def _head_rows(
    source, target, token, target_token, is_token, write_token, head, cos_sin_cache, positions, inverse_scale,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROTARY_DIM: tl.constexpr, IS_NEOX: tl.constexpr,
    FP8_MAX: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    """One tile from `source` [tokens, HEADS, HEAD_DIM] to `target`, turned if ROTARY_DIM is not 0."""
    source_row = token[:, None] * HEADS + head[None, :]
    target_row = target_token[:, None] * HEADS + head[None, :]
    read = is_token[:, None] & (head < HEADS)[None, :]
    write = write_token[:, None] & (head < HEADS)[None, :]
    if ROTARY_DIM > 0:
        position = tl.load(positions + token, mask=is_token, other=0)
        turn_rows(
            source, target, source_row, target_row, read, write, cos_sin_cache, position, is_token, inverse_scale,
            HEAD_DIM, HEAD_DIM, 0, ROTARY_DIM, IS_NEOX, FP8_MAX, BLOCK_T, BLOCK_H, LOAD_POLICY, STORE_MODIFIER,
        )  # fmt: skip
    if ROTARY_DIM < HEAD_DIM:
        move_columns(
            source, target, source_row, target_row, read, write, inverse_scale,
            HEAD_DIM, ROTARY_DIM, HEAD_DIM - ROTARY_DIM, FP8_MAX, LOAD_POLICY, STORE_MODIFIER,
        )  # fmt: skip


@triton.jit
def _rope_append(
    q, k, v, cos_sin_cache, positions, slot_mapping, q_out, k_out, v_out, num_tokens, inverse_k_scale, inverse_v_scale,
    Q_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROTARY_DIM: tl.constexpr,
    IS_NEOX: tl.constexpr, IS_PAGED: tl.constexpr, HAS_V: tl.constexpr, FP8_MAX: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, TOKEN_FIRST: tl.constexpr, LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    """Program p: a block of heads of BLOCK_T tokens. Q_HEADS is 0 where there are none."""
    KV_BLOCKS: tl.constexpr = (KV_HEADS + BLOCK_H - 1) // BLOCK_H
    V_BLOCKS: tl.constexpr = KV_BLOCKS if HAS_V else 0
    BLOCKS: tl.constexpr = KV_BLOCKS + V_BLOCKS + (Q_HEADS + BLOCK_H - 1) // BLOCK_H
    if TOKEN_FIRST:
        token_blocks = tl.cdiv(num_tokens, BLOCK_T)
        block = tl.program_id(0) // token_blocks
        token_block = tl.program_id(0) % token_blocks
    else:
        block = tl.program_id(0) % BLOCKS
        token_block = tl.program_id(0) // BLOCKS
    token = token_block.to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = token < num_tokens
    heads = tl.arange(0, BLOCK_H)
    if block < KV_BLOCKS + V_BLOCKS:
        target_token = token
        if IS_PAGED:
            target_token = tl.load(slot_mapping + token, mask=is_token, other=-1)
        written = is_token & (target_token >= 0)
        if block < KV_BLOCKS:
            _head_rows(
                k, k_out, token, target_token, is_token, written, block * BLOCK_H + heads, cos_sin_cache, positions,
                inverse_k_scale, KV_HEADS, HEAD_DIM, ROTARY_DIM, IS_NEOX, FP8_MAX, BLOCK_T, BLOCK_H,
                LOAD_POLICY, STORE_MODIFIER,
            )  # fmt: skip
        elif HAS_V:
            _head_rows(
                v, v_out, token, target_token, is_token, written, (block - KV_BLOCKS) * BLOCK_H + heads, cos_sin_cache,
                positions, inverse_v_scale, KV_HEADS, HEAD_DIM, 0, IS_NEOX, FP8_MAX, BLOCK_T, BLOCK_H,
                LOAD_POLICY, STORE_MODIFIER,
            )  # fmt: skip
    elif Q_HEADS > 0:
        _head_rows(
            q, q_out, token, token, is_token, is_token, (block - KV_BLOCKS - V_BLOCKS) * BLOCK_H + heads,
            cos_sin_cache, positions, 1.0, Q_HEADS, HEAD_DIM, ROTARY_DIM, IS_NEOX, 0, BLOCK_T, BLOCK_H,
            LOAD_POLICY, STORE_MODIFIER,
        )  # fmt: skip


def run(inputs: Inputs, state: Plan) -> Outputs:
    """One launch."""
    problem, k = state.problem, inputs["k"]
    paged = not isinstance(problem, Rope)
    q = None if isinstance(problem, Append) else inputs["q"]
    outputs = {} if q is None else {"q_out": torch.empty_like(q)}
    if not paged:
        outputs["k_out"] = torch.empty_like(k)
    k_out = inputs["k_cache"] if paged else outputs["k_out"]
    q_heads = 0 if q is None else q.shape[1]
    inverse_k_scale, inverse_v_scale = _inverse_scales(problem)
    rotary_dim, is_neox = _rotation(problem)
    blocks = triton.cdiv(q_heads, state.block_heads) + (2 if paged else 1) * triton.cdiv(k.shape[1], state.block_heads)
    _rope_append[(triton.cdiv(len(k), state.block_tokens) * blocks,)](
        k if q is None else q, k, inputs.get("v", k), inputs.get("cos_sin_cache", k),
        inputs.get("positions", inputs.get("slot_mapping")), inputs.get("slot_mapping", inputs.get("positions")),
        outputs.get("q_out", k), k_out, inputs.get("v_cache", k), len(k), inverse_k_scale,
        inverse_v_scale, Q_HEADS=q_heads, KV_HEADS=k.shape[1], HEAD_DIM=k.shape[2], ROTARY_DIM=rotary_dim,
        IS_NEOX=is_neox, IS_PAGED=paged, HAS_V=paged,
        FP8_MAX=torch.finfo(k_out.dtype).max if k_out.dtype.itemsize == 1 else 0.0,
        BLOCK_T=state.block_tokens, BLOCK_H=state.block_heads, TOKEN_FIRST=state.token_first,
        LOAD_POLICY=state.load_policy, STORE_MODIFIER=state.store_modifier, num_warps=state.num_warps,
    )  # fmt: skip
    return outputs


def _inverse_scales(problem: RopeAppend | Append | Rope) -> tuple[float, float]:
    return (1.0, 1.0) if isinstance(problem, Rope) else (1 / problem.k_scale, 1 / problem.v_scale)


def _rotation(problem: RopeAppend | Append | Rope) -> tuple[int, bool]:
    """(columns that are turned, whether in Neox pairs)."""
    if isinstance(problem, Append):
        return 0, True
    return problem.rotary_dim, problem.is_neox


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("rope_append", "append", "rope"),
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
)
