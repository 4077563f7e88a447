"""FlashInfer's MLA decode, backend fa2: for NVIDIA GPUs from Ampere on. See _flashinfer.py."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from . import _flashinfer

if TYPE_CHECKING:
    from ..device import Device
    from .problem import MLADecode


def supports(problem: MLADecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability < 80:
        return f"FlashInfer fa2 wants an NVIDIA GPU of compute capability 8.0 or more; this is {device.arch}"
    return _flashinfer.dtypes_unsupported(problem)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("flashinfer",),
    plan=partial(_flashinfer.plan, backend="fa2"),
    run=_flashinfer.run,
    version=flashinfer_version,
)
