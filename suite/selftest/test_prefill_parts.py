"""Prefill of few queries and many keys, cut into parts: how many, and the same results whatever their number."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kernels.device import Device
from kernels.prefill_split import parts_of_keys
from suite.measure.compile import PROJECT_ROOT

H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
TIMEOUT_S = 300
ANY_PARTS = """
from dataclasses import replace
import torch
from kernels.attention.prefill_triton_flash import plan as plan_flash, run as run_flash
from kernels.attention.problem import AttentionPrefill
from kernels.device import Device
from kernels.mla._prefill_problem import MLAPrefill
from kernels.mla.prefill_triton import plan as plan_mla, run as run_mla
from suite.measure.interpreter import mend

mend()
CPU = Device("cpu", "x86_64", 4, 0, 1, None)
CASES = [
    (plan_flash, run_flash, AttentionPrefill(3, 0, 0, 2, 1, 64, lengths="20x90+0x3+3x1", return_lse=True)),
    (plan_flash, run_flash, AttentionPrefill(1, 40, 100, 1, 1, 80, window=33, return_lse=True)),
    (plan_flash, run_flash, AttentionPrefill(1, 20, 70, 2, 2, 64, causal=False)),
    (plan_mla, run_mla, MLAPrefill(2, 70, 200, 2, lengths="uniform")),
    (plan_mla, run_mla, MLAPrefill(1, 129, 320, 1)),
]
for plan, run, problem in CASES:
    inputs = problem.make_inputs(1, "cpu")
    chosen = plan(problem, inputs, CPU)
    whole = run(inputs, replace(chosen, parts=1))
    for parts in (2, 3, 5, 17):  # some begin at the diagonal, some hold no key
        for name, cut in run(inputs, replace(chosen, parts=parts)).items():
            torch.testing.assert_close(cut, whole[name], atol=0.02, rtol=0.02, msg=f"{problem.id} {parts} {name}")
"""


@pytest.mark.parametrize(
    ("programs", "keys", "parts"),
    [(32, 100_000, 4), (16, 30_000, 8), (70, 9000, 5), (128, 100_000, 1), (1024, 100_000, 1), (32, 1000, 1), (0, 9, 1)],
)
def test_keys_are_cut_until_the_device_is_busy(programs: int, keys: int, parts: int) -> None:
    assert parts_of_keys(programs, keys, H200) == parts


def test_parts_give_what_all_keys_give() -> None:
    command, environment = [sys.executable, "-c", ANY_PARTS], os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
