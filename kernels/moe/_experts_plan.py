"""Launch decisions of triton_experts: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..device import Device
from ..problem import Inputs, Problem
from ._experts_choice import Choice, choice_for, fits_hopper, suits_tma
from .problem import BLOCK, MoEGroupedGEMM, MoELayer


@dataclass(frozen=True)
class Tile:
    """The shape of one program of a grouped product."""

    block_m: int
    """Rows (a token and its choice)."""
    block_n: int
    """Columns: rows of one weight matrix."""
    block_k: int
    num_warps: int
    num_stages: int
    group_m: int = 8
    """Tiles of rows that share the columns which they are on."""
    swap: bool = False
    """Whether weights are multiplied by tokens, and not tokens by weights."""
    use_tma: bool = False
    """Whether weights are loaded through descriptors (Hopper and later)."""


@dataclass(frozen=True)
class ExpertsPlan:
    """What all kernels are launched with."""

    problem: MoEGroupedGEMM | MoELayer
    gate_up: Tile
    down: Tile
    split_k: int
    """Parts that the second product's columns are cut into; each is written by itself."""
    direct: bool
    """One token: its slots are the rows, and nothing is sorted."""
    stream: bool
    """Whether weights are read once, by one program each."""
    combine_tokens: int
    combine_columns: int
    dependent_launch: bool
    """Whether a kernel may be launched before the one ahead of it has ended (NVIDIA, from sm_90)."""
    hopper: bool
    """Whether both products are those in Gluon, over rows that are copied together."""
    fits_hopper: bool
    """Whether they can be."""
    hopper_wide: bool
    hopper_dependent_launch: bool
    hopper_programs: int
    """Persistent programs of them."""
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only: on AMD `waves_per_eu`, `matrix_instr_nonkdim`, `kpack`."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> ExpertsPlan:
    """Every launch decision, from shapes alone."""
    assert isinstance(problem, MoEGroupedGEMM | MoELayer)
    return plan_from(problem, choice_for(problem, device), device)


def plan_from(problem: MoEGroupedGEMM | MoELayer, choice: Choice, device: Device) -> ExpertsPlan:
    """What follows from a choice. 8-bit operands want steps of one block, and h one block of it in a tile."""
    return ExpertsPlan(
        problem=problem,
        gate_up=Tile(
            block_m=choice.block_m,
            block_n=BLOCK if problem.is_fp8 else choice.first_columns,
            block_k=BLOCK if problem.is_fp8 else choice.first_k,
            num_warps=choice.first_warps,
            num_stages=choice.first_stages,
            group_m=choice.group_m,
            swap=choice.swap,
            use_tma=choice.use_tma and suits_tma(problem),
        ),
        down=Tile(
            block_m=choice.block_m,
            block_n=min(BLOCK, choice.second_columns) if problem.is_fp8 else choice.second_columns,
            block_k=BLOCK if problem.is_fp8 else choice.second_k,
            num_warps=choice.second_warps,
            num_stages=choice.second_stages,
            group_m=choice.group_m,
            swap=choice.swap,
            use_tma=choice.use_tma and suits_tma(problem),
        ),
        split_k=choice.split_k,
        direct=isinstance(problem, MoELayer) and problem.tokens == 1,
        stream=choice.stream,
        combine_tokens=64 if device.kind == "cpu" else 1,
        combine_columns=choice.combine_columns,
        dependent_launch=choice.dependent_launch,
        hopper=choice.hopper,
        fits_hopper=fits_hopper(problem),
        hopper_wide=choice.hopper_wide,
        hopper_dependent_launch=choice.hopper_dependent_launch,
        hopper_programs=device.num_sms,
        backend_options={
            "waves_per_eu": choice.waves_per_eu,
            "matrix_instr_nonkdim": choice.matrix_instr_nonkdim,
            "kpack": choice.kpack,
        }
        if device.kind == "hip"
        else {},
    )
