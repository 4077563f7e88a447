"""A GPU that failed, is throttled or shared makes its runner unfit; recorded answers of drivers stand in for one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from suite.device import clocks, fitness, health
from suite.device.detect import choose
from suite.record.run import fold
from suite.selftest.machines import found, machine
from suite.selftest.record_examples import make_events

GPU = choose("h200", machine(found("h200")))


class TimeoutError_(Exception):  # noqa: N801 - stands for pynvml.NVMLError_Timeout
    pass


class LostError(Exception):
    pass


class FakeNVML:
    """NVML of a device with a past; `lost` from the moment that it leaves its bus."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVMLError_Timeout = TimeoutError_
    nvmlEventTypeXidCriticalError = 8  # noqa: N815 - NVML's name

    def __init__(self) -> None:
        self.lost, self.ecc, self.pending, self.failed, self.hot_ns, self.reasons = False, 0, 0, 0, 0, 0
        self.coming: list[int] = []
        self.registered: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlDeviceGetClockInfo": lambda handle, clock: 1980,
            "nvmlDeviceGetTotalEccErrors": lambda handle, kind, counter: {(1, 0): self.ecc}[kind, counter],
            "nvmlDeviceGetRemappedRows": lambda handle: (3, 0, self.pending, self.failed),
            "nvmlDeviceGetViolationStatus": lambda handle, policy: SimpleNamespace(
                violationTime={1: self.hot_ns}[policy]
            ),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: self.reasons,
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: [],
            "nvmlEventSetCreate": object,
            "nvmlDeviceRegisterEvents": lambda handle, types, events: self.registered.append((handle, types)),
            "nvmlEventSetWait_v2": self._wait,
        }
        if self.lost and name != "nvmlEventSetWait_v2":
            raise LostError("GPU is lost")
        return answers[name]

    def _wait(self, events: object, timeout_ms: int) -> Any:
        assert timeout_ms == 0
        if not self.coming:
            raise TimeoutError_
        return SimpleNamespace(eventData=self.coming.pop(0))


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNVML:
    fake = FakeNVML()
    monkeypatch.setattr(clocks, "_nvml", lambda uuid, pci_bus_id: (fake, "handle"))
    return fake


def run_of(*snapshots: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """A run on an H200 with one launch for each pair of snapshots."""
    events = make_events(launches=len(snapshots))
    for kind, at in (("launch_start", 0), ("launch_end", 1)):
        launches = [event for event in events if event["event"] == kind]
        for event, pair in zip(launches, snapshots, strict=True):
            event["environment"] = {("before", "after")[at]: pair[at]}
    return fold(events)


def test_a_sound_device_is_fit(nvml: FakeNVML) -> None:
    assert fitness.why_unfit(GPU) is None
    now = clocks.snapshot(GPU)
    assert {name: now[name] for name in ("ecc_uncorrected", "rows_pending", "rows_failed", "hot_ms", "xids")} == {
        "ecc_uncorrected": 0, "rows_pending": False, "rows_failed": False, "hot_ms": 0.0, "xids": [],
    }  # fmt: skip
    assert fitness.why_unfit_after(run_of((now, clocks.snapshot(GPU)))) is None
    assert nvml.registered == [("handle", 8)]


def test_failed_memory_makes_it_unfit_before_the_run(nvml: FakeNVML) -> None:
    nvml.pending = 1
    assert "NVIDIA H200 has memory that failed and is not replaced yet" in str(fitness.why_unfit(GPU))


def test_a_device_that_is_lost_is_named_and_not_a_kernel(nvml: FakeNVML) -> None:
    before = clocks.snapshot(GPU)
    nvml.lost, nvml.coming = True, [79]
    after = clocks.snapshot(GPU)
    told = str(fitness.why_unfit_after(run_of((before, before), (before, after))))
    assert "NVIDIA H200 has fallen off its bus" in told
    assert "Xid 79" in told
    assert told.count("(launch 1)") == 2
    assert "fallen off its bus" in str(fitness.why_unfit(GPU))


@pytest.mark.parametrize("xid", [13, 31, 43, 45])
def test_xids_of_a_kernels_own_doing_leave_the_runner_fit(nvml: FakeNVML, xid: int) -> None:
    before = clocks.snapshot(GPU)
    nvml.coming = [xid]
    after = clocks.snapshot(GPU)
    assert after["xids"] == [xid]
    assert fitness.why_unfit_after(run_of((before, after))) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ecc": 1}, "had a memory error that it could not correct (launch 0)"),
        ({"hot_ns": 50_000_000}, "was throttled by heat (launch 0)"),
        ({"reasons": 0x40}, "is throttled (hw_thermal)"),
        ({"coming": [94, 94]}, "reported Xid 94: the device or its firmware failed (launch 0)"),
        ({"failed": 1}, "has memory that failed"),
    ],
)
def test_what_befell_the_device_in_a_launch_is_told(nvml: FakeNVML, change: dict[str, Any], words: str) -> None:
    before = clocks.snapshot(GPU)
    for name, value in change.items():
        setattr(nvml, name, value)
    during = clocks.snapshot(GPU)
    told = str(fitness.why_unfit_after(run_of((before, during))))
    assert words in told
    assert told.endswith("What these launches measured is not a kernel's doing.")


def test_power_limits_and_a_past_are_nothing_unusual(nvml: FakeNVML) -> None:
    nvml.reasons, nvml.ecc, nvml.hot_ns = 0x4, 7, 10**12
    assert fitness.why_unfit(GPU) is None
    assert fitness.why_unfit_after(run_of((clocks.snapshot(GPU), clocks.snapshot(GPU)))) is None


def test_processes_that_came_in_the_run_are_named() -> None:
    guest = {"processes": [{"pid": 7, "name": "python", "memory_bytes": 1}]}
    told = str(fitness.why_unfit_after(run_of(({}, {}), ({}, guest), ({}, guest))))
    assert "is used by other processes: python (pid 7)" in told
    assert "(launch 1, 2)" in told


def test_processes_of_another_namespace_may_be_our_own() -> None:
    nameless = {"processes": [{"pid": 70_001, "name": None, "memory_bytes": 1}]}
    assert fitness.why_unfit_after(run_of(({}, nameless))) is None


def test_a_launch_that_was_cut_off_says_nothing() -> None:
    run = run_of(({}, {"throttle_reasons": ["hw_thermal"]}))
    del run["launches"][0]["environment"]["before"]
    assert fitness.why_unfit_after(run) is None


def test_memory_errors_of_an_amd_gpu_are_read() -> None:
    smi = SimpleNamespace(amdsmi_get_gpu_total_ecc_count=lambda handle: {"uncorrectable_count": 2})
    assert health.read_amdsmi(smi, "handle") == {"ecc_uncorrected": 2}
    assert health.read_amdsmi(SimpleNamespace(), "handle") == {}


@pytest.mark.parametrize(
    ("mode", "named"), [("none", False), ("SPX/NPS1", False), ("mig", True), ("CPX/NPS4", True), ("DPX/NPS1", True)]
)
def test_partitions_are_named(mode: str, named: bool) -> None:
    note = fitness.partition_note(choose("h200", machine(found("h200", partition_mode=mode))))
    assert note is None if not named else f"partition mode {mode}" in str(note)
