"""The device's environment at one moment: clocks, power, temperature, throttling, who else uses it.

Read through NVML (nvidia-ml-py) by UUID, AMD SMI (amdsmi) by PCI address, or the operating system for a CPU. A figure
that cannot be read is absent and its error is recorded; nothing here raises. NVML and AMD SMI create no GPU context.

The AMD part follows AMD SMI's Python reference (ROCm 6.4 to 7.14), where virtual machines get few of the figures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from . import health
from .detect import ChosenDevice

# NVML's bit (nvmlClocksEventReason...) and our name. Idle (0x1) is no throttling.
NVML_REASONS: tuple[tuple[int, str], ...] = (
    (0x002, "application_clocks"),
    (0x004, "sw_power_cap"),
    (0x008, "hw_slowdown"),
    (0x010, "sync_boost"),
    (0x020, "sw_thermal"),
    (0x040, "hw_thermal"),
    (0x080, "power_brake"),
    (0x100, "display_clocks"),
)

Snapshot = dict[str, Any]


def snapshot(chosen: ChosenDevice, own_pids: Iterable[int] = ()) -> Snapshot:
    """The environment of `chosen` now, as JSON values.

    Args:
        chosen: the device.
        own_pids: processes of this run; they, this process and all their descendants are not listed.

    Returns:
        Of these what could be read: sm_mhz, memory_mhz, power_w, power_limit_w, temperature_c, energy_j (since the
        driver started), memory_used_bytes, throttle_reasons [names], load_average_1min (CPU), and the device's own
        errors (health.py); and always
        processes [{pid, name, memory_bytes}] of others (empty where they cannot be listed, which `errors` says),
        errors [sentences] and read_ms, what reading it all took.
    """
    started = time.perf_counter()
    reading = _Reading(frozenset({os.getpid(), *own_pids}))
    {"cuda": _read_nvml, "hip": _read_amdsmi, "cpu": _read_cpu}[chosen.device.kind](chosen, reading)
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return {
        **reading.figures,
        "processes": reading.processes,
        "errors": reading.errors,
        "read_ms": round(elapsed_ms, 3),
    }


def memory_used_bytes(chosen: ChosenDevice) -> int | None:
    """Memory of a GPU that is in use now, whoever uses it; None for a CPU, and where it cannot be read."""
    try:
        if chosen.device.kind == "cuda":
            nvml, handle = _nvml(chosen.uuid, chosen.facts.get("pci_bus_id"))
            return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        if chosen.device.kind == "hip":
            smi, handle = _amdsmi(chosen.facts.get("pci_bus_id"))
            return int(smi.amdsmi_get_gpu_memory_usage(handle, smi.AmdSmiMemoryType.VRAM))
    except Exception:  # noqa: BLE001 - no package, no driver, no such device; a snapshot says which
        return None
    return None


class _Reading:
    """Collects figures; a failed read becomes an error sentence."""

    def __init__(self, own_pids: frozenset[int]) -> None:
        self.own_pids = own_pids
        self.figures: Snapshot = {}
        self.processes: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def read(self, name: str, figure: Callable[[], Any]) -> None:
        """Store `figure()` as `name`; None is a figure that this device does not have."""
        try:
            value = figure()
        except Exception as error:  # noqa: BLE001 - both libraries have their own exceptions, and ctypes raises more
            self.errors.append(f"{name}: {type(error).__name__}: {error}")
            return
        if value is not None:
            self.figures[name] = value

    def add_process(self, pid: int, memory_bytes: int | None) -> None:
        """List a process unless it is ours."""
        if is_ours(pid, self.own_pids):
            return
        self.processes.append({"pid": pid, "name": _process_name(pid), "memory_bytes": memory_bytes})


def is_ours(pid: int, own_pids: frozenset[int]) -> bool:
    """Whether `pid` is one of `own_pids` or descends from one."""
    while pid > 1:
        if pid in own_pids:
            return True
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])  # the name before it may hold blanks
        except (OSError, ValueError, IndexError):
            return False
    return False


def _process_name(pid: int) -> str | None:
    """None where the process is gone, or in another PID namespace."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


@cache
def _nvml(uuid: str | None, pci_bus_id: str | None) -> tuple[Any, Any]:
    """NVML and the device's handle. A slice of a GPU is found by the GPU's PCI address."""
    import pynvml

    pynvml.nvmlInit()
    if uuid is not None and uuid.startswith("GPU-"):
        try:
            return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError:
            if pci_bus_id is None:
                raise
    if pci_bus_id is None:
        raise LookupError("PyTorch reports neither the UUID nor the PCI address of this GPU")
    return pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)


def _read_nvml(chosen: ChosenDevice, reading: _Reading) -> None:
    try:
        nvml, handle = _nvml(chosen.uuid, chosen.facts.get("pci_bus_id"))
    except Exception as error:  # noqa: BLE001 - no package, no driver, no such device
        reading.errors.append(f"NVML cannot be used: {type(error).__name__}: {error}")
        return
    reading.read("sm_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
    reading.read("memory_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))
    reading.read("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)
    reading.read("power_limit_w", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3)
    reading.read("temperature_c", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    reading.read("energy_j", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
    reading.read("memory_used_bytes", lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used)
    reading.read("throttle_reasons", lambda: reason_names(_nvml_reasons(nvml, handle)))
    reading.read("processes", lambda: _add_nvml_processes(nvml, handle, reading))
    reading.figures |= health.read_nvml(nvml, handle)


def reason_names(bits: int) -> list[str]:
    """Names of NVML's clock event reasons, without idle."""
    return [name for bit, name in NVML_REASONS if bits & bit]


def _nvml_reasons(nvml: Any, handle: Any) -> int:
    # Renamed in NVML 12; the old name is all that older packages have.
    current = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    return int((current or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle))


def _add_nvml_processes(nvml: Any, handle: Any, reading: _Reading) -> None:
    for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
        reading.add_process(int(process.pid), process.usedGpuMemory)


@cache
def _amdsmi(pci_bus_id: str | None) -> tuple[Any, Any]:
    import amdsmi

    if pci_bus_id is None:
        raise LookupError("PyTorch does not report the PCI address of this GPU")
    amdsmi.amdsmi_init()
    return amdsmi, amdsmi.amdsmi_get_processor_handle_from_bdf(pci_bus_id)


def _read_amdsmi(chosen: ChosenDevice, reading: _Reading) -> None:
    try:
        smi, handle = _amdsmi(chosen.facts.get("pci_bus_id"))
    except Exception as error:  # noqa: BLE001 - no package, no driver, no such device
        reading.errors.append(f"AMD SMI cannot be used: {type(error).__name__}: {error}")
        return
    clock = smi.AmdSmiClkType
    reading.read("sm_mhz", lambda: _number(smi.amdsmi_get_clock_info(handle, clock.GFX), "clk"))
    reading.read("memory_mhz", lambda: _number(smi.amdsmi_get_clock_info(handle, clock.MEM), "clk"))
    reading.read("power_w", lambda: _amd_power_w(smi.amdsmi_get_power_info(handle)))
    reading.read("temperature_c", lambda: _amd_temperature_c(smi, handle))
    reading.read("energy_j", lambda: _amd_energy_j(smi.amdsmi_get_energy_count(handle)))
    reading.read("processes", lambda: _add_amd_processes(smi, handle, reading))
    reading.figures |= health.read_amdsmi(smi, handle)


def _amd_power_w(info: dict[str, Any]) -> float | None:
    """Of the fields that generations of AMD SMI fill, the first that holds a number."""
    return _number(info, "socket_power", "current_socket_power", "average_socket_power")


def _amd_temperature_c(smi: Any, handle: Any) -> float:
    # The hottest point of the die: Instinct GPUs since MI300 have no edge sensor.
    sensor, metric = smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
    return float(smi.amdsmi_get_temp_metric(handle, sensor, metric))


def _amd_energy_j(counter: dict[str, Any]) -> float | None:
    """accumulator * resolution is in microjoules; the accumulator was called `power` before ROCm 6.4."""
    ticks = _number(counter, "energy_accumulator", "power")
    resolution_uj = _number(counter, "counter_resolution")
    return None if ticks is None or resolution_uj is None else ticks * resolution_uj / 1e6


def _add_amd_processes(smi: Any, handle: Any, reading: _Reading) -> None:
    for process in smi.amdsmi_get_gpu_process_list(handle):
        reading.add_process(int(process["pid"]), process.get("memory_usage", {}).get("vram_mem"))


def _number(fields: dict[str, Any], *names: str) -> float | None:
    """The first of `names` that is a number; AMD SMI writes "N/A" for what a GPU does not have."""
    return next((fields[name] for name in names if isinstance(fields.get(name), (int, float))), None)


def _read_cpu(chosen: ChosenDevice, reading: _Reading) -> None:
    reading.read("load_average_1min", lambda: os.getloadavg()[0])
    reading.read("sm_mhz", _cpu_mhz)


def _cpu_mhz() -> float | None:
    """Mean clock of the CPUs now; None in virtual machines that hide it."""
    import psutil

    frequency = psutil.cpu_freq()
    return float(frequency.current) if frequency and frequency.current else None
