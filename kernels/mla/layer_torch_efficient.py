"""The whole MLA layer by torch alone, its attention by memory-efficient SDPA. See _layer_torch.py."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import torch_sdpa_efficient as attention
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
