"""What kernels of these families choose for sizes off the sweep: no idle SMs, no tiles past what a thread can hold."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kernels.device import Device
from kernels.gemm._linear_plan import choice_for
from kernels.gemm._stream_k_plan import Tile, stream_k
from kernels.gemm.problem import Linear
from kernels.kv import _rope_append_plan
from kernels.kv._plan import RowsPlan
from kernels.kv.problem import RopeAppend
from kernels.mlp import _block_plan, _qkv_plan
from kernels.mlp.problem import MLPBlock, QKVProjection
from suite.measure.compile import PROJECT_ROOT, compile_all

H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
SEARCHED = Tile(16, 64, 64, num_warps=4, num_stages=10, combine="together")
TIMEOUT_S = 120
WRAPS = """
import torch, triton, triton.language as tl
from kernels.gemm._stream_k import CALL, _wait_for_all

@triton.jit
def arrive(counter, is_first, shares):
    _wait_for_all(counter, is_first, shares)

for calls in (0, 1, 2**15 - 1, 2**15, 2**16 - 1):  # at the last share of three, whether the first came before or not
    for others, is_first in ((CALL.value - 3 + 1 + 1, False), (2, True)):
        before = (calls * CALL.value + others + 2**31) % 2**32 - 2**31
        counter = torch.tensor([before], dtype=torch.int32)
        arrive[(1,)](counter, is_first, 3)
        assert counter.item() % 2**32 == (calls + 1) * CALL.value % 2**32, (calls, is_first, counter)
"""


@pytest.mark.parametrize("problem", [Linear(32, 4096, 512), Linear(17, 1, 100)], ids=lambda p: p.id)
def test_no_share_waits_for_others_of_a_whole_tile(problem: Linear) -> None:
    """Whole tiles have no counters to wait at."""
    state = stream_k(problem, SEARCHED, H200)
    assert not state.is_split
    assert state.combine != "together"


@pytest.mark.parametrize("problem", [Linear(256, 10240, 8192), Linear(1000, 2112, 7168)], ids=lambda p: p.id)
def test_a_wave_of_few_tiles_is_shared(problem: Linear) -> None:
    """A few tiles more than SMs would take twice as long as one wave."""
    state = stream_k(problem, choice_for(problem, H200), H200)
    assert state.num_tiles > H200.num_sms >= state.num_programs
    assert state.num_programs * state.per_program <= 1.05 * state.num_tiles * state.steps


def test_no_second_kernel_for_a_step_or_two() -> None:
    """112 tiles of 9 steps for 132 SMs: shares of 8 would save less than adding them takes."""
    problem = Linear(129, 7168, 576)
    assert not stream_k(problem, choice_for(problem, H200), H200).is_split


def test_no_program_adds_megabytes_alone() -> None:
    tile = Tile(128, 256, 64, num_warps=8, num_stages=4, combine="arrival")
    assert stream_k(Linear(1000, 256, 7168), tile, H200).combine == "second"
    assert stream_k(Linear(4096, 8192, 8192), tile, H200).combine == "arrival"


@pytest.mark.parametrize("problem", [Linear(4095, 24, 4096), Linear(48, 24, 16384), Linear(600, 256, 7168)])
def test_narrow_outputs_get_narrow_tiles(problem: Linear) -> None:
    tile = choice_for(problem, H200)
    assert tile.block_n <= max(64, problem.n)
    assert stream_k(problem, tile, H200).num_programs >= H200.num_sms // 3


def test_wide_heads_and_odd_rows_get_tiles_that_threads_can_hold() -> None:
    """Compiled for sm_90, 128 rows of heads of 256 spill 320 registers, and steps of 64 odd columns 202."""
    widths = {d: _qkv_plan.choice_for(QKVProjection(129, 3072, 16, 1, True, d), H200) for d in (128, 192, 256)}
    assert [tile.block_m for tile in widths.values()] == [128, 64, 64]
    choice = _block_plan.choice_for(MLPBlock(33, 1001, 2000), H200)
    assert (choice.up_block_k, choice.down_block_k) == (32, 128)


def test_few_rows_of_a_weight_are_split_for_up_to_128_tokens() -> None:
    """56 tiles of 18944 columns for 132 SMs, else."""
    plan = _block_plan.plan(MLPBlock(100, 3584, 18944), {}, H200)
    assert not plan.down.tiled
    assert 0.8 * H200.num_sms <= plan.down.tiles_n * plan.down.splits <= H200.num_sms
    qkv = _qkv_plan.plan(QKVProjection(100, 3584, 28, 4, True), {}, H200).gemm
    assert 0.8 * H200.num_sms <= qkv.tiles_n * qkv.splits <= H200.num_sms


def test_no_second_wave_of_few_tiles() -> None:
    """168 narrow tiles for 132 SMs take as long as 84 wide ones, which read x half as often."""
    assert _block_plan.plan(MLPBlock(300, 7168, 18432), {}, H200).down.num_programs == 84


@pytest.mark.parametrize(("head_dim", "tokens"), [(64, 16), (128, 16), (192, 8), (256, 8)])
def test_what_was_chosen_for_heads_of_128_fits_wider_ones(head_dim: int, tokens: int) -> None:
    problem = RopeAppend(8193, 1, num_pages=4096, head_dim=head_dim, rotary_dim=head_dim)
    searched = RowsPlan(block_tokens=16, block_heads=4, num_warps=2)
    assert _rope_append_plan.plan_from(problem, searched, H200).block_tokens == tokens


def test_rows_of_an_even_length_are_loaded_ahead() -> None:
    """Of 200 values, 16 bytes at once: all stages of the tile then lie in shared memory."""
    problem, stages = Linear(131, 104, 200, out_dtype="float32"), 8
    assert choice_for(problem, H200).num_stages >= stages
    (result,) = compile_all([("gemm/triton_stream_k", f"gemm/{problem.id}")], H200, 1, TIMEOUT_S)
    assert result.launches[0]["shared_memory_bytes"] >= stages * (128 + 64) * 64 * 2


def test_counters_of_shares_that_wait_wrap_after_32768_calls() -> None:
    """The last share to arrive goes on, and leaves a multiple of CALL."""
    command, environment = [sys.executable, "-c", WRAPS], os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
