"""What takes threads or instructions from a library, past PyTorch."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from suite.measure.process_settings import all_settings  # noqa: E402 - after the skip
from suite.measure.thread_pools import told  # noqa: E402

TAKES_THREADS = {
    "omp_set_max_active_levels": ("omp_get_max_active_levels", 0),
    "omp_set_dynamic": ("omp_get_dynamic", 1),
}
FORBIDS_LATER = """
import os, time, torch
from suite.measure.thread_pools import settle_libraries
settle_libraries()
os.environ["ONEDNN_MAX_CPU_ISA"] = "SSE41"
x, times_s = torch.ones(768, 768, dtype=torch.bfloat16), []
for _ in range(4):
    began = time.perf_counter()
    x @ x
    times_s.append(time.perf_counter() - began)
print(min(times_s))
"""


@pytest.mark.parametrize("setter", TAKES_THREADS)
def test_threads_that_are_taken_past_pytorch_are_seen(setter: str) -> None:
    getter, value = TAKES_THREADS[setter]
    before = told()
    if getter not in before:
        pytest.skip("PyTorch was built without OpenMP, or with another one")
    library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))))
    getattr(library, setter)(value)
    try:
        assert told()[getter] == value != before[getter]
        if not torch.cuda.is_available():
            assert all_settings()["threads of OpenMP and MKL"] != before
    finally:
        getattr(library, setter)(before[getter])
    assert told() == before


def test_instructions_are_chosen_before_a_file_can_forbid_them() -> None:
    done = subprocess.run([sys.executable, "-c", FORBIDS_LATER], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.15  # 0.35 s where they are forbidden in time, on an x86 CPU with AVX-512
