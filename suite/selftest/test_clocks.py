"""Snapshots of a device's state, its ceilings, and the doctor's page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest

from suite.device import ceilings, clocks, detect, doctor, fitness
from suite.device.detect import Detected, choose, choose_all
from suite.selftest.machines import EPYC, found, machine

# ---- snapshots


class FakeNVML:
    """NVML as far as a snapshot reads it; power cannot be read, and one foreign process is there."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def nvmlDeviceGetClockInfo(self, handle: str, clock: int) -> int:  # noqa: N802 - NVML's name
        return {1: 1980, 2: 3201}[clock]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return 41

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        return 2500

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802 - all that old NVML has
        return 0x1 | 0x4 | 0x40

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:  # noqa: N802
        own = SimpleNamespace(pid=os.getpid(), usedGpuMemory=1)
        return [own, SimpleNamespace(pid=os.getppid(), usedGpuMemory=None)]


def test_nvml_snapshot_names_reasons_and_foreign_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "_nvml", lambda uuid, pci_bus_id: (FakeNVML(), "handle"))
    now = clocks.snapshot(choose("h200", machine(found("h200"))))
    assert (now["sm_mhz"], now["memory_mhz"], now["temperature_c"], now["energy_j"]) == (1980, 3201, 41, 2.5)
    assert now["throttle_reasons"] == ["sw_power_cap", "hw_thermal"]
    assert [process["pid"] for process in now["processes"]] == [os.getppid()]
    assert "power_w" not in now
    assert any(error.startswith("power_w: ") for error in now["errors"])
    json.dumps(now, allow_nan=False)


def test_amdsmi_snapshot_converts_units_and_skips_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    smi = SimpleNamespace(
        AmdSmiClkType=SimpleNamespace(GFX=0, MEM=1),
        AmdSmiTemperatureType=SimpleNamespace(HOTSPOT=1),
        AmdSmiTemperatureMetric=SimpleNamespace(CURRENT=0),
        amdsmi_get_clock_info=lambda handle, clock: {"clk": [2100, "N/A"][clock]},
        amdsmi_get_power_info=lambda handle: {"average_socket_power": "N/A", "current_socket_power": 140},
        amdsmi_get_temp_metric=lambda handle, sensor, metric: 47,
        amdsmi_get_energy_count=lambda handle: {"energy_accumulator": 2_000_000, "counter_resolution": 15.3},
        amdsmi_get_gpu_process_list=lambda handle: [{"pid": os.getpid()}, {"pid": 1, "memory_usage": {"vram_mem": 5}}],
    )
    monkeypatch.setattr(clocks, "_amdsmi", lambda pci_bus_id: (smi, "handle"))
    now = clocks.snapshot(choose("mi300x", machine(found("mi300x"))))
    assert (now["sm_mhz"], now["power_w"], now["temperature_c"]) == (2100, 140, 47)
    assert now["energy_j"] == pytest.approx(30.6)
    assert "memory_mhz" not in now
    assert [(process["pid"], process["memory_bytes"]) for process in now["processes"]] == [(1, 5)]
    assert now["errors"] == []


@pytest.mark.parametrize("key", ["h200", "mi300x"])
def test_snapshot_without_a_driver_is_an_error_sentence(key: str) -> None:
    gpu = found(key, uuid=None, pci_bus_id=None)
    now = clocks.snapshot(choose(key, machine(gpu)))
    assert "cannot be used" in now["errors"][0]
    assert "sm_mhz" not in now


def test_cpu_snapshot_reads_the_load() -> None:
    now = clocks.snapshot(choose("cpu", machine()))
    assert now["load_average_1min"] >= 0
    assert now["errors"] == []


def test_children_are_ours_and_parents_are_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert clocks.is_ours(child.pid, frozenset({os.getpid()}))
        assert not clocks.is_ours(os.getppid(), frozenset({os.getpid(), child.pid}))
    finally:
        child.communicate(b"\n")


# ---- ceilings and the doctor


def test_ceilings_are_rates_of_plausible_size() -> None:
    """In a child, as a worker does: torch stays out of this process."""
    code = (
        "import json, sys; from suite.device import ceilings; from suite.device.detect import ChosenDevice; "
        "ceilings.CPU_BUFFER_BYTES, ceilings.CPU_MATMUL_SIZE = 16 << 20, 256; "
        "print(json.dumps(ceilings.measure_ceilings(ChosenDevice.from_json(json.load(sys.stdin)))))"
    )
    chosen = replace(choose("cpu", machine()), last_level_cache_bytes=4 << 20)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=detect.PROJECT_ROOT,
        input=json.dumps(chosen.to_json()),
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(done.stdout)
    assert measured.keys() == {"copy_bytes_per_s", "read_bytes_per_s", "matmul_fp32_flops_per_s"}
    assert all(1e8 < rate < 1e14 for rate in measured.values())


def test_ceiling_buffers_exceed_the_cache_and_spare_the_memory() -> None:
    chosen = choose("mi300x", machine(found("mi300x", memory_bytes=192 << 30)))
    assert ceilings.buffer_bytes(chosen) == 4 << 30
    assert ceilings.buffer_bytes(replace(chosen, memory_bytes=8 << 30)) == 512 << 20


def test_doctor_tells_what_runs_and_why_the_rest_cannot() -> None:
    detected = machine(found("h200"), found("mi300x", key=None, num_sms=38, index=1), problems=("Something failed.",))
    calm = {"sm_mhz": 1980, "throttle_reasons": [], "errors": [], "processes": []}
    busy = {"processes": [{"pid": 7, "name": None, "memory_bytes": 1 << 30}], "errors": ["power_w: no"]}
    kernels = [
        doctor.KernelStatus("mla/flash_mla", "vendor", "flash_mla is not installed"),
        doctor.KernelStatus("mla/reference", "reference", None),
    ]
    page = doctor.report(
        detected, list(zip(choose_all(detected), [calm, busy, calm], strict=True)), kernels, ["And this."]
    )
    for line in (
        "1 x NVIDIA H200 (--gpu h200)",
        "4.8 TB/s, float32 67 TFLOP/s",
        "clock 1980 MHz, not throttled",
        "not on the data sheet",
        "process 7 (name unknown, holds 1.0 GiB)",
        "not read: power_w: no",
        "mla/flash_mla  vendor     cannot run: flash_mla is not installed",
        "mla/reference  reference  can run",
        "  Something failed.\n  And this.",
        "PyTorch 2.13.0",
    ):
        assert line in page
    assert page.index("mla/reference") < page.index("mla/flash_mla")


def test_found_devices_are_what_the_child_prints() -> None:
    document = {"devices": [asdict(found("h200"))], "cpu": asdict(EPYC), "torch": "2", "triton": None, "problems": []}
    assert Detected.from_json(json.loads(json.dumps(document))) == Detected((found("h200"),), EPYC, "2", None, ())


# ---- fitness


def test_foreign_processes_and_heat_make_a_gpu_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, processor = choose("auto", machine(found("h200"))), choose("cpu", machine())
    state: dict[str, Any] = {"processes": [], "throttle_reasons": ["sw_power_cap"]}
    monkeypatch.setattr(fitness, "snapshot", lambda chosen: state)
    assert fitness.why_unfit(gpu) is None
    state["throttle_reasons"] = ["hw_thermal"]
    assert "hw_thermal" in str(fitness.why_unfit(gpu))
    state["processes"] = [{"pid": 7, "name": "python", "memory_bytes": 1}]
    assert "python (pid 7)" in str(fitness.why_unfit(gpu))
    assert fitness.why_unfit(processor) is None
