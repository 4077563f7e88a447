"""FlashInfer's prefill of a single sequence, backend fa2: from Ampere on. See _prefill_flashinfer.py."""

from __future__ import annotations

from functools import partial

from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from . import _prefill_flashinfer

KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=partial(_prefill_flashinfer.unsupported_single, backend="fa2"),
    requires=("flashinfer",),
    plan=partial(_prefill_flashinfer.plan_single, backend="fa2"),
    run=_prefill_flashinfer.run_single,
    version=flashinfer_version,
    output_factors=_prefill_flashinfer.LSE_FACTOR,
)
