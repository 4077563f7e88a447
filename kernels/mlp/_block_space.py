"""The space of triton_block: kernel and tiles of both products, and how their launches meet."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..device import Device
from ..space import Space, Value, Work, mfma_values
from ._block_plan import BlockChoice, choice_for, down_product, facts, gate_up_product, plan_from
from ._gemm_plan import FEW_TOKENS, SKINNY_TOKENS, Product, columns_of
from ._rounding import next_power_of_2
from .problem import MLPBlock

ACCUMULATOR_REGISTERS = 224
"""Most registers of a thread that fp32 accumulators may take: 255 is what NVIDIA's instructions can name. CDNA has 512,
half of them for accumulation."""
VECTOR_VALUES = 128
"""Most values of the weight that a thread of `vector_gemm` multiplies in a step: as many sums in float32."""
RING_TOKENS = 32
"""More columns of wgmma have been slower than `skinny_gemm`: 64 tokens 69.7 us against 63.4."""
EPILOGUE_BYTES = 1024
"""Of barriers and reductions, at most."""

ABOUT = """The gated MLP in Triton, in two or three launches; nothing wider than the MLP's intermediate goes to memory.

    (1) h = rmsnorm(x), where the second kernel does not norm its input itself
    (2) a = silu(h . gate^T) * (h . up^T): both tiles are one program's, so the gate and up products stay in registers
    (3) out = x + a . down^T

Products of few tokens stream the weights, those of many are tiled; which kernel multiplies is the table's choice.
"""


def _values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    is_amd, from_hopper = device.kind == "hip", device.compute_capability >= 90
    block_k = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    return {
        "vector": (False, True),
        "ring": (False, True) if device.arch == "sm_90" else (False,),
        "tiled": (False, True),
        "norm_input": (False, True),
        "norm_values": (4, 8, 16, 32),
        "block_m": (64, 128, 256),
        "up_block_n": (1, 2, 4, 8, 16, 32, 64, 128),
        "up_block_k": block_k,
        "up_num_stages": (1, 2, 3, 4, 5, 6, 8, 10),
        "up_num_warps": (2, 4, 8),
        "down_block_n": (1, 2, 4, 8, 16, 32, 64, 128),
        "down_block_k": block_k,
        "down_num_stages": (1, 2, 3, 4, 5, 6, 8, 10),
        "down_num_warps": (2, 4, 8),
        "programs_per_sm": (1, 2, 3),
        "group_m": (4, 8, 16, 32),
        "wide": (False, True) if from_hopper else (False,),
        "flatten": (False, True),
        "tma": (False, True) if from_hopper else (False,),
        "prefetch": (0, 1, 2, 4) if from_hopper else (1,),
        "dependent_launch": (False, True) if from_hopper else (False,),
        "matrix_instr_nonkdim": mfma_values(device)["matrix_instr_nonkdim"],
        "waves_per_eu": (0, 1, 2, 3, 4) if is_amd else (0,),
        "kpack": mfma_values(device)["kpack"],
    }


def _narrowed(problem: MLPBlock, device: Device) -> Mapping[str, tuple[Value, ...]]:
    """By the number of tokens: the kernels that can win, and their own fields. All else is as by hand."""
    if problem.tokens == 1:
        return _for_one(problem, device)
    return _for_few(problem, device) if problem.tokens <= FEW_TOKENS else _for_many(problem, device)


def _for_one(problem: MLPBlock, device: Device) -> Mapping[str, tuple[Value, ...]]:
    tiles: dict[str, tuple[Value, ...]] = {}
    for name in ("up", "down"):
        tiles |= {
            f"{name}_block_n": (1, 2, 4, 8),
            f"{name}_block_k": (512, 1024, 2048, 4096, 8192),
            f"{name}_num_stages": (1, 2, 3),
            f"{name}_num_warps": (2, 4, 8),
        }
    return tiles | {
        "vector": (True,),
        "ring": (False,),
        "tiled": (False,),
        "norm_input": (False, True) if problem.norm else (True,),
        "norm_values": (8,),
        "block_m": (FEW_TOKENS,),
        "programs_per_sm": (2,),
        "group_m": (16,),
        "wide": (False,),
        "flatten": (False,),
        "tma": (False,),
        "prefetch": (1,),
        "dependent_launch": (device.compute_capability >= 90,),
        "matrix_instr_nonkdim": (16,) if device.warp_size == 64 else (0,),
        "kpack": (1,),
    }


def _for_few(problem: MLPBlock, device: Device) -> Mapping[str, tuple[Value, ...]]:
    aligned = problem.hidden_size % 8 == 0 and problem.intermediate_size % 8 == 0
    from_hopper = device.compute_capability >= 90
    can_tile = aligned and from_hopper and problem.tokens > RING_TOKENS
    tiles: dict[str, tuple[Value, ...]] = {}
    for name in ("up", "down"):
        tiles |= {
            f"{name}_block_n": (32, 64, 128),
            f"{name}_block_k": (64, 128) if from_hopper else (64, 128, 256),
            f"{name}_num_stages": (2, 3, 4, 5, 6, 8, 10) if from_hopper else (2, 3, 4),
            f"{name}_num_warps": (4, 8),
        }
    return tiles | {
        "vector": (False,),
        "ring": (False, True) if aligned and device.arch == "sm_90" and problem.tokens <= RING_TOKENS else (False,),
        "tiled": (False, True) if can_tile else (False,),
        "wide": (False, True) if can_tile else (False,),
        "norm_input": (False,),
        "norm_values": (4, 8, 16) if problem.norm else (8,),
        "block_m": (FEW_TOKENS,),
        "group_m": (16,),
        "flatten": (False,),
        "tma": (True,) if from_hopper else (False,),
        "dependent_launch": (from_hopper,),
    }


def _for_many(problem: MLPBlock, device: Device) -> Mapping[str, tuple[Value, ...]]:
    from_hopper = device.compute_capability >= 90
    tiles: dict[str, tuple[Value, ...]] = {}
    for name in ("up", "down"):
        tiles |= {
            f"{name}_block_n": (64, 128) if from_hopper else (32, 64, 128),
            f"{name}_block_k": (64, 128) if from_hopper else (32, 64),
            f"{name}_num_stages": (2, 3, 4, 5) if from_hopper else (1, 2, 3),
            f"{name}_num_warps": (4, 8),
        }
    return tiles | {
        "vector": (False,),
        "ring": (False,),
        "tiled": (True,),
        "norm_input": (False,),
        "norm_values": (32,),
        "flatten": (False, True) if from_hopper else (True,),
        "programs_per_sm": (1, 2),
        "tma": (True,) if from_hopper else (False,),
        "prefetch": (1,),
        "dependent_launch": (from_hopper,),
    }


def _why_not(problem: MLPBlock, choice: BlockChoice, device: Device) -> str | None:
    if choice.vector != (problem.tokens == 1):
        return "`vector_gemm` is for one token, and the fastest there"
    if sum((choice.vector, choice.ring, choice.tiled)) > 1:
        return "one kernel multiplies"
    if problem.tokens > SKINNY_TOKENS and not choice.tiled:
        return f"more than {SKINNY_TOKENS} tokens are no one tile"
    if choice.norm_input and not choice.vector:
        return "only `vector_gemm` norms its input"
    if choice.wide and not (choice.tiled and choice.tma):
        return "one operand of both tiles comes by tensor descriptors, to `tile_gemm`"
    up = (choice.up_block_n, choice.up_block_k, choice.up_num_stages, choice.up_num_warps)
    down = (choice.down_block_n, choice.down_block_k, choice.down_num_stages, choice.down_num_warps)
    for product, tile in ((gate_up_product(problem), up), (down_product(problem), down)):
        reason = _why_not_product(product, choice, *tile, device)
        if reason:
            return reason
    return None


def _why_not_product(
    product: Product, choice: BlockChoice, block_n: int, block_k: int, stages: int, warps: int, device: Device
) -> str | None:
    threads = warps * device.warp_size
    if choice.vector:
        return _why_not_vector(product, block_n, block_k, stages, threads)
    if block_n < 16 or block_k > 256:
        return "matrix instructions want 16 rows, and steps of 256 columns at most"
    if choice.ring and (block_n % (16 * warps) or block_k != 64):
        return "the ring has steps of 64 columns, and 16 rows for every warp"
    block_m = choice.block_m if choice.tiled else max(8 if choice.ring else 16, next_power_of_2(product.tokens))
    registers = 2 * block_m * block_n // threads
    most = 2 * ACCUMULATOR_REGISTERS if device.kind == "hip" else ACCUMULATOR_REGISTERS
    if registers > most:
        return f"the accumulators alone take {registers} registers of a thread"
    resident = choice.programs_per_sm
    buffered_bytes = 2 * block_k * (block_m + 2 * block_n) * max(1, stages - (device.kind == "hip"))
    exchanged_bytes = 2 * block_m * block_n if choice.tiled and choice.flatten else 0
    held = resident * (buffered_bytes + exchanged_bytes + EPILOGUE_BYTES)
    if held > device.shared_memory_bytes:
        return f"{held} bytes of shared memory for {resident} programs of an SM, of {device.shared_memory_bytes}"
    if device.compute_capability >= 90 and 3 * held < device.shared_memory_bytes and not choice.tiled:
        return f"{held} bytes on their way to an SM are too few"
    tiles = math.ceil(product.tokens / block_m) * math.ceil(columns_of(product) / block_n)
    if choice.tiled and choice.programs_per_sm > 1 and tiles <= device.num_sms:
        return "there is no second tile for an SM"
    return None


def _why_not_vector(product: Product, block_n: int, block_k: int, stages: int, threads: int) -> str | None:
    if block_k >= 2 * product.k:
        return f"a step of {block_k} columns is half empty: there are {product.k}"
    if stages > 1 and block_k >= product.k:
        return "a single step has no stages"
    values = 2 * block_n * block_k // threads
    if values > VECTOR_VALUES:
        return f"{values} sums for a thread"
    if block_k < 4 * threads or values < 16:
        return "a thread would load less than 8 bytes of a row at a time, or have less than 32 on their way"
    return None


def _work(problem: MLPBlock, choice: BlockChoice, device: Device) -> Work:
    """Tokens are padded to tiles; parts of K leave their sums in fp32."""
    state = plan_from(problem, choice, device)
    extra_bytes = 0
    for plan in (state.gate_up, state.down):
        if plan.splits > 1:
            extra_bytes += 2 * plan.tiles_n * plan.splits * 2 * plan.block_m * plan.block_n * 4
    rows = math.ceil(problem.tokens / state.gate_up.block_m)
    return Work(
        flops_factor=rows * state.gate_up.block_m / problem.tokens,
        extra_bytes=extra_bytes,
        hidden_launches=(1 + (state.norm is not None)) * int(choice.dependent_launch),
    )


BLOCK = Space(
    template="triton_block",
    what="block",
    about=ABOUT,
    choice=BlockChoice,
    values=_values,
    why_not=_why_not,
    choice_for=choice_for,
    plan_from=plan_from,
    facts=facts,
    work=_work,
    tasks=("block",),
    narrowed=_narrowed,
)
