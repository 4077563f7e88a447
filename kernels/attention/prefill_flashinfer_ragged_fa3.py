"""FlashInfer's batch prefill over ragged sequences, backend fa3: for Hopper. See _prefill_flashinfer.py."""

from __future__ import annotations

from functools import partial

from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from . import _prefill_flashinfer

KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=partial(_prefill_flashinfer.unsupported, backend="fa3"),
    requires=("flashinfer",),
    plan=partial(_prefill_flashinfer.plan_ragged, backend="fa3"),
    run=_prefill_flashinfer.run_ragged,
    version=flashinfer_version,
    output_factors=_prefill_flashinfer.LSE_FACTOR,
)
