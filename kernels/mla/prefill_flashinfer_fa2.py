"""FlashInfer's ragged prefill, backend fa2. See _prefill_flashinfer.py."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from . import _prefill_flashinfer

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import MLAPrefill


def supports(problem: MLAPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability < 80:
        return f"FlashInfer fa2 wants an NVIDIA GPU of compute capability 8.0 or more; this is {device.arch}"
    return None


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    requires=("flashinfer",),
    plan=partial(_prefill_flashinfer.plan, backend="fa2"),
    run=_prefill_flashinfer.run,
    version=flashinfer_version,
    output_factors=_prefill_flashinfer.LSE_FACTORS,
)
