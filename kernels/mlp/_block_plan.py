"""Launch decisions of triton_block: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from ._gemm_plan import FEW_TOKENS, GemmPlan, Product, Tile, gemm_plan
from ._gemm_tiles import tile_by_hand
from ._norm_plan import MAX_WARPS, MIN_TILE, NormPlan, NormTile, norm_plan, norm_tile
from .problem import MLPBlock


@dataclass(frozen=True)
class BlockChoice:
    """Tiles of both products, and all else that is chosen rather than derived. `up` is the gate and up product."""

    vector: bool
    """As `Tile.vector`, of both products."""
    ring: bool
    """As `Tile.ring`."""
    tiled: bool
    """As `Tile.tiled`."""
    norm_input: bool
    """Whether the first product norms its input, where `vector` is."""
    norm_values: int
    """Values of a row for each thread of the norm."""
    block_m: int
    """Tokens of a tile, where `tiled` is."""
    up_block_n: int
    up_block_k: int
    up_num_stages: int
    up_num_warps: int
    down_block_n: int
    down_block_k: int
    down_num_stages: int
    down_num_warps: int
    programs_per_sm: int
    """As `Tile.programs_per_sm`."""
    group_m: int
    wide: bool
    """As `GemmPlan.wide`."""
    flatten: bool
    """As `GemmPlan.flatten`."""
    tma: bool
    prefetch: int
    """As `GemmPlan.prefetch`."""
    dependent_launch: bool
    matrix_instr_nonkdim: int
    """As `Tile.matrix_instr_nonkdim`."""
    waves_per_eu: int
    """As `Tile.waves_per_eu`."""
    kpack: int
    """As `Tile.kpack`."""


@dataclass(frozen=True)
class BlockPlan:
    """What all kernels are launched with."""

    norm: NormPlan | None
    """None: there is no norm, or the gate and up product norms its input."""
    gate_up: GemmPlan
    down: GemmPlan


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> BlockPlan:
    """From shapes alone."""
    assert isinstance(problem, MLPBlock)
    return plan_from(problem, choice_for(problem, device), device)


def gate_up_product(problem: MLPBlock) -> Product:
    """silu(h . gate^T) * (h . up^T)."""
    return Product(
        tokens=problem.tokens,
        n=problem.intermediate_size,
        k=problem.hidden_size,
        gated=True,
        has_residual=False,
        epsilon=problem.epsilon,
    )


def down_product(problem: MLPBlock) -> Product:
    """x + a . down^T."""
    return Product(
        tokens=problem.tokens,
        n=problem.hidden_size,
        k=problem.intermediate_size,
        gated=False,
        has_residual=problem.residual,
        epsilon=0.0,
    )


def plan_from(problem: MLPBlock, choice: BlockChoice, device: Device) -> BlockPlan:
    """What follows from a choice."""
    up_tile = Tile(
        block_n=choice.up_block_n,
        block_k=choice.up_block_k,
        num_stages=choice.up_num_stages,
        num_warps=choice.up_num_warps,
        vector=choice.vector,
        ring=choice.ring,
        tiled=choice.tiled,
        block_m=choice.block_m,
        programs_per_sm=choice.programs_per_sm,
        group_m=choice.group_m,
        wide=choice.wide,
        flatten=choice.flatten,
        tma=choice.tma,
        prefetch=choice.prefetch,
        dependent_launch=choice.dependent_launch,
        matrix_instr_nonkdim=choice.matrix_instr_nonkdim,
        waves_per_eu=choice.waves_per_eu,
        kpack=choice.kpack,
    )
    down_tile = Tile(
        block_n=choice.down_block_n,
        block_k=choice.down_block_k,
        num_stages=choice.down_num_stages,
        num_warps=choice.down_num_warps,
        vector=choice.vector,
        ring=choice.ring,
        tiled=choice.tiled,
        block_m=choice.block_m,
        programs_per_sm=choice.programs_per_sm,
        group_m=choice.group_m,
        wide=choice.wide,
        flatten=choice.flatten,
        tma=choice.tma,
        prefetch=choice.prefetch,
        dependent_launch=choice.dependent_launch,
        matrix_instr_nonkdim=choice.matrix_instr_nonkdim,
        waves_per_eu=choice.waves_per_eu,
        kpack=choice.kpack,
    )
    gate_up = gemm_plan(gate_up_product(problem), up_tile, problem.norm and choice.norm_input, device)
    norm = None
    if problem.norm and not gate_up.norm_input:
        tile = NormTile(
            values_per_thread=choice.norm_values,
            tile_values=MIN_TILE,
            most_warps=MAX_WARPS,
            programs_per_sm=0,
            num_stages=1,
            load_policy="",
            store_modifier="",
            dependent_launch=choice.dependent_launch,
        )
        norm = norm_plan(problem.tokens, problem.hidden_size, tile, device)
    return BlockPlan(norm=norm, gate_up=gate_up, down=gemm_plan(down_product(problem), down_tile, False, device))


def facts(problem: MLPBlock) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {"is_one": problem.tokens == 1, "is_few": problem.tokens <= FEW_TOKENS, "tokens": problem.tokens}


def choice_for(problem: MLPBlock, device: Device) -> BlockChoice:
    """What was chosen by hand. Where rows of one weight only are a multiple of 16 bytes, that one's kernel counts."""
    up, down = (tile_by_hand(product, device) for product in (gate_up_product(problem), down_product(problem)))
    return BlockChoice(
        vector=up.vector,
        ring=up.ring or down.ring,
        tiled=up.tiled,
        norm_input=up.vector,
        norm_values=norm_tile(problem.tokens, device).values_per_thread,
        block_m=up.block_m,
        up_block_n=up.block_n,
        up_block_k=up.block_k,
        up_num_stages=up.num_stages,
        up_num_warps=up.num_warps,
        down_block_n=down.block_n,
        down_block_k=down.block_k,
        down_num_stages=down.num_stages,
        down_num_warps=down.num_warps,
        programs_per_sm=up.programs_per_sm,
        group_m=up.group_m,
        wide=up.wide,
        flatten=up.flatten,
        tma=up.tma or down.tma,
        prefetch=up.prefetch,
        dependent_launch=up.dependent_launch,
        matrix_instr_nonkdim=up.matrix_instr_nonkdim,
        waves_per_eu=up.waves_per_eu,
        kpack=up.kpack,
    )
