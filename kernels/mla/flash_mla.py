"""FlashMLA from its own package. See _flash_mla.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..installed import package_version
from ..kernel import Kernel, Origin
from . import _flash_mla

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs
    from .problem import MLADecode


def plan(problem: MLADecode, plan_inputs: Inputs, device: Device) -> _flash_mla.Plan:
    """FlashMLA's scheduling, by this build."""
    import flash_mla

    return _flash_mla.plan(flash_mla, problem, plan_inputs)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=_flash_mla.supports,
    requires=("flash_mla",),
    plan=plan,
    run=_flash_mla.run,
    version=package_version("flash_mla"),
)
