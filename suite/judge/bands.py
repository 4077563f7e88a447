"""How much slower is still fine, how much is bad, and what a verdict may cost: by device and size of kernel.

A claim of factor c is fine while the true log-speedup is at least ln c - d0 and bad from ln c - d1 down. `d0` is at
least four times the between-run sd of the ratio of unchanged kernels; `d1` is half of the slowdown that has to be
caught. Wide bands pass regressions: with 2% and 5%, a true loss of 3% ends as `holds` in 99% of runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .evidence import SD_FLOOR

GPU_CLASSES = ((100.0, 0.005, 0.010, 24), (20.0, 0.0075, 0.015, 24), (5.0, 0.0125, 0.025, 36))
"""(kernel_us from, d0, d1, k_max): a loss of 2% must be caught from 100 us, 3% from 20 us, 5% from 5 us. On an H200
the ratio of twins moves by 0.1% to 0.4% from launch to launch in all three; that of two kernels under 20 us by 1%, once
by 2.5%, where 24 launches caught a loss of 5% in 90% of runs and 36 in 98%."""
CPU_CLASSES = ((4000.0, 0.025, 0.05, 24), (700.0, 0.05, 0.10, 24), (300.0, 0.10, 0.20, 24))
"""Launch sd on a shared 2-core machine: 1% at 4 ms, 2% at 0.7 ms, 4% at 0.3 ms."""
MOST_LAUNCHES = max(k_max for *_, k_max in GPU_CLASSES + CPU_CLASSES)
"""After so many no pair is undecided."""

GPU_TIMER_STEP_US = 0.032
"""Profiler records of an H200 advance in steps of 32 ns."""
CPU_TIMER_STEP_US = 0.1
"""`perf_counter_ns`, with room for a call of it."""


@dataclass(frozen=True)
class Bands:
    """The thresholds of a verdict. d0, d1 and sd_floor are log units: 0.01 is about 1%."""

    d0: float
    """Losses up to this are fine."""
    d1: float
    """Losses from this are bad."""
    k_min: int = 5
    """No verdict below this many launches."""
    k_max: int = 24
    """Launches at which a pair is given up as inconclusive. Stored evidence counts: a run that adds to it raises
    this by what it holds already, with `dataclasses.replace`."""
    alpha: float = 0.05
    """Chance that any of a device's claims is called regressed while all are fine."""
    beta: float = 0.05
    """Chance that a claim is said to hold while it is bad."""
    sd_floor: float = SD_FLOOR
    """Least launch sd that the timer's resolution allows to believe."""

    def __post_init__(self) -> None:
        if not 0 < self.d0 < self.d1:
            raise ValueError(f"Bands need 0 < d0 < d1, got {self.d0} and {self.d1}.")
        if not 2 <= self.k_min <= self.k_max:
            raise ValueError(f"Bands need 2 <= k_min <= k_max, got {self.k_min} and {self.k_max}.")
        if not (0 < self.alpha < 1 and 0 < self.beta < 1 and self.sd_floor > 0):
            raise ValueError("Bands need alpha and beta between 0 and 1 and a positive sd_floor.")


def bands_for(device_kind: str, kernel_us: float) -> Bands:
    """The bands of a pair on a device of kind `cuda`, `hip` or `cpu`.

    kernel_us: the shorter of the pair's two times. Take the claim's stored time where there is one, or two runs near
    a limit are judged by different bands. Below the smallest class the bands are absolute: its times its lower limit.
    """
    if device_kind not in ("cuda", "hip", "cpu"):
        raise ValueError(f"Bands are known for cuda, hip and cpu, not for {device_kind!r}.")
    if not (math.isfinite(kernel_us) and kernel_us > 0):
        raise ValueError(f"A kernel's time must be positive and finite, got {kernel_us} us.")
    classes, step_us = (CPU_CLASSES, CPU_TIMER_STEP_US) if device_kind == "cpu" else (GPU_CLASSES, GPU_TIMER_STEP_US)
    # Rounding to a step has the sd step / sqrt(12); a ratio rounds twice.
    sd_floor = max(SD_FLOOR, step_us / math.sqrt(6) / kernel_us)
    for least_us, d0, d1, k_max in classes:
        if kernel_us >= least_us:
            return Bands(d0, d1, k_max=k_max, sd_floor=sd_floor)
    smallest_us, d0, d1, k_max = classes[-1]
    wider = smallest_us / kernel_us
    return Bands(d0 * wider, d1 * wider, k_max=k_max, sd_floor=sd_floor)
