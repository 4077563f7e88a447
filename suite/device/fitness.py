"""Whether a GPU can be judged on at all right now. An unfit runner is a fact about the run, never a kernel's red."""

from __future__ import annotations

from .clocks import snapshot
from .detect import ChosenDevice

UNFIT_THROTTLING = frozenset({"hw_slowdown", "hw_thermal", "sw_thermal", "power_brake"})
"""Reasons that an idle GPU must not have: it is too hot, or its power supply holds it back."""


def why_unfit(chosen: ChosenDevice) -> str | None:
    """A sentence, or None. Ask before any process of one's own is on the device: all that is there is foreign."""
    if chosen.device.kind == "cpu":
        return None  # a CPU always has other processes; its bands are wide for that reason
    now = snapshot(chosen)
    if now.get("processes"):
        names = ", ".join(f"{p.get('name', 'unknown')} (pid {p['pid']})" for p in now["processes"][:5])
        return f"Other processes are on {chosen.name}: {names}. No kernel can be judged beside them: end them."
    held_back = sorted(UNFIT_THROTTLING & set(now.get("throttle_reasons", ())))
    if held_back:
        return f"{chosen.name} is throttled while idle ({', '.join(held_back)}): its cooling or power needs attention."
    return None
