"""A kernel that changes the process that it shares with rivals and timer is named, with what it changed."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kernels.mla import torch_sdpa_math  # noqa: E402 - after the skip
from suite.device import timer  # noqa: E402
from suite.measure import process_settings  # noqa: E402
from suite.measure.malloc import M_PERTURB, WRITTEN, keep_blocks, keeps_content  # noqa: E402
from suite.measure.process_settings import put_back, torch_settings  # noqa: E402
from suite.measure.tampering import Tampered, keeps_computing, untouched  # noqa: E402


def replace(owner: object, name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """(replace a function by another that does the same, put it back)."""
    original = getattr(owner, name)

    def other(*arguments: object, **named: object) -> object:
        return original(*arguments, **named)

    return lambda: setattr(owner, name, other), lambda: setattr(owner, name, original)


def other_code() -> None:
    """The function object stays; what it does does not."""
    statistics.median.__code__ = statistics.median_low.__code__


ADDS_A_HOOK = "import sys\nsys.addaudithook(lambda event, arguments: None)"
PROFILER = torch.autograd.profiler.profile()
RIVAL: Any = torch_sdpa_math.KERNEL
MEDIAN = statistics.median.__code__
CASES = {
    "time.perf_counter_ns was replaced": replace(time, "perf_counter_ns"),
    "torch.allclose was replaced": replace(torch, "allclose"),
    "Tensor.clone was replaced": replace(torch.Tensor, "clone"),
    "suite.device.timer.PerfCounter.measure was replaced": replace(timer.PerfCounter, "measure"),
    "statistics.median was replaced": (other_code, lambda: setattr(statistics.median, "__code__", MEDIAN)),
    "num_threads from": (lambda: torch.set_num_threads(torch.get_num_threads() + 1),
                         lambda: torch.set_num_threads(torch.get_num_threads() - 1)),
    r"environment \(KERNELGATE_SELFTEST\)": (lambda: os.environ.update(KERNELGATE_SELFTEST="1"),
                                           lambda: os.environ.__delitem__("KERNELGATE_SELFTEST")),
    "garbage collection from": (gc.disable, gc.enable),
    "switch interval from": (lambda: sys.setswitchinterval(0.5), lambda: sys.setswitchinterval(0.005)),
    r"backends \(torch.backends.mkldnn.enabled\)": (lambda: setattr(torch.backends.mkldnn, "enabled", False),
                                                   lambda: setattr(torch.backends.mkldnn, "enabled", True)),
    "denormal numbers from": (lambda: torch.set_flush_denormal(True), lambda: torch.set_flush_denormal(False)),
    "audit hooks from": (lambda: exec(ADDS_A_HOOK, {"__name__": "kernels.mla.candidate"}), lambda: None),
    "interval timers from": (lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 1000.0) and None,
                             lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 0.0) and None),
    "profiler from": (lambda: PROFILER.__enter__() and None, lambda: PROFILER.__exit__(None, None, None)),
    r"kernels.mla.torch_sdpa_math.KERNEL.run was replaced": (
        lambda: RIVAL.run.__setstate__((RIVAL.run.func, (print,), {}, {})),
        lambda: RIVAL.run.__setstate__((RIVAL.run.func, (torch_sdpa_math.attend,), {}, {}))),
    r"signal handlers \(10\)": (lambda: signal.signal(signal.SIGUSR1, print),
                             lambda: signal.signal(signal.SIGUSR1, signal.SIG_DFL)),
}  # fmt: skip


@pytest.mark.parametrize("words", CASES)
def test_a_change_is_named(words: str) -> None:
    change, put_back = CASES[words]
    try:
        with pytest.raises(Tampered, match=words), untouched("here"):
            change()
    finally:
        put_back()


@pytest.fixture
def two_kernels(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A candidate's source beside the file that was made for it, and a rival."""
    made = []
    for name in ("kernels.mla.generated._mine", "kernels.mla.rival"):
        module = ModuleType(name)
        exec("CALLS = 0\ndef attend():\n    pass\nclass Tuner:\n    best = min\n", vars(module))
        monkeypatch.setitem(sys.modules, name, module)
        made.append(module)
    return made[0], made[1]


def changes_itself(module: Any) -> None:
    module.CALLS += 1
    module.attend = print
    module.Tuner.best = max


def test_a_kernel_may_change_its_own_counters_functions_and_classes(two_kernels: tuple[Any, Any]) -> None:
    mine, rival = two_kernels
    with untouched("here", "kernels.mla.generated.mine") as found:
        changes_itself(mine)
        changing = found.own_changes()
    assert changing == {f"{mine.__name__}.{name}" for name in ("CALLS", "attend", "Tuner.best")}
    with untouched("in timed calls", changing=changing):
        mine.CALLS += 1
    with (
        pytest.raises(Tampered, match=r"kernels\.mla\.rival\.CALLS was replaced; kernels\.mla\.rival\.attend"),
        untouched("here", "kernels.mla.generated.mine", changing=changing),
    ):
        changes_itself(rival)


def test_what_scripts_set_at_their_top_is_put_back_after_an_import() -> None:
    with untouched("here"), put_back():
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        os.environ["TORCH_CUDA_ARCH_LIST"] = "9.0"
        os.environ.pop("HOME", None)


@put_back()
def fails_halfway() -> None:
    os.environ["KERNELGATE_SELFTEST"] = "1"
    raise ImportError


def test_what_is_set_by_an_import_that_fails_is_put_back_as_well() -> None:
    with untouched("here"), pytest.raises(ImportError):
        fails_halfway()


def test_a_block_that_changes_nothing_passes() -> None:
    with untouched("here"):
        torch.ones(3).sum()
        with torch.random.fork_rng():
            torch.manual_seed(3)


def test_a_change_that_is_undone_passes() -> None:
    with untouched("here"):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        torch.set_num_threads(threads)


def test_what_a_library_replaces_is_its_own_affair_and_what_it_sets_in_torch_is_put_back() -> None:
    change, put_back = CASES["torch.allclose was replaced"]
    before = torch_settings()
    with untouched("here", library=True):
        change()
        torch.set_default_dtype(torch.float64)
        torch.backends.cuda.enable_cudnn_sdp(not torch.backends.cuda.cudnn_sdp_enabled())
        torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.set_default_device("meta")
    put_back()
    assert torch_settings() == before


def test_what_cannot_be_put_back_a_library_answers_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(value: object) -> None:
        raise RuntimeError

    monkeypatch.setitem(process_settings._SETTERS, "default_dtype", fails)
    with pytest.raises(Tampered, match="default_dtype"), untouched("here", library=True):
        torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)


def test_niceness_of_another_thread_is_seen() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with pytest.raises(Tampered, match="niceness or scheduler of a thread"), untouched("here"):
            os.setpriority(os.PRIO_PROCESS, thread.native_id or 0, 5)
    finally:
        end.set()
        thread.join()


def test_a_thread_that_goes_on_is_seen() -> None:
    goes_on, begun = True, threading.Event()

    def compute() -> None:
        while goes_on:
            torch.ones(64, 64) @ torch.ones(64, 64)
            begun.set()

    assert not keeps_computing()
    thread = threading.Thread(target=compute)
    thread.start()
    try:
        assert begun.wait(30)  # its first product may be slow to start
        assert keeps_computing()
    finally:
        goes_on = False
        thread.join()


def test_an_audit_hook_that_a_library_adds_is_no_kernels_doing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernelgate_example_library.py").write_text(ADDS_A_HOOK)
    monkeypatch.syspath_prepend(tmp_path)
    with untouched("when it was run"):
        library = importlib.import_module("kernelgate_example_library")
    with pytest.raises(Tampered, match="audit hooks from"), untouched("when it was run"):
        exec(f"{ADDS_A_HOOK} or print()", vars(library))  # code that is not the library's, among its names
    sys.modules.pop(library.__name__)


GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not GLIBC, reason="glibc's malloc alone is asked")
def test_a_malloc_that_fills_memory_is_seen_and_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keeps_content() is None, "where kernels are checked it fills memory, as it was told to"
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")  # as where they are timed
    assert keeps_content()
    for byte in (0x55, *WRITTEN):
        ctypes.CDLL(None).mallopt(M_PERTURB, byte)
        fills = not keeps_content()
        keep_blocks()
        assert fills
        assert keeps_content()


@pytest.mark.skipif(not GLIBC, reason="glibc's malloc alone is told")
def test_malloc_maps_no_block_by_itself_after_it_was_told_again() -> None:
    """In a process of its own: this one goes on with its own settings."""
    script = """
import ctypes
from suite.measure.malloc import LARGE_BYTES, M_MMAP_MAX, keep_blocks, large_blocks
libc = ctypes.CDLL(None)
libc.mallopt(M_MMAP_MAX, 1 << 16)
libc.mallopt(-3, 1 << 17)  # from 128 KiB on
before = large_blocks()
keep_blocks()
print(before, large_blocks())
"""
    environment = os.environ | {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split("\n")[0] == "(True, False) (False, False)"
