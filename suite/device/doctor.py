"""What is here, as plain text: `kernelgate doctor`. Works on what it is given; looks at nothing itself."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .clocks import Snapshot
from .detect import ChosenDevice, Detected, what_is_here
from .specs import DeviceSpec, load_specs

INDENT = " " * 4


@dataclass(frozen=True)
class KernelStatus:
    """Whether one kernel can run on the device that `--gpu auto` chooses."""

    kernel: str
    """`mla/triton_split_kv`."""
    origin: str
    reason: str | None
    """Why it cannot run; None: it can."""


def report(
    detected: Detected,
    devices: Sequence[tuple[ChosenDevice, Snapshot]],
    kernels: Sequence[KernelStatus] = (),
    problems: Iterable[str] = (),
) -> str:
    """The whole page.

    Args:
        detected: what was found.
        devices: `choose_all(detected)`, each with its `clocks.snapshot`.
        kernels: every kernel, and why it cannot run where it cannot.
        problems: sentences to add to those of detection.
    """
    all_problems = [*detected.problems, *problems]
    sections = [
        [what_is_here(detected)],
        ["Devices", *(line for chosen, now in devices for line in _device_lines(chosen, now))],
        ["Versions", *_version_lines(detected)],
        ["Kernels", *_kernel_lines(kernels)] if kernels else [],
        ["Problems", *(f"  {problem}" for problem in all_problems)] if all_problems else [],
        ["Without the device: --compile-only with --gpu " + ", ".join(_compilable())],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _device_lines(chosen: ChosenDevice, now: Snapshot) -> Iterator[str]:
    device = chosen.device
    unit = "cores" if device.kind == "cpu" else "CUs" if device.kind == "hip" else "SMs"
    yield f"  --gpu {chosen.key}"
    sizes = (
        f"{_gib(chosen.memory_bytes)} of memory, {chosen.last_level_cache_bytes / 2**20:.0f} MiB of last-level cache"
    )
    yield f"{INDENT}{chosen.name}: {device.arch}, {device.num_sms} {unit}, {sizes}"
    if device.kind != "cpu":
        facts = (f"{label} {chosen.facts[key]}" for key, label in _FACT_LABELS.items() if key in chosen.facts)
        yield INDENT + ", ".join([f"index {chosen.index}", chosen.uuid or "no UUID", *facts])
        yield INDENT + _peaks(chosen.spec)
    yield f"{INDENT}now: {_state(now)}"
    for process in now["processes"]:
        held = "" if process["memory_bytes"] is None else f", holds {_gib(process['memory_bytes'])}"
        yield f"{INDENT}also used by process {process['pid']} ({process['name'] or 'name unknown'}{held})"
    for error in now["errors"]:
        yield f"{INDENT}not read: {error}"


_FACT_LABELS = {"driver": "driver", "runtime": "runtime", "partition_mode": "partition", "pci_bus_id": "PCI"}


def _peaks(spec: DeviceSpec | None) -> str:
    if spec is None:
        return "not on the data sheet: measured and judged as any other, without fractions of a peak"
    peaks = [f"{dtype} {flops / 1e12:g} TFLOP/s" for dtype, flops in spec.peak_flops.items()]
    if spec.bandwidth_bytes_per_s is not None:
        peaks.insert(0, f"{spec.bandwidth_bytes_per_s / 1e12:g} TB/s")
    return "data sheet, dense: " + ", ".join(peaks)


def _state(now: Snapshot) -> str:
    shown = [f"{label} {now[key]:.{digits}f}{unit}" for key, label, unit, digits in _STATE_LABELS if key in now]
    if "throttle_reasons" in now:
        shown.append(
            f"throttled by {', '.join(now['throttle_reasons'])}" if now["throttle_reasons"] else "not throttled"
        )
    return ", ".join(shown) or "nothing can be read"


_STATE_LABELS = (
    ("sm_mhz", "clock", " MHz", 0),
    ("memory_mhz", "memory", " MHz", 0),
    ("power_w", "power", " W", 0),
    ("power_limit_w", "of", " W", 0),
    ("temperature_c", "temperature", " C", 0),
    ("load_average_1min", "load", "", 2),
)


def _version_lines(detected: Detected) -> Iterator[str]:
    yield f"  Python {platform.python_version()} on {platform.system()} {platform.release()} ({platform.machine()})"
    yield f"  PyTorch {detected.torch or 'is missing'}"
    yield f"  Triton {detected.triton or 'is missing: Triton kernels cannot run or compile here'}"


def _kernel_lines(kernels: Sequence[KernelStatus]) -> Iterator[str]:
    width = max(len(status.kernel) for status in kernels)
    for status in sorted(kernels, key=lambda status: (status.reason is not None, status.kernel)):
        verdict = "can run" if status.reason is None else f"cannot run: {status.reason}"
        yield f"  {status.kernel:{width}}  {status.origin:9}  {verdict}"


def _compilable() -> list[str]:
    return [spec.key for spec in load_specs() if spec.shared_memory_bytes is not None]


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
