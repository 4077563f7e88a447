"""FlashInfer's batch prefill as decode, backend fa2, with the tree's mask written out. See _decode_flashinfer.py."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from . import _decode_flashinfer

if TYPE_CHECKING:
    from ..device import Device
    from ._decode_problem import PagedDecode


def supports(problem: PagedDecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability < 80:
        return f"FlashInfer fa2 wants an NVIDIA GPU of compute capability 8.0 or more; this is {device.arch}"
    return _decode_flashinfer.head_dim_unsupported(problem)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode", "tree"),
    supports=supports,
    requires=("flashinfer",),
    plan=partial(_decode_flashinfer.plan_prefill, backend="fa2"),
    run=_decode_flashinfer.run,
    version=flashinfer_version,
    output_factors=_decode_flashinfer.OUTPUT_FACTORS,
)
