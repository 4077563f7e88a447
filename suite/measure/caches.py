"""Cache states before a timed call: cold is flushed, warm is touched after the flush."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kernels.device import Device
from kernels.problem import Inputs, Problem, Residency

from .process_settings import cuda_driver
from .tampering import Tampered

GPU_FLUSH_FACTOR = 4
"""Flushed bytes over last-level cache bytes: 240 MB on an H200; on an MI300X with its 256 MB, 1 GiB."""
CPU_FLUSH_FACTOR = 2
MIN_FLUSH_BYTES = 64 << 20


def flush_and_touch(problem: Problem, inputs: Inputs, torch_device: str, cache_bytes: int) -> Callable[[], None]:
    """What to enqueue before a timed call.

    The flush only reads: reading evicts what lay in the caches, and writes back what was dirty, before the interval
    begins. Then every warm input is read once.
    """
    factor = CPU_FLUSH_FACTOR if torch_device == "cpu" else GPU_FLUSH_FACTOR
    size = max(MIN_FLUSH_BYTES, factor * cache_bytes)
    buffer = torch.arange(1, size // 8 + 1, dtype=torch.int64, device=torch_device)
    warm = [t.view(-1).view(torch.uint8) for name, t in inputs.items() if problem.residency[name] is Residency.WARM]

    whole = int(buffer.sum())

    def before() -> None:
        found = buffer.sum()
        if found.is_cpu and int(found) != whole:  # or pages of it were dropped: one of zeros would be read for all
            raise Tampered("What is read to flush the caches before a call is not what it was.")
        for tensor in warm:
            if tensor.numel():
                tensor.amax()

    return before


def reset_persisting_lines(device: Device) -> None:
    """Before a flush on an NVIDIA GPU: lines that a kernel read with `evict_last` lose their privilege.

    On an H200 a kernel that read 8 MB so took 3.0 us after a flush of 240 MB instead of 3.4 us; after this, 3.4 us.
    Takes effect for what has run, hence the wait.
    """
    driver = cuda_driver() if device.kind == "cuda" else None
    if driver is not None:
        torch.cuda.synchronize()
        driver.cuCtxResetPersistingL2Cache()
