"""What PyTorch sees on this machine. Imports torch and may touch drivers that hang: for a child process only."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cpu import find_cpu
from .specs import find_spec

DRIVER_NODES: tuple[tuple[str, str, str], ...] = (
    ("/dev/nvidiactl", "NVIDIA", "CUDA"),
    ("/dev/kfd", "AMD", "ROCm"),
)
"""A file that the vendor's kernel driver makes, the vendor, the build of PyTorch that uses it."""


def probe() -> dict[str, Any]:
    """All devices, the CPU, versions, and a sentence for each thing that failed; one JSON object."""
    problems: list[str] = []
    torch = _import("torch", problems)
    triton = _import("triton", problems) if torch is not None and _is_installed("triton") else None
    devices = [] if torch is None else list(_gpus(torch, problems))
    return {
        "devices": devices,
        "cpu": vars(find_cpu()),
        "torch": None if torch is None else str(torch.__version__),
        "triton": None if triton is None else str(triton.__version__),
        "problems": problems,
    }


def _gpus(torch: Any, problems: list[str]) -> Iterator[dict[str, Any]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    problems.extend(" ".join(str(warning.message).split()) for warning in caught)
    if not available:
        problems.extend(_why_unavailable(torch))
        return
    for index in range(torch.cuda.device_count()):
        try:
            yield describe(torch.cuda.get_device_properties(index), index, torch.version)
        except Exception as error:  # noqa: BLE001 - one that cannot be described must not hide the others
            problems.append(f"GPU {index} cannot be described ({type(error).__name__}: {error}).")


def describe(properties: Any, index: int, version: Any) -> dict[str, Any]:
    """One GPU from torch's device properties; figures that this torch does not report are None or 0."""
    is_hip = bool(version.hip)
    # gcnArchName is "gfx942:sramecc+:xnack-".
    arch = properties.gcnArchName.split(":")[0] if is_hip else f"sm_{properties.major}{properties.minor}"
    name, num_sms = str(properties.name).strip(), int(properties.multi_processor_count)
    spec = find_spec(name, arch, num_sms)
    bus_id = _pci_bus_id(properties)
    return {
        "key": spec.key if spec else None,
        "name": name,
        "kind": "hip" if is_hip else "cuda",
        "arch": arch,
        "num_sms": num_sms,
        "warp_size": int(getattr(properties, "warp_size", 64 if arch.startswith("gfx9") else 32)),
        "shared_memory_bytes": max(
            int(getattr(properties, field, 0))
            for field in ("shared_memory_per_block_optin", "shared_memory_per_block")  # ROCm may leave the first at 0
        ),
        "l2_bytes": int(getattr(properties, "L2_cache_size", 0)),
        "memory_bytes": int(properties.total_memory),
        "uuid": _uuid(getattr(properties, "uuid", None), is_hip),
        "index": index,
        "pci_bus_id": bus_id,
        "driver": _text("/sys/module/amdgpu/version") if is_hip else _nvidia_driver(),
        "runtime": f"ROCm {version.hip}" if is_hip else f"CUDA {version.cuda}",
        "partition_mode": _amd_partition(bus_id) if is_hip else _nvidia_partition(bus_id),
    }


def _uuid(uuid: object, is_hip: bool) -> str | None:
    """The name that NVML and rocminfo have: torch drops the prefix, and on ROCm gives the hex of 16 letters."""
    if uuid is None:
        return None
    text = str(uuid)
    if is_hip:
        letters = bytes.fromhex(text.replace("-", ""))
        text = letters.decode("ascii") if letters.isascii() and letters.decode("ascii").isalnum() else text
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


def _pci_bus_id(properties: Any) -> str | None:
    fields = ("pci_domain_id", "pci_bus_id", "pci_device_id")
    if not all(hasattr(properties, field) for field in fields):
        return None
    domain, bus, device = (int(getattr(properties, field)) for field in fields)
    return f"{domain:04x}:{bus:02x}:{device:02x}.0"


def _why_unavailable(torch: Any) -> Iterator[str]:
    """Sentences on GPUs that the system has and this PyTorch cannot use; none where there is no GPU at all."""
    for node, vendor, build in DRIVER_NODES:
        if not Path(node).exists():
            continue
        built_for = torch.version.hip if vendor == "AMD" else torch.version.cuda
        if not built_for:
            yield (
                f"An {vendor} driver is here ({node}), but PyTorch {torch.__version__} is built without {build}: "
                f"install a {build} build of PyTorch to use the GPU."
            )
            continue
        try:
            torch.cuda.init()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            yield f"An {vendor} driver is here ({node}), but PyTorch cannot use it: {' '.join(str(error).split())}"


def _nvidia_driver() -> str | None:
    nvml = _nvml()
    return str(nvml.nvmlSystemGetDriverVersion()) if nvml else _text("/sys/module/nvidia/version")


def _nvidia_partition(bus_id: str | None) -> str | None:
    """`mig` or `none`; None where NVML cannot say."""
    nvml = _nvml()
    if nvml is None or bus_id is None:
        return None
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(nvml.nvmlDeviceGetHandleByPciBusId(bus_id))
    except nvml.NVMLError_NotSupported:
        return "none"
    except nvml.NVMLError:
        return None
    return "mig" if current else "none"


def _amd_partition(bus_id: str | None) -> str | None:
    """`SPX/NPS1`: compute and memory partition of an Instinct GPU; None where the driver does not tell."""
    folder = f"/sys/bus/pci/devices/{bus_id}"
    modes = [_text(f"{folder}/current_{part}_partition") for part in ("compute", "memory")]
    return "/".join(mode for mode in modes if mode) or None


def _nvml() -> Any:
    """NVML, started; None where the package or the driver is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no package or no driver
        return None
    return pynvml


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _import(module: str, problems: list[str]) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a broken installation raises anything
        problems.append(f"{module} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())}).")
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
