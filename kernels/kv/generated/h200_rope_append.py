# SPDX-License-Identifier: Apache-2.0
# Written by kernelgate generate from kernels/kv/triton_rope_append.py.
# How, and its table of choices: h200_rope_append.json
"""RoPE, the append to a paged cache, and both in one launch, in Triton.

A program owns some heads of keys, values or queries of some tokens. It reads its tile once, turns it in registers,
scales and rounds what goes to an e4m3 cache, and writes it once. A negative slot masks its token's stores. Neox pairs
are two tiles of half a head with the same layout; interleaved ones are one tile whose pairs lie in one thread: neither
exchanges values between threads.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from ...device import Device
from ...kernel import Kernel, Origin
from ...problem import Inputs, Outputs, Problem
from ..problem import Append, Rope, RopeAppend


@dataclass(frozen=True)
class RowsPlan:
    """A tile of the kernels that rotate and append: so many tokens, so many heads of each."""

    block_tokens: int
    block_heads: int
    num_warps: int
    load_policy: str = ""
    """Eviction policy of rows, which are read once."""
    store_modifier: str = ""
    """Cache modifier of rows that are written."""


def next_power_of_2(n: int) -> int:
    """The least that is not smaller; at least 1."""
    return 1 << max(0, n - 1).bit_length()


THREAD_VALUES = 128
"""Most values of a tile for a thread. A choice that was made for narrower heads may want more, and would spill."""


@dataclass(frozen=True)
class Plan:
    """What the kernel is launched with."""

    problem: RopeAppend | Append | Rope
    block_tokens: int
    block_heads: int
    num_warps: int
    load_policy: str
    store_modifier: str


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Tiles from shapes alone."""
    assert isinstance(problem, RopeAppend | Append | Rope)
    return plan_from(problem, choice_for(problem))


def plan_from(problem: RopeAppend | Append | Rope, choice: RowsPlan) -> Plan:
    """What follows from a choice: no tile is larger than there are tokens and heads, nor than its threads can hold."""
    block_heads = min(choice.block_heads, next_power_of_2(heads_of(problem)))
    row_values = block_heads * next_power_of_2(problem.head_dim)
    held_tokens = THREAD_VALUES * choice.num_warps * 32 // row_values
    return Plan(
        problem=problem,
        block_tokens=max(1, min(choice.block_tokens, next_power_of_2(problem.tokens), held_tokens)),
        block_heads=block_heads,
        num_warps=choice.num_warps,
        load_policy=choice.load_policy,
        store_modifier=choice.store_modifier,
    )


def heads_of(problem: RopeAppend | Append | Rope) -> int:
    """Of queries, keys and values together."""
    return getattr(problem, "num_heads", 0) + (1 if isinstance(problem, Rope) else 2) * problem.num_kv_heads


def facts(problem: RopeAppend | Append | Rope) -> dict[str, int | bool | str]:
    """What a table of choices tells problems apart by."""
    return {
        "task": problem.task,
        "is_fp8": getattr(problem, "cache_dtype", problem.dtype) != problem.dtype,
        "tokens": problem.tokens,
    }


CHOSEN = ("block_tokens", "block_heads", "num_warps", "load_policy", "store_modifier")


@functools.cache
def _table() -> tuple[tuple[dict[str, Any], RowsPlan], ...]:
    """(when, what is chosen then), the first that matches counts; read once, from the manifest beside this file."""
    manifest = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    rows = manifest["dispatch"]
    return tuple((row["when"], RowsPlan(**{name: row["use"][name] for name in CHOSEN})) for row in rows)


def _matches(when: dict[str, Any], found: dict[str, Any]) -> bool:
    """A fact is given as a value, or as a range, `min` and `max` included."""
    for name, wanted in when.items():
        low, high = (wanted.get("min"), wanted.get("max")) if isinstance(wanted, dict) else (wanted, wanted)
        if (low is not None and found[name] < low) or (high is not None and found[name] > high):
            return False
    return True


def choice_for(problem: RopeAppend | Append | Rope) -> RowsPlan:
    """The choice of the table's first row that matches."""
    found = facts(problem)
    return next(chosen for when, chosen in _table() if _matches(when, found))


@triton.jit
def stored(x, inverse_scale, FP8_MAX: tl.constexpr, dtype: tl.constexpr):
    """What a cache holds of x: in an e4m3 cache scaled and saturated, else x. FP8_MAX is 0 for all other types."""
    if FP8_MAX > 0:
        x = x.to(tl.float32) * inverse_scale
        x = tl.minimum(tl.maximum(x, -FP8_MAX), FP8_MAX)
    return x.to(dtype)


@triton.jit
def move_columns(
    source,
    target,
    source_row,
    target_row,
    read,
    write,
    inverse_scale,
    HEAD_DIM: tl.constexpr,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    FP8_MAX: tl.constexpr,
    LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):
    """Columns [FIRST, FIRST + COUNT) of every row, as they are."""
    BLOCK: tl.constexpr = triton.next_power_of_2(COUNT)
    column = tl.arange(0, BLOCK)[None, None, :]
    inside = column < COUNT
    x = tl.load(
        source + source_row[:, :, None] * HEAD_DIM + FIRST + column,
        mask=read[:, :, None] & inside,
        other=0.0,
        eviction_policy=LOAD_POLICY,
    )
    tl.store(
        target + target_row[:, :, None] * HEAD_DIM + FIRST + column,
        stored(x, inverse_scale, FP8_MAX, target.dtype.element_ty),
        mask=write[:, :, None] & inside,
        cache_modifier=STORE_MODIFIER,
    )


@triton.jit
def turn_rows(
    source,
    target,
    source_row,
    target_row,
    read,
    write,
    cos_sin_cache,
    position,
    is_token,
    inverse_scale,
    HEAD_DIM: tl.constexpr,
    TARGET_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    IS_NEOX: tl.constexpr,
    FP8_MAX: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):
    """The first ROTARY_DIM columns of every row, turned by the angles of its token's position [BLOCK_T].

    They become columns from TARGET_FIRST on of rows that are TARGET_DIM apart.
    """
    HALF: tl.constexpr = ROTARY_DIM // 2
    BLOCK: tl.constexpr = triton.next_power_of_2(HALF)
    dtype: tl.constexpr = target.dtype.element_ty
    pair = tl.arange(0, BLOCK)
    angle = cos_sin_cache + position[:, None] * ROTARY_DIM + pair[None, :]
    known = is_token[:, None] & (pair < HALF)[None, :]
    from_row = source + source_row[:, :, None] * HEAD_DIM
    to_row = target + target_row[:, :, None] * TARGET_DIM + 0
    if IS_NEOX:
        column = pair[None, None, :]
        readable, writable = read[:, :, None] & (column < HALF), write[:, :, None] & (column < HALF)
        x = tl.load(from_row + column, mask=readable, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
        y = tl.load(from_row + HALF + column, mask=readable, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
        cos = tl.load(angle, mask=known, other=0.0).to(tl.float32)[:, None, :]
        sin = tl.load(angle + HALF, mask=known, other=0.0).to(tl.float32)[:, None, :]
        first = stored(x * cos - y * sin, inverse_scale, FP8_MAX, dtype)
        tl.store(to_row + column, first, mask=writable, cache_modifier=STORE_MODIFIER)
        second = stored(y * cos + x * sin, inverse_scale, FP8_MAX, dtype)
        tl.store(to_row + HALF + column, second, mask=writable, cache_modifier=STORE_MODIFIER)
    else:
        column = tl.arange(0, 2 * BLOCK)[None, None, :]
        readable, writable = read[:, :, None] & (column < ROTARY_DIM), write[:, :, None] & (column < ROTARY_DIM)
        both = tl.load(from_row + column, mask=readable, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
        cos = tl.load(angle, mask=known, other=0.0).to(tl.float32)[:, None, :]
        sin = tl.load(angle + HALF, mask=known, other=0.0).to(tl.float32)[:, None, :]
        x, y = tl.split(tl.reshape(both, [BLOCK_T, BLOCK_H, BLOCK, 2]))
        turned = tl.reshape(tl.join(x * cos - y * sin, y * cos + x * sin), [BLOCK_T, BLOCK_H, 2 * BLOCK])
        turned = stored(turned, inverse_scale, FP8_MAX, dtype)
        tl.store(to_row + column, turned, mask=writable, cache_modifier=STORE_MODIFIER)


@triton.jit
def _head_rows(
    source,
    target,
    token,
    target_token,
    is_token,
    write_token,
    head,
    cos_sin_cache,
    positions,
    inverse_scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    IS_NEOX: tl.constexpr,
    FP8_MAX: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):
    """One tile from `source` [tokens, HEADS, HEAD_DIM] to `target`, turned if ROTARY_DIM is not 0."""
    source_row = token[:, None] * HEADS + head[None, :]
    target_row = target_token[:, None] * HEADS + head[None, :]
    read = is_token[:, None] & (head < HEADS)[None, :]
    write = write_token[:, None] & (head < HEADS)[None, :]
    if ROTARY_DIM > 0:
        position = tl.load(positions + token, mask=is_token, other=0)
        turn_rows(
            source,
            target,
            source_row,
            target_row,
            read,
            write,
            cos_sin_cache,
            position,
            is_token,
            inverse_scale,
            HEAD_DIM,
            HEAD_DIM,
            ROTARY_DIM,
            IS_NEOX,
            FP8_MAX,
            BLOCK_T,
            BLOCK_H,
            LOAD_POLICY,
            STORE_MODIFIER,
        )
    if ROTARY_DIM < HEAD_DIM:
        move_columns(
            source,
            target,
            source_row,
            target_row,
            read,
            write,
            inverse_scale,
            HEAD_DIM,
            ROTARY_DIM,
            HEAD_DIM - ROTARY_DIM,
            FP8_MAX,
            LOAD_POLICY,
            STORE_MODIFIER,
        )


@triton.jit
def _rope_append(
    q,
    k,
    v,
    cos_sin_cache,
    positions,
    slot_mapping,
    q_out,
    k_out,
    v_out,
    num_tokens,
    inverse_k_scale,
    inverse_v_scale,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    IS_NEOX: tl.constexpr,
    IS_PAGED: tl.constexpr,
    HAS_V: tl.constexpr,
    FP8_MAX: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):
    """Program p: a block of heads of BLOCK_T tokens. Q_HEADS is 0 where there are none."""
    KV_BLOCKS: tl.constexpr = (KV_HEADS + BLOCK_H - 1) // BLOCK_H
    V_BLOCKS: tl.constexpr = KV_BLOCKS if HAS_V else 0
    BLOCKS: tl.constexpr = KV_BLOCKS + V_BLOCKS + (Q_HEADS + BLOCK_H - 1) // BLOCK_H
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
                k,
                k_out,
                token,
                target_token,
                is_token,
                written,
                block * BLOCK_H + heads,
                cos_sin_cache,
                positions,
                inverse_k_scale,
                KV_HEADS,
                HEAD_DIM,
                ROTARY_DIM,
                IS_NEOX,
                FP8_MAX,
                BLOCK_T,
                BLOCK_H,
                LOAD_POLICY,
                STORE_MODIFIER,
            )
        elif HAS_V:
            _head_rows(
                v,
                v_out,
                token,
                target_token,
                is_token,
                written,
                (block - KV_BLOCKS) * BLOCK_H + heads,
                cos_sin_cache,
                positions,
                inverse_v_scale,
                KV_HEADS,
                HEAD_DIM,
                0,
                IS_NEOX,
                FP8_MAX,
                BLOCK_T,
                BLOCK_H,
                LOAD_POLICY,
                STORE_MODIFIER,
            )
    elif Q_HEADS > 0:
        _head_rows(
            q,
            q_out,
            token,
            token,
            is_token,
            is_token,
            (block - KV_BLOCKS - V_BLOCKS) * BLOCK_H + heads,
            cos_sin_cache,
            positions,
            1.0,
            Q_HEADS,
            HEAD_DIM,
            ROTARY_DIM,
            IS_NEOX,
            0,
            BLOCK_T,
            BLOCK_H,
            LOAD_POLICY,
            STORE_MODIFIER,
        )


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
    inverse_k_scale, inverse_v_scale = (
        (1.0, 1.0) if isinstance(problem, Rope) else (1 / problem.k_scale, 1 / problem.v_scale)
    )
    blocks = triton.cdiv(q_heads, state.block_heads) + (2 if paged else 1) * triton.cdiv(k.shape[1], state.block_heads)
    if isinstance(problem, Append):
        _rope_append[(triton.cdiv(len(k), state.block_tokens) * blocks,)](
            k if q is None else q,
            k,
            inputs.get("v", k),
            inputs.get("cos_sin_cache", k),
            inputs.get("positions", inputs.get("slot_mapping")),
            inputs.get("slot_mapping", inputs.get("positions")),
            outputs.get("q_out", k),
            k_out,
            inputs.get("v_cache", k),
            len(k),
            inverse_k_scale,
            inverse_v_scale,
            Q_HEADS=q_heads,
            KV_HEADS=k.shape[1],
            HEAD_DIM=k.shape[2],
            ROTARY_DIM=0,
            IS_NEOX=True,
            IS_PAGED=paged,
            HAS_V=paged,
            FP8_MAX=torch.finfo(k_out.dtype).max if k_out.dtype.itemsize == 1 else 0.0,
            BLOCK_T=state.block_tokens,
            BLOCK_H=state.block_heads,
            LOAD_POLICY=state.load_policy,
            STORE_MODIFIER=state.store_modifier,
            num_warps=state.num_warps,
        )
    else:
        _rope_append[(triton.cdiv(len(k), state.block_tokens) * blocks,)](
            k if q is None else q,
            k,
            inputs.get("v", k),
            inputs.get("cos_sin_cache", k),
            inputs.get("positions", inputs.get("slot_mapping")),
            inputs.get("slot_mapping", inputs.get("positions")),
            outputs.get("q_out", k),
            k_out,
            inputs.get("v_cache", k),
            len(k),
            inverse_k_scale,
            inverse_v_scale,
            Q_HEADS=q_heads,
            KV_HEADS=k.shape[1],
            HEAD_DIM=k.shape[2],
            ROTARY_DIM=problem.rotary_dim,
            IS_NEOX=problem.is_neox,
            IS_PAGED=paged,
            HAS_V=paged,
            FP8_MAX=torch.finfo(k_out.dtype).max if k_out.dtype.itemsize == 1 else 0.0,
            BLOCK_T=state.block_tokens,
            BLOCK_H=state.block_heads,
            LOAD_POLICY=state.load_policy,
            STORE_MODIFIER=state.store_modifier,
            num_warps=state.num_warps,
        )
    return outputs


def supports(problem: Problem, device: Device) -> str | None:
    """Its choices are for one architecture."""
    if device.kind != "cpu" and device.arch != "sm_90":
        return f"it was generated for sm_90, and this device is {device.arch}"
    return None


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("rope_append", "append", "rope"),
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
    supports=supports,
)
