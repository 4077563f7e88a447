"""Sizes off the sweep, compiled for an H200: code that keeps values in local memory was chosen for a size beside it."""

from __future__ import annotations

import pytest

from kernels.device import Device
from suite.measure.compile import compile_all

H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
TIMEOUT_S = 120
MOST_SPILLS = 24
"""Registers. What spills outside of the loop costs little."""


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        ("gemm/triton_fp8", "linear_fp8-m100-n131-k272-outbfloat16-block-float8_e4m3fn"),  # before: 54
        ("gemm/triton_fp8", "linear_fp8-m131-n200-k400-outbfloat16-block-float8_e4m3fn"),  # 46
        ("gemm/triton_fp8", "linear_fp8-m67-n131-k332-outbfloat16-block-float8_e4m3fn"),  # 70
        ("mla/triton_split_kv", "decode-b3-q1-s500-h17-uniform-p64-bfloat16-kvfloat8_e4m3fn-scale0.072169"),  # 86
        ("mla/triton_split_kv", "decode-b3-q2-s200-h20-empties-p64-bfloat16-kvfloat8_e4m3fn-scale0.072169"),  # 138
    ],
)
def test_it_spills_few_registers(kernel: str, problem: str) -> None:
    family = kernel.split("/")[0]
    (result,) = compile_all([(kernel, f"{family}/{problem}")], H200, 1, TIMEOUT_S)
    assert result.status == "compiled", result.sentence
    assert max(launch["spilled_registers"] for launch in result.launches) <= MOST_SPILLS, result.launches
