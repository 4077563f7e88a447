"""What this very device reaches, measured: reports give fractions of the data sheet's peaks and of these.

Runs in a process that owns the device; torch is imported inside. About a second.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .detect import ChosenDevice

if TYPE_CHECKING:
    import torch

GPU_BUFFER_BYTES = 4 << 30
"""Of each side of the copy on a GPU, where its memory allows: large against every cache."""
CPU_BUFFER_BYTES = 256 << 20
"""Likewise on a CPU, where first touching memory is what costs time: the copy moves 512 MB."""
MEMORY_SHARE = 16
"""A buffer takes at most this part of the device's memory."""
GPU_MATMUL_SIZE = 8192
CPU_MATMUL_SIZE = 2048
GPU_REPEATS = 20
CPU_REPEATS = 5

Timer = Callable[[Callable[[], object]], float]


def measure_ceilings(chosen: ChosenDevice) -> dict[str, float]:
    """Medians of repeated calls; operands are random, because zeros let clocks rise.

    Returns:
        copy_bytes_per_s: bytes read plus bytes written by a device-to-device copy, a second.
        read_bytes_per_s: bytes read by a sum over float32, a second.
        matmul_bf16_flops_per_s: a GPU's bf16 product of two 8192 x 8192 matrices.
        matmul_fp32_flops_per_s: a CPU's fp32 product of two 2048 x 2048 matrices.

    Raises:
        RuntimeError: whatever torch raises, out of memory among others.
    """
    import torch

    if chosen.device.kind == "cpu":
        rates = _memory_rates(torch.device("cpu"), buffer_bytes(chosen), _cpu_timer)
        flops_per_s = _matmul_flops_per_s(torch.device("cpu"), CPU_MATMUL_SIZE, torch.float32, _cpu_timer)
        return {**rates, "matmul_fp32_flops_per_s": flops_per_s}
    device = torch.device(chosen.device.torch_name, chosen.index)
    with torch.cuda.device(device):
        rates = _memory_rates(device, buffer_bytes(chosen), _gpu_timer)
        flops_per_s = _matmul_flops_per_s(device, GPU_MATMUL_SIZE, torch.bfloat16, _gpu_timer)
        torch.cuda.empty_cache()  # the buffers are of no use to what is measured next
    return {**rates, "matmul_bf16_flops_per_s": flops_per_s}


def buffer_bytes(chosen: ChosenDevice) -> int:
    """Size of one side of the copy: four last-level caches at least, a share of the memory at most; whole MiB."""
    wanted = CPU_BUFFER_BYTES if chosen.device.kind == "cpu" else GPU_BUFFER_BYTES
    wanted = max(wanted, 4 * chosen.last_level_cache_bytes)
    return max(1, min(wanted, chosen.memory_bytes // MEMORY_SHARE) >> 20) << 20


def _memory_rates(device: torch.device, num_bytes: int, timer: Timer) -> dict[str, float]:
    import torch

    source = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return {
        "copy_bytes_per_s": 2 * num_bytes / timer(lambda: target.copy_(source)),
        "read_bytes_per_s": num_bytes / timer(source.sum),
    }


def _matmul_flops_per_s(device: torch.device, size: int, dtype: torch.dtype, timer: Timer) -> float:
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> Any:
        return torch.mm(a, b, out=out)

    return 2 * size**3 / timer(product)


def _gpu_timer(call: Callable[[], object]) -> float:
    """Median seconds of a call by events, enqueued back to back; their constant of some us vanishes in milliseconds."""
    import torch

    for _ in range(3):
        call()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(GPU_REPEATS)]
    for start, end in pairs:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(float(start.elapsed_time(end)) for start, end in pairs) / 1e3


def _cpu_timer(call: Callable[[], object]) -> float:
    """Median seconds of a call, after one that warms up."""
    call()
    seconds = []
    for _ in range(CPU_REPEATS):
        start_ns = time.perf_counter_ns()
        call()
        seconds.append((time.perf_counter_ns() - start_ns) / 1e9)
    return statistics.median(seconds)
