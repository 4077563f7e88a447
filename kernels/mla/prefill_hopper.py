"""MLA prefill in Gluon, for Hopper: prefill_triton with the kernel in `_prefill_hopper`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kernel import Kernel, Origin
from ._prefill_plan import plan_hopper
from .prefill_triton import run

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import MLAPrefill


def supports(problem: MLAPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability != 90:
        return f"its products are Hopper's, sm_90; this is {device.arch}"
    return None


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("prefill",),
    supports=supports,
    run=run,
    plan=plan_hopper,
    requires=("triton",),
    uses_triton=True,
)
