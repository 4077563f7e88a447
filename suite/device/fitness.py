"""Whether a GPU can be judged on: before a run, and what became of it during one.

An unfit runner is a fact about the run, never a kernel's red.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .clocks import snapshot
from .detect import ChosenDevice
from .health import HARDWARE_XIDS

UNFIT_THROTTLING = frozenset({"hw_slowdown", "hw_thermal", "sw_thermal", "power_brake"})
"""Reasons that an idle GPU must not have: it is too hot, or its power supply holds it back."""
HOT_MS = 10.0
"""Throttled by heat for longer within one launch, its times are of another device than the claims' were."""
LOST = ("GPU is lost", "GpuIsLost")
"""In NVML's errors: the device no longer answers on its bus."""

Snapshot = Mapping[str, Any]


def why_unfit(chosen: ChosenDevice) -> str | None:
    """A sentence, or None. Ask before any process of one's own is on the device: all that is there is foreign."""
    if chosen.device.kind == "cpu":
        return None  # a CPU always has other processes; its bands are wide for that reason
    now = snapshot(chosen)
    return next((f"{chosen.name} {trouble}" for trouble in _troubles_now(now)), None)


def partition_note(chosen: ChosenDevice) -> str | None:
    """A sentence where the device is a part of a GPU, whose other parts share its power and clocks; else None."""
    mode = str(chosen.facts.get("partition_mode") or "none")
    if mode in ("none", "SPX", "SPX/NPS1"):
        return None
    return f"{chosen.name} is in partition mode {mode}: what runs on its other partitions shares its power and clocks."


def why_unfit_after(run: Mapping[str, Any]) -> str | None:
    """A sentence where the device failed, was throttled or shared during launches of a run record, which it names."""
    if run["device"]["kind"] == "cpu":
        return None
    concerned: dict[str, list[int]] = {}
    for launch in run["launches"]:
        if launch["environment"].keys() >= {"before", "after"}:
            for trouble in launch_troubles(launch["environment"]["before"], launch["environment"]["after"]):
                concerned.setdefault(trouble, []).append(launch["index"])
    if not concerned:
        return None
    told = "; ".join(f"{trouble} (launch {_numbers(indices)})" for trouble, indices in concerned.items())
    return f"{run['device']['name']} {told}. What these launches measured is not a kernel's doing."


def launch_troubles(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """What befell the device between two snapshots, each as the rest of a sentence that its name begins."""
    # A process without a name is gone, or of another PID namespace: there our own workers look like strangers.
    named = [process for process in after.get("processes", ()) if process.get("name")]
    yield from _troubles_now({**after, "processes": named})
    xids = after.get("xids", [])[len(before.get("xids", [])) :]
    failed = sorted(HARDWARE_XIDS.intersection(xids))
    if failed:
        yield f"reported Xid {', '.join(map(str, failed))}: the device or its firmware failed"
    if after.get("ecc_uncorrected", 0) > before.get("ecc_uncorrected", 0):
        yield "had a memory error that it could not correct"
    hot_ms = after.get("hot_ms", 0.0) - before.get("hot_ms", 0.0)
    if hot_ms > HOT_MS:
        yield "was throttled by heat"


def _troubles_now(now: Snapshot) -> Iterator[str]:
    """What keeps the device from being judged on at one moment, as the rest of a sentence."""
    if any(sign in error for error in now.get("errors", ()) for sign in LOST):
        yield "has fallen off its bus: NVML says that it is lost. Restart the machine"
    if now.get("rows_failed") or now.get("rows_pending"):
        yield "has memory that failed and is not replaced yet: reset it, or have it replaced"
    if now.get("processes"):
        names = ", ".join(f"{p.get('name') or 'unknown'} (pid {p['pid']})" for p in now["processes"][:5])
        yield f"is used by other processes: {names}. No kernel can be judged beside them: end them"
    held_back = sorted(UNFIT_THROTTLING & set(now.get("throttle_reasons", ())))
    if held_back:
        yield f"is throttled ({', '.join(held_back)}): its cooling or power needs attention"


def _numbers(indices: list[int], most: int = 8) -> str:
    shown = ", ".join(map(str, indices[:most]))
    return shown if len(indices) <= most else f"{shown} and {len(indices) - most} more"
