"""FlashInfer's batch prefill as decode, backend fa3, for Hopper; it knows no custom mask. See _decode_flashinfer.py."""

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
    if device.compute_capability != 90:
        return f"FlashInfer fa3 is written for sm_90; this is {device.arch}"
    if problem.is_fp8:
        return f"FlashInfer fa3 wants queries of the cache's dtype; these are {problem.dtype} and {problem.kv_dtype}"
    return _decode_flashinfer.head_dim_unsupported(problem)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("flashinfer",),
    plan=partial(_decode_flashinfer.plan_prefill, backend="fa3"),
    run=_decode_flashinfer.run,
    version=flashinfer_version,
    output_factors=_decode_flashinfer.OUTPUT_FACTORS,
)
