"""The whole MLA layer by torch, with FlashInfer's decode, backend fa3. See _layer_torch.py."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import flashinfer_fa3 as attention
from ._layer_torch import plan_with, run_with, supports_with

KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("layer",),
    supports=supports_with(attention.KERNEL),
    requires=attention.KERNEL.requires,
    plan=plan_with(attention.KERNEL),
    run=run_with(attention.KERNEL),
    version=attention.KERNEL.version,
)
