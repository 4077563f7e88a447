"""`--compile-only`: all selected cases, compiled in parallel when the first result is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernels.device import Device

from .measure.compile import Case, CompileResult, compile_all

CASE_TIMEOUT_S = 300.0


@dataclass
class CompileRun:
    """Callable with a kernel's and a problem's id; gives the `CompileResult`."""

    root: Path
    device: Device
    cases: Sequence[Case]
    say: Callable[[str], None]
    results: dict[Case, CompileResult] = field(default_factory=dict)

    def __call__(self, kernel: str, problem: str) -> CompileResult:
        """What one case compiled to."""
        if not self.results:
            self._compile()
        return self.results[kernel, problem]

    def _compile(self) -> None:
        jobs = os.cpu_count() or 1
        for result in compile_all(self.cases, self.device, jobs, CASE_TIMEOUT_S, root=self.root):
            self.results[result.kernel, result.problem] = result
            self.say(f"compiled {len(self.results)} of {len(self.cases)} cases for {self.device.arch}")
