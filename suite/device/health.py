"""Errors that a GPU itself reports: memory that failed, Xid events, time spent throttled by heat.

Every figure is absent where the device or its driver does not give it. The AMD part is untested.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

HARDWARE_XIDS = frozenset({48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140})
"""Xid numbers that speak of the device or its firmware, never of a kernel's own mistake (13, 31 and 43 do): memory
errors and rows that failed, NVLink, fallen off the bus, a firmware that does not answer. Source: NVIDIA, Analyzing Xid
Errors with the Xid Catalog, docs.nvidia.com/deploy/xid-errors."""
XIDS_KEPT = 100

Figures = dict[str, Any]


def read_nvml(nvml: Any, handle: Any) -> Figures:
    """Of these what NVML knows: ecc_uncorrected (since the driver started), rows_pending and rows_failed (memory that
    waits to be replaced, or cannot be), hot_ms (held back by heat, since the driver started), xids [numbers, since the
    first reading]."""
    figures: Figures = {}
    _put(figures, "ecc_uncorrected", lambda: int(nvml.nvmlDeviceGetTotalEccErrors(handle, _UNCORRECTED, _VOLATILE)))
    _put(figures, "rows_pending", lambda: bool(nvml.nvmlDeviceGetRemappedRows(handle)[2]))
    _put(figures, "rows_failed", lambda: bool(nvml.nvmlDeviceGetRemappedRows(handle)[3]))
    _put(figures, "hot_ms", lambda: nvml.nvmlDeviceGetViolationStatus(handle, _THERMAL).violationTime / 1e6)
    _put(figures, "xids", lambda: _xids(nvml, handle).take())
    return figures


def read_amdsmi(smi: Any, handle: Any) -> Figures:
    """ecc_uncorrected, where AMD SMI gives it: not in a virtual machine."""
    figures: Figures = {}
    _put(figures, "ecc_uncorrected", lambda: int(smi.amdsmi_get_gpu_total_ecc_count(handle)["uncorrectable_count"]))
    return figures


_UNCORRECTED, _VOLATILE, _THERMAL = 1, 0, 1  # NVML_MEMORY_ERROR_TYPE_, NVML_..._ECC, NVML_PERF_POLICY_THERMAL


def _put(figures: Figures, name: str, figure: Callable[[], Any]) -> None:
    try:
        figures[name] = figure()
    except Exception:  # noqa: BLE001 - most devices lack one of them, and each library has its own exceptions
        return


class _Xids:
    """Xid events of one device. NVML tells only those that come after it was asked to."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._events = nvml.nvmlEventSetCreate()
        nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._events)
        self._seen: list[int] = []

    def take(self) -> list[int]:
        """All that came until now."""
        while len(self._seen) < XIDS_KEPT:
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            except self._nvml.NVMLError_Timeout:
                break
            self._seen.append(int(event.eventData))
        return list(self._seen)


@cache
def _xids(nvml: Any, handle: Any) -> _Xids:
    return _Xids(nvml, handle)
