"""Which devices this machine has, and which of them a run uses.

`python -m suite.device.detect` prints one JSON object. `detect()` runs that in a child process, so that the caller
never imports torch, and a driver that hangs or crashes costs a sentence.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from kernels.device import Device

from .cpu import FoundCPU, find_cpu, slug
from .specs import DeviceError, DeviceSpec, find_spec, load_specs, spec_by_key

__all__ = ["ChosenDevice", "Detected", "DeviceError", "FoundGPU", "choose", "choose_all", "detect", "spec_by_key"]

PROJECT_ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120.0
UNKNOWN_HIP_CACHE_BYTES = 256 << 20
"""Last-level cache of an AMD GPU that is not on the sheet: PyTorch reports only its L2, not the Infinity Cache behind
it. The largest on the sheet; it only sizes the flush, so too large is safe."""


Made = TypeVar("Made")


@dataclass(frozen=True)
class FoundGPU:
    """One GPU as PyTorch, NVML and the system describe it."""

    key: str | None
    """Its row of the data sheet; None where name, architecture or SM count fit none."""
    name: str
    kind: Literal["cuda", "hip"]
    arch: str
    num_sms: int
    warp_size: int
    shared_memory_bytes: int
    l2_bytes: int
    memory_bytes: int
    uuid: str | None
    index: int
    """PyTorch's index, within CUDA_VISIBLE_DEVICES."""
    pci_bus_id: str | None
    driver: str | None
    runtime: str | None
    partition_mode: str | None
    """NVIDIA: `mig` or `none`. AMD: `SPX/NPS1` and the like."""

    @property
    def local_key(self) -> str:
        """Its key, or for a GPU that is not on the sheet a name derived from all that identifies it."""
        return self.key or slug(f"{self.name} {self.arch} {self.num_sms}sm")


@dataclass(frozen=True)
class Detected:
    """What is here."""

    devices: tuple[FoundGPU, ...]
    cpu: FoundCPU
    torch: str | None
    triton: str | None
    problems: tuple[str, ...]
    """Sentences on what failed while looking."""

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Detected:
        """Read what the child process printed. KeyError, TypeError or ValueError where it printed something else."""
        fields = {
            "devices": tuple(_typed(FoundGPU, device) for device in document["devices"]),
            "cpu": _typed(FoundCPU, document["cpu"]),
            "torch": document["torch"],
            "triton": document["triton"],
            "problems": tuple(_text(problem) for problem in document["problems"]),
        }
        return _typed(Detected, fields)


@dataclass(frozen=True)
class ChosenDevice:
    """The device that a run measures on, ready to be handed to a worker process."""

    key: str
    """Folder in baselines/: `h200`, `cpu-amd-epyc-avx512-2c`."""
    device: Device
    """What kernels plan for: the sheet's figures where the device is on it, so that a machine without the device
    compiles exactly what the device would run."""
    spec: DeviceSpec | None
    """None: no peaks are known."""
    index: int
    uuid: str | None
    name: str
    memory_bytes: int
    last_level_cache_bytes: int
    """What a flush must exceed: the larger of what is reported and what the sheet says."""
    facts: dict[str, Any]
    """More for the record: driver, runtime, partition mode ..."""

    def to_json(self) -> dict[str, Any]:
        """JSON values; see `from_json`."""
        spec = None if self.spec is None else self.spec.to_json()
        return {**vars(self), "device": vars(self.device), "spec": spec, "facts": dict(self.facts)}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> ChosenDevice:
        """Inverse of `to_json`."""
        spec = None if document["spec"] is None else DeviceSpec.from_json(document["spec"])
        return ChosenDevice(**{**document, "device": Device(**document["device"]), "spec": spec})

    def record(self) -> dict[str, Any]:
        """The `device` object of a run record."""
        own = ("key", "name", "memory_bytes", "last_level_cache_bytes", "uuid", "index")
        return {
            **self.facts,
            **{field: getattr(self, field) for field in own},
            **{field: getattr(self.device, field) for field in ("kind", "arch", "num_sms")},
        }


def detect(timeout_s: float = TIMEOUT_S) -> Detected:
    """Look for devices in a child process. Never raises for what the child does: that becomes a problem sentence."""
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "suite.device.detect"],
            cwd=PROJECT_ROOT,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _nothing_found(
            f"Looking for devices took more than {timeout_s:g} s and was stopped; a hung driver is the usual cause "
            "(does nvidia-smi or amd-smi answer?)."
        )
    try:
        return Detected.from_json(json.loads(done.stdout.splitlines()[-1]))  # libraries print before the last line
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        last_words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return _nothing_found(f"Looking for devices failed with exit status {done.returncode}: {last_words}")


def choose(gpu: str, detected: Detected) -> ChosenDevice:
    """The device that `--gpu` means here: `auto` (the GPU that is here, else the CPU), `cpu`, or a key.

    Of several GPUs that fit, the first; `auto` prefers one on the data sheet.

    Raises:
        DeviceError: it is not here, or nothing is known by that name.
    """
    if detected.torch is None:
        raise DeviceError(f"No device can be used without PyTorch. {' '.join(detected.problems)}".strip())
    if gpu == "auto" and detected.devices:
        return _chosen_gpu(min(detected.devices, key=lambda found: found.key is None), detected)
    if gpu in ("auto", "cpu", detected.cpu.key):
        return _chosen_cpu(detected)
    for found in detected.devices:
        if found.local_key == gpu:
            return _chosen_gpu(found, detected)
    raise DeviceError(_why_absent(gpu, detected))


def choose_all(detected: Detected) -> tuple[ChosenDevice, ...]:
    """Every GPU that is here, then the CPU."""
    return (*(_chosen_gpu(found, detected) for found in detected.devices), _chosen_cpu(detected))


def what_is_here(detected: Detected) -> str:
    """One sentence: `This machine has no GPU; it has an AMD EPYC CPU with 2 cores.`"""
    cores = f"{detected.cpu.cores} core{'s' if detected.cpu.cores > 1 else ''}"
    cpu = f"{_article(detected.cpu.model)} {detected.cpu.model} CPU with {cores}"
    if not detected.devices:
        return f"This machine has no GPU; it has {cpu}."
    kinds = [(found.name, found.local_key) for found in detected.devices]
    gpus = [f"{kinds.count(kind)} x {kind[0]} (--gpu {kind[1]})" for kind in dict.fromkeys(kinds)]
    return f"This machine has {', '.join(gpus)} and {cpu}."


def _typed(kind: type[Made], fields: Mapping[str, Any]) -> Made:
    """A dataclass from JSON's values. TypeError where one of them is of another type than declared."""
    made = kind(**fields)
    for name, declared in get_type_hints(kind).items():
        value, origin = getattr(made, name), get_origin(declared)
        if not (
            value in get_args(declared)
            if origin is Literal
            else isinstance(value, tuple if origin is tuple else declared)
        ):
            raise TypeError(f"{kind.__name__}.{name} is {type(value).__name__}")
    return made


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is no text")
    return value


def _why_absent(gpu: str, detected: Detected) -> str:
    here = " ".join([what_is_here(detected), *detected.problems])
    usable = detected.devices[0].local_key if detected.devices else "cpu"
    if gpu.startswith("cpu-"):
        return f"--gpu {gpu} is another CPU than this one, which is {detected.cpu.key}. {here} Run with --gpu cpu."
    try:
        spec = spec_by_key(gpu)
    except DeviceError as error:
        raise DeviceError(f"{error} {here}") from None
    advice = f"Run with --gpu {usable}"
    if spec.shared_memory_bytes is not None:
        advice += f", or add --compile-only to compile every Triton kernel for {spec.arch} without the device"
    almost = "".join(_almost(found, spec) for found in detected.devices)
    return f"--gpu {gpu}: no {spec.name} is here. {here} {almost}{advice}."


def _almost(found: FoundGPU, spec: DeviceSpec) -> str:
    """Why a GPU of the right name is still another device: a partition, or another card of the same chip."""
    if found.name not in spec.match:
        return ""
    return (
        f"Its {found.name} is {found.arch} with {found.num_sms} SMs where {spec.key} is {spec.arch} with "
        f"{spec.num_sms}: a partition of a GPU is a device of its own. "
    )


def _chosen_gpu(found: FoundGPU, detected: Detected) -> ChosenDevice:
    spec = find_spec(found.name, found.arch, found.num_sms)
    known_cache_bytes = spec.last_level_cache_bytes if spec else None
    if known_cache_bytes is None and found.kind == "hip":
        known_cache_bytes = UNKNOWN_HIP_CACHE_BYTES
    facts = {field: getattr(found, field) for field in ("driver", "runtime", "partition_mode", "pci_bus_id")}
    facts |= {"shared_memory_bytes": found.shared_memory_bytes, "l2_bytes": found.l2_bytes}
    return ChosenDevice(
        key=found.local_key,
        device=_device_of(found, spec),
        spec=spec,
        index=found.index,
        uuid=found.uuid,
        name=found.name,
        memory_bytes=found.memory_bytes,
        last_level_cache_bytes=max(found.l2_bytes, known_cache_bytes or 0),
        facts=_facts(facts, detected),
    )


def _device_of(found: FoundGPU, spec: DeviceSpec | None) -> Device:
    if spec is not None:
        # A row without a shared memory size takes the one that the device reports.
        return replace(spec, shared_memory_bytes=spec.shared_memory_bytes or found.shared_memory_bytes).device()
    return Device(
        kind=found.kind,
        arch=found.arch,
        num_sms=found.num_sms,
        shared_memory_bytes=found.shared_memory_bytes,
        warp_size=found.warp_size,
        # The e4m3 type is the architecture's; one that no row has is taken to have none.
        fp8_dtype=next((row.fp8_dtype for row in load_specs() if row.arch == found.arch), None),
    )


def _chosen_cpu(detected: Detected) -> ChosenDevice:
    cpu = detected.cpu
    return ChosenDevice(
        key=cpu.key,
        device=Device(kind="cpu", arch=cpu.arch, num_sms=cpu.cores, shared_memory_bytes=0, warp_size=1, fp8_dtype=None),
        spec=None,
        index=0,
        uuid=None,
        name=cpu.model,
        memory_bytes=cpu.memory_bytes,
        last_level_cache_bytes=cpu.last_level_cache_bytes,
        facts=_facts({"isa": cpu.isa, "cores": cpu.cores}, detected),
    )


def _facts(facts: Mapping[str, Any], detected: Detected) -> dict[str, Any]:
    """Without what is not known, with what went wrong while looking."""
    problems = {"problems": list(detected.problems)} if detected.problems else {}
    return {**{name: value for name, value in facts.items() if value is not None}, **problems}


def _nothing_found(problem: str) -> Detected:
    return Detected(devices=(), cpu=find_cpu(), torch=None, triton=None, problems=(problem,))


def _article(name: str) -> str:
    """`an AMD`, `an Intel`, `a Neoverse`."""
    return "an" if name[:1].upper() in "AEIOU" else "a"


def main() -> None:
    """Print what is here as one line of JSON."""
    from .probe import probe

    sys.stdout.write(json.dumps(probe()) + "\n")


if __name__ == "__main__":
    main()
