"""FlashInfer's MLA decode, backend fa3: for Hopper. See _flashinfer.py."""

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
    if device.compute_capability != 90:
        return f"FlashInfer fa3 is written for sm_90; this is {device.arch}"
    return _flashinfer.dtypes_unsupported(problem)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("flashinfer",),
    plan=partial(_flashinfer.plan, backend="fa3"),
    run=_flashinfer.run,
    version=flashinfer_version,
)
