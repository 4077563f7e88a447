"""In the worker: one kernel of those that are timed together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kernels.kernel import Kernel
from kernels.problem import Inputs, Problem

from ..device.timer import TimedCall


@dataclass(slots=True)  # an instance's methods cannot be replaced
class Contestant:
    """One kernel on one problem, planned and warmed up."""

    kernel_id: str
    kernel: Kernel
    problem: Problem
    """As the kernel's own tree defines it."""
    inputs: Inputs
    """Its own handles of the inputs' memory."""
    state: Any
    plan_us: float
    host_us: float
    prepare_s: float
    calls: list[TimedCall]
