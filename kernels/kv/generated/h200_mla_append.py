# SPDX-License-Identifier: Apache-2.0
# Written by kernelgate generate from kernels/kv/triton_mla_append.py.
# How, and its table of choices: h200_mla_append.json
"""MLA's RoPE and append in one launch, in Triton.

Of every block of tokens one program writes the cache rows, the others turn some heads of the queries each. Tiles are
read once and written once; what goes to an e4m3 cache is scaled and rounded in registers.
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
from ..problem import MLAAppend


@dataclass(frozen=True)
class RowsPlan:
    """A tile of the kernels that rotate and append: so many tokens, so many heads of each."""

    block_tokens: int
    block_heads: int
    num_warps: int
    token_first: bool = False
    """Whether neighbouring programs have the same heads of neighbouring tokens, not neighbouring heads."""
    load_policy: str = ""
    """Eviction policy of rows, which are read once."""
    store_modifier: str = ""
    """Cache modifier of rows that are written."""


def next_power_of_2(n: int) -> int:
    """The least that is not smaller; at least 1."""
    return 1 << max(0, n - 1).bit_length()


@dataclass(frozen=True)
class Plan:
    """What the kernel is launched with."""

    problem: MLAAppend
    block_tokens: int
    block_heads: int
    num_warps: int
    token_first: bool
    load_policy: str
    store_modifier: str


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Tiles from shapes alone."""
    assert isinstance(problem, MLAAppend)
    return plan_from(problem, choice_for(problem))


def plan_from(problem: MLAAppend, choice: RowsPlan) -> Plan:
    """What follows from a choice: no tile is larger than there are tokens and heads."""
    return Plan(
        problem=problem,
        block_tokens=min(choice.block_tokens, next_power_of_2(problem.tokens)),
        block_heads=min(choice.block_heads, next_power_of_2(problem.num_heads)),
        num_warps=choice.num_warps,
        token_first=choice.token_first,
        load_policy=choice.load_policy,
        store_modifier=choice.store_modifier,
    )


def facts(problem: MLAAppend) -> dict[str, int | bool | str]:
    """What a table of choices tells problems apart by."""
    return {"is_fp8": problem.is_fp8, "cos_sin_dtype": problem.cos_sin_dtype, "tokens": problem.tokens}


CHOSEN = ("block_tokens", "block_heads", "num_warps", "token_first", "load_policy", "store_modifier")


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


def choice_for(problem: MLAAppend) -> RowsPlan:
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
    TARGET_DIM: tl.constexpr,
    TARGET_FIRST: tl.constexpr,
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
    HALF: tl.constexpr = 32
    BLOCK: tl.constexpr = triton.next_power_of_2(HALF)
    dtype: tl.constexpr = target.dtype.element_ty
    pair = tl.arange(0, BLOCK)
    angle = cos_sin_cache + position[:, None] * 64 + pair[None, :]
    known = is_token[:, None] & (pair < HALF)[None, :]
    from_row = source + source_row[:, :, None] * 64
    to_row = target + target_row[:, :, None] * TARGET_DIM + TARGET_FIRST
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
        readable, writable = read[:, :, None] & (column < 64), write[:, :, None] & (column < 64)
        both = tl.load(from_row + column, mask=readable, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
        cos = tl.load(angle, mask=known, other=0.0).to(tl.float32)[:, None, :]
        sin = tl.load(angle + HALF, mask=known, other=0.0).to(tl.float32)[:, None, :]
        x, y = tl.split(tl.reshape(both, [BLOCK_T, BLOCK_H, BLOCK, 2]))
        turned = tl.reshape(tl.join(x * cos - y * sin, y * cos + x * sin), [BLOCK_T, BLOCK_H, 2 * BLOCK])
        turned = stored(turned, inverse_scale, FP8_MAX, dtype)
        tl.store(to_row + column, turned, mask=writable, cache_modifier=STORE_MODIFIER)


@triton.jit
def _mla_append(
    q_rope,
    k_rope,
    latent,
    cos_sin_cache,
    positions,
    slot_mapping,
    q_out,
    kv_cache,
    num_tokens,
    inverse_scale,
    HEADS: tl.constexpr,
    IS_NEOX: tl.constexpr,
    FP8_MAX: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    TOKEN_FIRST: tl.constexpr,
    LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):
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
        column = tl.arange(0, 512)[None, :]
        row = tl.load(
            latent + token[:, None] * 512 + column, mask=is_token[:, None], other=0.0, eviction_policy=LOAD_POLICY
        )
        written = is_token & (slot >= 0)
        tl.store(
            kv_cache + slot[:, None] * 576 + column,
            stored(row, inverse_scale, FP8_MAX, kv_cache.dtype.element_ty),
            mask=written[:, None],
            cache_modifier=STORE_MODIFIER,
        )
        turn_rows(
            k_rope,
            kv_cache,
            token[:, None],
            slot[:, None],
            is_token[:, None],
            written[:, None],
            cos_sin_cache,
            position,
            is_token,
            inverse_scale,
            576,
            512,
            IS_NEOX,
            FP8_MAX,
            BLOCK_T,
            1,
            LOAD_POLICY,
            STORE_MODIFIER,
        )
    else:
        head = (block - 1) * BLOCK_H + tl.arange(0, BLOCK_H)
        head_row = token[:, None] * HEADS + head[None, :]
        mask = is_token[:, None] & (head < HEADS)[None, :]
        turn_rows(
            q_rope,
            q_out,
            head_row,
            head_row,
            mask,
            mask,
            cos_sin_cache,
            position,
            is_token,
            1.0,
            64,
            0,
            IS_NEOX,
            0,
            BLOCK_T,
            BLOCK_H,
            LOAD_POLICY,
            STORE_MODIFIER,
        )


def run(inputs: Inputs, state: Plan) -> Outputs:
    """One launch."""
    q_rope, kv_cache = inputs["q_rope"], inputs["kv_cache"]
    num_tokens, num_heads, _ = q_rope.shape
    q_out = torch.empty_like(q_rope)
    blocks = 1 + triton.cdiv(num_heads, state.block_heads)
    _mla_append[(triton.cdiv(num_tokens, state.block_tokens) * blocks,)](
        q_rope,
        inputs["k_rope"],
        inputs["latent"],
        inputs["cos_sin_cache"],
        inputs["positions"],
        inputs["slot_mapping"],
        q_out,
        kv_cache,
        num_tokens,
        1 / state.problem.kv_scale,
        HEADS=num_heads,
        IS_NEOX=state.problem.is_neox,
        FP8_MAX=torch.finfo(kv_cache.dtype).max if kv_cache.dtype.itemsize == 1 else 0.0,
        BLOCK_T=state.block_tokens,
        BLOCK_H=state.block_heads,
        TOKEN_FIRST=state.token_first,
        LOAD_POLICY=state.load_policy,
        STORE_MODIFIER=state.store_modifier,
        num_warps=state.num_warps,
    )
    return {"q_out": q_out}


def supports(problem: Problem, device: Device) -> str | None:
    """Its choices are for one architecture."""
    if device.kind != "cpu" and device.arch != "sm_90":
        return f"it was generated for sm_90, and this device is {device.arch}"
    return None


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("mla_append",),
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
    supports=supports,
)
