"""Experts in Triton: slots sorted on the device, two grouped products, and a sum over each token's experts.

    (router) | (quantise x) | sort slots | gate and up with SwiGLU | down | weighted sum

Rows of tokens are gathered within the first product and results scattered to their slots by the second, so that no
permuted copy is made. The sum is a kernel of its own: the order in which a token's experts are added is always the
same. For one token nothing is sorted; for few tokens the second product's columns are split, and the sum adds the
parts as well. The number of programs is a bound from shapes: those without a tile end at once, so a captured graph
replays with any routing. 8-bit weights want 8-bit activations: x is quantised by a kernel, h where it is computed.

On NVIDIA from sm_90 each kernel is launched while the one ahead of it still runs, and waits for it there. Where an
expert has many rows, on Hopper, both products are `_grouped_hopper`, over rows of tokens that are copied together.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._experts_plan import ExpertsPlan, Tile, plan
from ._grouped_triton import combine, down, gate_up, quantize
from ._hopper_launch import gathered, hopper_down, hopper_gate_up
from ._maths import router_of
from ._route_triton import route_tokens
from ._router_plan import RouterPlan
from ._sort_triton import launch_options, most_tiles, sort_slots
from .problem import BLOCK, MoEGroupedGEMM, MoELayer


def run(inputs: Inputs, state: ExpertsPlan) -> Outputs:
    """One task or the other."""
    return _grouped_gemm(inputs, state) if isinstance(state.problem, MoEGroupedGEMM) else _layer(inputs, state)


def _grouped_gemm(inputs: Inputs, state: ExpertsPlan) -> Outputs:
    x, ends = inputs["x"], inputs["expert_ends"]
    assert isinstance(state.problem, MoEGroupedGEMM)
    if state.hopper and state.fits_hopper and not x.is_cpu:
        h = x.new_empty((len(x), state.problem.intermediate_size))
        hopper_gate_up(
            x, inputs["w13"], ends, h, state.hopper_programs, state.hopper_wide, state.hopper_dependent_launch, True
        )
        return {"h": h}
    dtype = getattr(torch, state.problem.dtype)
    h = torch.empty((len(x), state.problem.intermediate_size), dtype=dtype, device=x.device)
    _launch_gate_up(
        inputs, state, state.gate_up, (x, inputs.get("x_scale", ends)), (ends, ends, ends), (h, ends), 0, False
    )
    return {"h": h}


def _layer(inputs: Inputs, state: ExpertsPlan) -> Outputs:
    problem, x = state.problem, inputs["hidden"]
    assert isinstance(problem, MoELayer)
    dependent = state.dependent_launch and not x.is_cpu
    slots = problem.tokens * problem.slots
    if problem.router == "given":
        ids, weights = inputs["topk_ids"], inputs["topk_weights"]
    else:
        routing = RouterPlan(problem=router_of(problem), block_t=1, num_warps=1, late_scores=False)
        chosen = route_tokens(inputs, routing, dependent)
        ids, weights = chosen["ids"], chosen["weights"]
    x_scale, h_scale = ids, ids  # stand-ins, where there is nothing to scale
    h_dtype = x.dtype
    if problem.is_fp8:
        h_dtype = inputs["w13"].dtype
        x, x_scale = _quantized(x, h_dtype)
        h_scale = x_scale.new_empty((slots, problem.intermediate_size // BLOCK))
    order = (ids, ids, ids)
    is_first = problem.router == "given" and not problem.is_fp8
    if not state.direct:
        order = (ids, *sort_slots(ids, problem.stored_experts, dependent, is_first, False)[:2])
    h = torch.empty((slots, problem.intermediate_size), dtype=h_dtype, device=x.device)
    if state.hopper and state.fits_hopper and not x.is_cpu:
        y = torch.empty((1, slots, problem.hidden_size), dtype=x.dtype, device=x.device)
        programs = state.hopper_programs
        overlaps = state.hopper_dependent_launch
        rows = gathered(x, order[1], order[2], problem.slots, overlaps)
        hopper_gate_up(rows, inputs["w13"], order[2], h, programs, state.hopper_wide, overlaps, False)
        hopper_down(h, inputs["w2"], order[2], order[1], y[0], programs, state.hopper_wide, overlaps)
        return {"out": _combined(state, y, ids, weights, inputs["hidden"], overlaps)}
    follows = dependent and not (state.direct and is_first)
    _launch_gate_up(inputs, state, state.gate_up, (x, x_scale), order, (h, h_scale), problem.slots, follows)
    y_dtype = torch.float32 if state.split_k > 1 else inputs["hidden"].dtype
    y = torch.empty((state.split_k, slots, problem.hidden_size), dtype=y_dtype, device=x.device)
    _launch_down(inputs, state, state.down, (h, h_scale), order, y, dependent)
    return {"out": _combined(state, y, ids, weights, inputs["hidden"], dependent)}


def _combined(
    state: ExpertsPlan, y: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, hidden: torch.Tensor, follows: bool
) -> torch.Tensor:
    """Each token's sum; `follows`: the kernel ahead lets this one be launched before it ends."""
    problem, out = state.problem, torch.empty_like(hidden)
    assert isinstance(problem, MoELayer)
    combine[
        triton.cdiv(problem.tokens, state.combine_tokens), triton.cdiv(problem.hidden_size, state.combine_columns)
    ](
        y, ids, weights, ids, out, problem.tokens,
        HIDDEN=problem.hidden_size, SLOTS_PER_TOKEN=problem.slots, SPLIT_K=len(y),
        BLOCK_T=state.combine_tokens, BLOCK_H=state.combine_columns, IS_SORTED=False, DEPENDENT_LAUNCH=follows,
        num_warps=1 if state.combine_columns <= 256 else 4, **launch_options(follows),
    )  # fmt: skip
    return out


def _launch_gate_up(
    inputs: Inputs,
    state: ExpertsPlan,
    tile: Tile,
    x: tuple[torch.Tensor, torch.Tensor],
    order: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    h: tuple[torch.Tensor, torch.Tensor],
    slots_per_token: int,
    follows: bool,
) -> None:
    """`x` and `h` come with their scales; `order` is (topk_ids, sorted_slots, expert_ends)."""
    problem, interpreted = state.problem, h[0].is_cpu
    num_slots = problem.tokens * (slots_per_token or problem.top_k)
    quantizes = problem.is_fp8 and isinstance(problem, MoELayer)
    gate_up[(_num_programs(state, tile, num_slots, problem.intermediate_size),)](
        x[0], x[1], _as_seen(inputs["w13"], tile), inputs.get("w13_scale", order[0]), order[0], order[1], order[2],
        h[0], h[1],
        SLOTS_PER_TOKEN=slots_per_token, QUANTIZE=quantizes, FP8_MAX=_largest(h[0].dtype) if quantizes else 0.0,
        DEPENDENT_LAUNCH=state.dependent_launch and not interpreted, **_shared(state, tile, interpreted),
        **launch_options(follows),
    )  # fmt: skip


def _launch_down(
    inputs: Inputs,
    state: ExpertsPlan,
    tile: Tile,
    h: tuple[torch.Tensor, torch.Tensor],
    order: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    y: torch.Tensor,
    dependent: bool,
) -> None:
    interpreted = y.is_cpu
    num_programs = _num_programs(state, tile, len(h[0]), state.problem.hidden_size)
    down[(num_programs, state.split_k)](
        h[0], h[1], _as_seen(inputs["w2"], tile), inputs.get("w2_scale", order[0]), order[0], order[1], order[2], y,
        len(h[0]),
        SPLIT_K=state.split_k, DEPENDENT_LAUNCH=dependent, **_shared(state, tile, interpreted),
        **launch_options(dependent),
    )  # fmt: skip


def _num_programs(state: ExpertsPlan, tile: Tile, num_slots: int, columns: int) -> int:
    """Tiles that may be needed times blocks of columns."""
    tiles = num_slots if state.direct else most_tiles(num_slots, state.problem.stored_experts, tile.block_m)
    groups = tiles if state.direct else math.ceil(tiles / tile.group_m) * tile.group_m
    return groups * math.ceil(columns / tile.block_n)


def _shared(state: ExpertsPlan, tile: Tile, interpreted: bool) -> dict[str, Any]:
    """Arguments of both products."""
    return {
        "NUM_EXPERTS": state.problem.stored_experts,
        "EXPERTS_BLOCK": triton.next_power_of_2(state.problem.stored_experts),
        "HIDDEN": state.problem.hidden_size,
        "INTERMEDIATE": state.problem.intermediate_size,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
        "STAGES": tile.num_stages,
        "SWAP": tile.swap,
        "DIRECT": state.direct,
        "USE_TMA": tile.use_tma and not interpreted,
        "STREAM": state.stream,
        "FP8": state.problem.is_fp8,
        "num_warps": tile.num_warps,
        **state.backend_options,
    }


def _as_seen(weight: torch.Tensor, tile: Tile) -> Any:
    """The weights, or a descriptor of all their rows that loads BLOCK_N x BLOCK_K at once."""
    if not tile.use_tma or weight.is_cpu:
        return weight
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(weight.view(-1, weight.shape[-1]), [tile.block_n, tile.block_k])


def _quantized(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x [tokens, columns] in 8 bits with its scales [tokens, columns / 128]."""
    tokens, columns = x.shape
    x8 = torch.empty_like(x, dtype=dtype)
    scale = torch.empty((tokens, columns // BLOCK), dtype=torch.float32, device=x.device)
    blocks = triton.next_power_of_2(columns // BLOCK)
    quantize[(tokens,)](x, x8, scale, COLUMNS=columns, BLOCKS=blocks, FP8_MAX=_largest(dtype), num_warps=8)
    return x8, scale


def _largest(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).max)


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("grouped_gemm", "layer"),
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
)
