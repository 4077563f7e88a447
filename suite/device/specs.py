"""The data sheet: what each known device can do at best, from specs.json, where every figure has its source.

A device is known by name *and* architecture *and* number of SMs. Anything else (a PCIe card of the same chip, a slice
of a GPU, next year's model) has no peaks: borrowing another device's would print fractions above 100%.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kernels.device import Device

from ..record.schema import load

if TYPE_CHECKING:
    from kernels.problem import Cost

SPECS_PATH = Path(__file__).with_name("specs.json")

PEAK_OF_DTYPE: Mapping[str, str] = {
    "float8_e4m3fn": "float8",
    "float8_e4m3fnuz": "float8",
    "float8_e5m2": "float8",
    "float8_e5m2fnuz": "float8",
    "float4_e2m1fn_x2": "float4",
}
"""Rows of `peak_flops` that are not called as torch calls the dtype."""


class DeviceError(Exception):
    """A device that is unknown, not here, or not described well enough: exit status 4. The text is a sentence."""


@dataclass(frozen=True)
class DeviceSpec:
    """One row of the data sheet. None (or an absent peak) is a figure that is not known."""

    key: str
    """Value of `--gpu` and folder in baselines/."""
    name: str
    """Name for people."""
    match: tuple[str, ...]
    """Whole device names as PyTorch reports them."""
    kind: Literal["cuda", "hip"]
    arch: str
    num_sms: int
    warp_size: int
    shared_memory_bytes: int | None = None
    """Most shared memory (LDS) that one block may use."""
    last_level_cache_bytes: int | None = None
    memory_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    peak_flops: Mapping[str, float] = field(default_factory=dict)
    """Dense operations a second by dtype; all fp8 types share `float8`."""
    fp8_dtype: str | None = None
    power_w: float | None = None
    max_clock_mhz: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each figure was read. [C] primary source, [S] secondary, [K] general knowledge, [D] derived."""

    def device(self) -> Device:
        """What kernels plan for.

        Raises:
            DeviceError: the sheet lacks a figure that launch decisions need.
        """
        if self.shared_memory_bytes is None:
            raise DeviceError(
                f"The data sheet has no shared memory size for {self.key}, which launch decisions need: "
                f"add it with its source to {SPECS_PATH.name}, or run on such a device."
            )
        return Device(
            kind=self.kind,
            arch=self.arch,
            num_sms=self.num_sms,
            shared_memory_bytes=self.shared_memory_bytes,
            warp_size=self.warp_size,
            fp8_dtype=self.fp8_dtype,
        )

    def peak_for(self, dtype: str) -> float | None:
        """Dense operations a second for torch's dtype name, or None."""
        return self.peak_flops.get(PEAK_OF_DTYPE.get(dtype, dtype))

    def to_json(self) -> dict[str, Any]:
        """The row as it is in specs.json, with None for what is not known."""
        return {**asdict(self), "match": list(self.match)}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> DeviceSpec:
        """Inverse of `to_json`; also reads a row of specs.json."""
        return DeviceSpec(**{**row, "match": tuple(row["match"])})


@cache
def load_specs() -> tuple[DeviceSpec, ...]:
    """All rows of specs.json.

    Raises:
        RecordError: the file breaks its schema.
        DeviceError: a figure without a source, a source without a figure, or a device described twice.
    """
    rows = load(SPECS_PATH, "specs")["devices"]
    specs = tuple(DeviceSpec.from_json(row) for row in rows)
    for row in rows:
        _require_sources(row)
    _require_distinct([spec.key for spec in specs], "key")
    _require_distinct([f"{name} ({spec.arch}, {spec.num_sms} SMs)" for spec in specs for name in spec.match], "match")
    return specs


def find_spec(name: str, arch: str, num_sms: int) -> DeviceSpec | None:
    """The row of an actual device; None unless torch's name, architecture and SM count all agree."""
    for spec in load_specs():
        if name.strip() in spec.match and arch == spec.arch and num_sms == spec.num_sms:
            return spec
    return None


def spec_by_key(key: str) -> DeviceSpec:
    """The row called `key`.

    Raises:
        DeviceError: there is none; the sentence lists all keys.
    """
    known = [spec.key for spec in load_specs()]
    if key in known:
        return load_specs()[known.index(key)]
    near = difflib.get_close_matches(key, known, n=1)
    question = f" Did you mean {near[0]}?" if near else ""
    raise DeviceError(f"No device is called {key!r}.{question} Known are auto, cpu, {', '.join(known)}.")


def light_speed_us(cost: Cost, spec: DeviceSpec | None) -> float | None:
    """Least time in us that the sheet allows for `cost`, or None where it lacks the peak or the bandwidth.

    max(flops / peak, (cold reads + writes beyond the last-level cache) / bandwidth). A cache of unknown size is taken
    to swallow all writes: what comes out is still a bound.
    """
    if spec is None or spec.bandwidth_bytes_per_s is None:
        return None
    peak = spec.peak_for(cost.compute_dtype)
    if peak is None:
        return None
    cache_bytes = cost.write_bytes if spec.last_level_cache_bytes is None else spec.last_level_cache_bytes
    moved_bytes = cost.cold_read_bytes + max(0, cost.write_bytes - cache_bytes)
    return max(cost.flops / peak, moved_bytes / spec.bandwidth_bytes_per_s) * 1e6


def _require_sources(row: Mapping[str, Any]) -> None:
    described = {"key", "name", "match", "kind", "arch", "peak_flops", "sources"}
    figures = (row.keys() - described) | row["peak_flops"].keys()
    for figure in sorted(figures - row["sources"].keys()):
        raise DeviceError(f"{SPECS_PATH.name}: {row['key']}.{figure} has no source; add a sentence to its `sources`.")
    for figure in sorted(row["sources"].keys() - figures):
        raise DeviceError(f"{SPECS_PATH.name}: {row['key']}.sources explains {figure}, which the row does not have.")


def _require_distinct(values: list[str], what: str) -> None:
    for value in sorted({value for value in values if values.count(value) > 1}):
        raise DeviceError(f"{SPECS_PATH.name}: two devices have the {what} {value}; each must be unique.")
