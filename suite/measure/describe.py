"""In the worker: what is here. Which kernels can run which problems, their versions, the device's ceilings."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from kernels import discover
from kernels.device import Device
from kernels.kernel import Kernel

from .execute import said, why_not
from .interpreter import mend
from .tampering import Tampered, load_watched


def warm_up(kernels: list[str], libraries: list[str]) -> dict[str, Any]:
    """Import what is slow to import, and touch no device. What fails here fails again where it is reported."""
    from . import interleave  # noqa: F401 - imported to be there

    for kernel_id in kernels:
        try:
            kernel = load_watched(kernel_id, kernel_id in libraries)
            for module in kernel.requires:
                __import__(module)
            kernel.warm_up()
        except BaseException:  # noqa: BLE001 - see the docstring
            continue
    return {"status": "ran"}


def start(device: dict[str, Any], base_root: str | None, torch_index: int) -> dict[str, Any]:
    """Import what is slow to import, take the device, load the base commit's tree. Must be the first request."""
    import torch

    if os.environ.get("TRITON_INTERPRET") == "1":
        mend()
    if base_root:
        discover.load_tree(Path(base_root), discover.BASE_PACKAGE)
    if device["kind"] != "cpu":
        torch.cuda.set_device(torch_index)
        torch.zeros(1, device="cuda")
    return {"status": "ran"}


def describe(kernels: list[str], libraries: list[str], problems: list[str], device: dict[str, Any]) -> dict[str, Any]:
    """{unsupported: {kernel: {problem: why}}, versions, factors, broken: {kernel: why}} for every pair given.

    `reasons` holds a reason code for those whose import tampered with the process.
    """
    target = Device(**device)
    unsupported: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    factors: dict[str, dict[str, float]] = {}
    broken: dict[str, str] = {}
    codes: dict[str, str] = {}
    for kernel_id in kernels:
        try:
            kernel = load_watched(kernel_id, kernel_id in libraries)
            family = kernel_id.removeprefix(discover.BASE_PREFIX).partition("/")[0]
            own = [p for p in problems if p.partition("/")[0] == family]  # two families may have a task of one name
            reasons = {p: why_not(kernel, discover.problem_as_seen_by(kernel_id, p), target) for p in own}
            unsupported[kernel_id] = {p: reason for p, reason in reasons.items() if reason}
            factors[kernel_id] = _factors(kernel)
            runs = len(unsupported[kernel_id]) < len(own)
            versions[kernel_id] = _version(kernel) if runs else ""
        except Tampered as error:
            broken[kernel_id], codes[kernel_id] = str(error), "tampered"
        except BaseException as error:  # noqa: BLE001 - a kernel file of anyone's: what it raises is its own fault
            broken[kernel_id] = f"It cannot be loaded: {type(error).__name__}: {said(error)[:300]}"
    return {
        "status": "ran",
        "unsupported": unsupported,
        "versions": versions,
        "factors": factors,
        "broken": broken,
        "reasons": codes,
        "poisoned": bool(codes),
    }


def _factors(kernel: Kernel) -> dict[str, float]:
    """TypeError, as a sentence, where they are no finite numbers by output."""
    factors: Any = kernel.output_factors
    if not isinstance(factors, dict) or not all(_is_factor(*item) for item in factors.items()):
        raise TypeError(f"output_factors is {said(factors)}; it must hold finite numbers by output")
    return dict(factors)


def _is_factor(name: object, factor: object) -> bool:
    return isinstance(name, str) and isinstance(factor, float | int) and math.isfinite(factor)


def _version(kernel: Kernel) -> str:
    """TypeError, as a sentence, where it is no text."""
    version: Any = kernel.version()
    if not isinstance(version, str):
        raise TypeError(f"version returned {said(version)}; it must return a text")
    return version


def ceilings(chosen: dict[str, Any]) -> dict[str, Any]:
    """Bandwidth and matrix rate that this device reaches now."""
    from ..device.ceilings import measure_ceilings
    from ..device.detect import ChosenDevice

    return {"status": "ran", "ceilings": measure_ceilings(ChosenDevice.from_json(chosen))}
