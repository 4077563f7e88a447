"""What a search may choose for the experts: all launch decisions of `triton_experts`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ..device import Device
from ..problem import Inputs
from ..space import Space, Value, Work, mfma_values, why_not_mfma
from ._experts_choice import Choice, choice_for, facts, fits_hopper, suits_tma
from ._experts_plan import plan_from
from .problem import BLOCK, MoEGroupedGEMM, MoELayer

ACCUMULATOR_REGISTERS = 160
"""Most registers of a thread that fp32 accumulators may take: operands and addresses need the rest of 255. CDNA has
twice as many."""
LEAST_ON_ITS_WAY = 24 * 1024
"""Least bytes of weights that one program of a product has on their way where reading them is all the work."""
FEW_ROWS = 48
"""Rows of an expert up to which reading weights is all the work."""
MOST_PARTIAL_SHARE = 0.1
"""Of the weights' bytes: more partial results are not worth a further split."""

ABOUT = """Experts of a mixture in Triton: slots sorted on the device, two grouped products, and a weighted sum.

    y_e(x) = (silu(x . gate_e^T) * (x . up_e^T)) . w2_e^T
    out[t] = sum_i topk_weights[t, i] * y_{topk_ids[t, i]}(x[t])

    (router) | (quantise x) | sort slots | gate and up with SwiGLU | down | weighted sum

Rows of tokens are gathered within the first product and results scattered to their slots by the second. The sum is a
kernel of its own, so that a token's experts are always added in the same order. For one token nothing is sorted. The
number of programs is a bound from shapes: those without a tile end at once, so a captured graph replays with any
routing. 8-bit weights want 8-bit activations: x is quantised by a kernel, h where it is computed.
"""


def _values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    is_amd, is_hopper = device.kind == "hip", device.arch == "sm_90"
    has_tma = device.kind == "cuda" and device.compute_capability >= 90
    return {
        "block_m": (16, 32, 64, 128),
        "first_columns": (32, 64, 128),
        "first_k": (64, 128, 256),
        "first_warps": (4, 8),
        "first_stages": (2, 3) if is_amd else (2, 3, 4, 5),
        "second_columns": (32, 64, 128),
        "second_k": (64, 128, 256),
        "second_warps": (4, 8),
        "second_stages": (2, 3) if is_amd else (2, 3, 4, 5),
        "group_m": (1, 4, 8, 16),
        "swap": (False, True),
        "use_tma": (False, True) if has_tma else (False,),
        "split_k": (1, 2, 4),
        "stream": (False, True) if device.kind == "cuda" else (False,),
        "combine_columns": (256, 1024),
        "dependent_launch": (True,) if has_tma else (False,),
        "hopper": (False, True) if is_hopper else (False,),
        "hopper_wide": (False, True) if is_hopper else (False,),
        "hopper_dependent_launch": (False, True) if is_hopper else (False,),
        "waves_per_eu": (0, 1, 2, 3, 4) if is_amd else (0,),
        **mfma_values(device),
    }


def _normal(problem: MoEGroupedGEMM | MoELayer, choice: Choice, device: Device) -> Choice:
    """Fields that do not matter have the value chosen by hand."""
    hand = choice_for(problem, device)
    choice = replace(choice, dependent_launch=hand.dependent_launch)
    if isinstance(problem, MoEGroupedGEMM):
        choice = replace(choice, split_k=hand.split_k, combine_columns=hand.combine_columns)
        choice = _with_second(choice, hand)
    if choice.hopper and fits_hopper(problem):
        return replace(
            hand,
            combine_columns=choice.combine_columns,
            hopper=True,
            hopper_wide=choice.hopper_wide,
            hopper_dependent_launch=choice.hopper_dependent_launch,
        )
    choice = replace(choice, hopper=False, hopper_wide=False, hopper_dependent_launch=False)
    if problem.is_fp8:
        second_columns = min(BLOCK, choice.second_columns)
        choice = replace(choice, first_columns=BLOCK, first_k=BLOCK, second_columns=second_columns, second_k=BLOCK)
    if isinstance(problem, MoELayer) and problem.tokens == 1:
        choice = replace(choice, block_m=hand.block_m, group_m=hand.group_m)
    if not suits_tma(problem):
        choice = replace(choice, use_tma=False)
    if choice.use_tma:
        choice = replace(choice, stream=hand.stream)
    return choice


def _with_second(choice: Choice, other: Choice) -> Choice:
    """With the second product of the other one."""
    return replace(
        choice,
        second_columns=other.second_columns,
        second_k=other.second_k,
        second_warps=other.second_warps,
        second_stages=other.second_stages,
    )


def _rows(problem: MoEGroupedGEMM | MoELayer) -> float:
    return problem.tokens * problem.top_k / problem.num_experts


def _why_not(problem: MoEGroupedGEMM | MoELayer, choice: Choice, device: Device) -> str | None:
    if choice.hopper:
        if not fits_hopper(problem):
            return "the Hopper kernel is for sorted rows of 16-bit values that begin at multiples of 16 bytes"
        return None
    if choice.use_tma and not suits_tma(problem):
        return "descriptors want rows that begin at multiples of 16 bytes"
    if problem.is_fp8 and (choice.first_columns, choice.first_k, choice.second_k) != (BLOCK, BLOCK, BLOCK):
        return f"8-bit operands have scales for blocks of {BLOCK}"
    if problem.is_fp8 and choice.second_columns > BLOCK:
        return f"8-bit operands have scales for blocks of {BLOCK}"
    reason = (
        why_not_mfma(choice.matrix_instr_nonkdim, choice.block_m, choice.first_columns, choice.second_columns)
        or _why_no_tile(problem, choice, device, True)
        or _why_no_order(problem, choice)
    )
    if reason is None and isinstance(problem, MoELayer):
        reason = _why_no_tile(problem, choice, device, False)
    return reason


def _why_no_tile(problem: MoEGroupedGEMM | MoELayer, choice: Choice, device: Device, is_first: bool) -> str | None:
    """What speaks against the tile of the first product, or of the second."""
    matrices = 2 if is_first else 1
    columns, k, warps, stages = (
        (choice.first_columns, choice.first_k, choice.first_warps, choice.first_stages)
        if is_first
        else (choice.second_columns, choice.second_k, choice.second_warps, choice.second_stages)
    )
    element_bytes = 1 if problem.is_fp8 else 2
    threads = warps * device.warp_size
    registers = matrices * choice.block_m * columns // threads
    if problem.is_fp8:
        registers += choice.block_m * columns // threads  # the product that is scaled before it is added
    most = 2 * ACCUMULATOR_REGISTERS if device.kind == "hip" else ACCUMULATOR_REGISTERS
    if registers > most:
        return f"the accumulators alone take {registers} registers of a thread"
    weight_bytes = matrices * columns * k * element_bytes
    step_bytes = weight_bytes + choice.block_m * k * element_bytes
    buffers = max(1, stages - 1) if device.kind == "hip" else stages
    if step_bytes * buffers > device.shared_memory_bytes:
        return f"{step_bytes * buffers} bytes of shared memory for its tiles, of {device.shared_memory_bytes}"
    if _rows(problem) <= FEW_ROWS and device.kind == "cuda" and weight_bytes * (stages - 1) < LEAST_ON_ITS_WAY:
        return f"only {weight_bytes * (stages - 1)} bytes of weights are on their way"
    if warps == 8 and matrices * choice.block_m * columns < 64 * 64:
        return f"8 warps for a tile of {choice.block_m} x {columns}"
    tiles = min(problem.stored_experts, problem.tokens * problem.top_k)
    parts, width = (1, problem.intermediate_size) if is_first else (choice.split_k, problem.hidden_size)
    programs = max(tiles, problem.tokens * problem.top_k // choice.block_m) * math.ceil(width / columns) * parts
    least = min(device.num_sms, tiles * math.ceil(width / 64))  # as many as columns allow at all
    if 2 * programs < least:
        return f"{programs} programs for {device.num_sms} SMs"
    return None


def _why_no_order(problem: MoEGroupedGEMM | MoELayer, choice: Choice) -> str | None:
    """What speaks against the rows of a tile, the order of tiles, or the parts of the second product."""
    rows = _rows(problem)
    shared = isinstance(problem, MoELayer) and problem.shared_experts > 0
    if choice.block_m > 16 and choice.block_m > 4 * rows and not (shared and choice.block_m <= 32):
        return f"most of the {choice.block_m} rows of a tile would be empty: an expert has {rows:.3g}"
    if choice.block_m < 64 and choice.block_m < rows / 2:
        return f"tiles of {choice.block_m} rows read an expert's weights {math.ceil(rows / choice.block_m)} times"
    if choice.swap and choice.block_m == 128:
        return "swapping is for few rows"
    parts_bytes = choice.split_k * problem.tokens * problem.top_k * problem.hidden_size * 8
    used = min(problem.stored_experts, problem.tokens * problem.top_k)
    weight_bytes = 2 * used * problem.hidden_size * problem.intermediate_size
    if choice.split_k > 1 and parts_bytes > MOST_PARTIAL_SHARE * weight_bytes:
        return f"the parts of its second product would take {parts_bytes} bytes"
    if choice.split_k > 1 and choice.split_k * choice.second_k * 2 > problem.intermediate_size:
        return f"a part of {problem.intermediate_size // choice.split_k} columns has few steps of {choice.second_k}"
    return None


def _work(problem: MoEGroupedGEMM | MoELayer, choice: Choice, device: Device) -> Work:
    """Rows are padded to tiles, and weights are read by each tile of an expert's rows."""
    rows = max(1.0, _rows(problem))
    block_m = 64 if choice.hopper else choice.block_m
    tile_rows = (128 if choice.hopper_wide else 192) if choice.hopper else choice.block_m
    slots = problem.tokens * problem.top_k
    partial_bytes = 0
    if isinstance(problem, MoELayer):
        each = 8 if choice.split_k > 1 else 4
        partial_bytes = slots * (choice.split_k * each * problem.hidden_size + 4 * problem.intermediate_size)
    dependent = choice.hopper_dependent_launch if choice.hopper else choice.dependent_launch
    launches = 4 if choice.hopper else 2
    return Work(
        flops_factor=math.ceil(rows / block_m) * block_m / rows,
        extra_bytes=partial_bytes,
        reread_factor=math.ceil(rows / tile_rows),
        hidden_launches=launches if dependent else 0,
    )


def _drawn(problem: MoEGroupedGEMM | MoELayer) -> Inputs:
    """`expert_ends`, or ids, or logits: as `redraw` draws them, without the tensors of weights."""
    import torch

    from ._routing import base_ids, redrawn_logits

    generator = torch.Generator().manual_seed(0)
    if isinstance(problem, MoELayer) and problem.router != "given":
        return redrawn_logits(problem.tokens, problem.num_experts, problem.router, generator)
    ids = base_ids(problem.tokens, problem.num_experts, problem.top_k, problem.routing, "cpu")
    if isinstance(problem, MoEGroupedGEMM):
        return {"expert_ends": ids.flatten().bincount(minlength=problem.num_experts).cumsum(0).int()}
    ids = ids.masked_fill(ids >= problem.local_experts, -1)
    shared = [torch.full((problem.tokens, 1), problem.local_experts + i).int() for i in range(problem.shared_experts)]
    return {"topk_ids": torch.cat([ids, *shared], 1), "topk_weights": torch.ones(problem.tokens, problem.slots)}


SPACE = Space(
    template="triton_experts",
    what="experts",
    about=ABOUT,
    choice=Choice,
    values=_values,
    why_not=_why_not,
    choice_for=choice_for,
    plan_from=plan_from,
    facts=facts,
    work=_work,
    drawn=_drawn,
    tasks=("grouped_gemm", "layer"),
    normal=_normal,
)
