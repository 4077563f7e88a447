"""What is compiled ahead of the launches: the Triton kernels that will run, and both sides of a base for comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from kernels.device import Device

from .judge.comparisons import Comparison
from .measure.compile import compile_all
from .measure.fingerprint import fingerprints
from .selection import Selection

CASE_TIMEOUT_S = 300.0


def precompile(
    comparisons: Iterable[Comparison],
    selection: Selection,
    device: Device,
    base_root: Path | None,
    say: Callable[[str], None],
) -> None:
    """Fill Triton's disk cache for all Triton kernels that will be timed. Nothing to do on a CPU."""
    if device.kind == "cpu":
        return
    cases = {
        (kernel, c.problem): None
        for c in comparisons
        if selection.missing(c) is None
        for kernel in selection.contestants(c)
        if selection.info(kernel).uses_triton
    }
    for number, _ in enumerate(compile_all(list(cases), device, _jobs(), CASE_TIMEOUT_S, base_root=base_root), 1):
        say(f"compiled {number} of {len(cases)} cases")


def unchanged(
    comparisons: Iterable[Comparison], selection: Selection, device: Device, root: Path, base_root: Path
) -> set[str]:
    """Ids of the comparisons with a base whose two sides run the same host code and the same machine code."""
    bases = [c for c in comparisons if c.kind == "base" and c.rival]
    work = [(kernel, c.problem) for c in bases for kernel in (c.kernel, str(c.rival))]
    triton = {kernel for kernel, _ in work if selection.info(kernel).uses_triton and device.kind != "cpu"}
    prints = fingerprints(work, device, _jobs(), CASE_TIMEOUT_S, root=root, base_root=base_root, uses_triton=triton)
    return {c.id for c in bases if prints[c.kernel] is not None and prints[c.kernel] == prints[str(c.rival)]}


def _jobs() -> int:
    return os.cpu_count() or 1
