"""Into how many parts the keys of a prefill are cut: few queries make few programs, however much they attend to."""

from __future__ import annotations

import math

from .device import Device

LEAST_KEYS = 1024
"""In a part: fewer cost more to combine than further programs save. Not timed."""
MOST_TIME = 0.75
"""Of the time in one part, that parts may take: what a second launch and their results in float32 cost."""
NEARLY = 1.1
"""Of the shortest time: for less, further parts are not worth their results."""
CPU_SLOTS, CPU_KEYS = 16, 64
"""Of Triton's interpreter, which shall see both."""


def parts_of_keys(programs: int, keys: int, device: Device) -> int:
    """The least that end about soonest, where `programs` with up to `keys` keys each leave some of the device idle."""
    is_cpu = device.kind == "cpu"
    slots, least_keys = (CPU_SLOTS, CPU_KEYS) if is_cpu else (device.num_sms, LEAST_KEYS)
    if not 0 < programs < slots:
        return 1
    times = {parts: math.ceil(programs * parts / slots) / parts for parts in range(1, max(1, keys // least_keys) + 1)}
    shortest = min(times.values())
    if shortest > MOST_TIME:
        return 1
    return next(parts for parts, time in times.items() if time <= NEARLY * shortest)
