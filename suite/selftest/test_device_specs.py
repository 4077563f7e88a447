"""The data sheet: what it refuses, which devices it recognises, and the speed of light that follows from it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.problem import Cost
from suite.device import specs
from suite.device.specs import DeviceError
from suite.record.schema import RecordError, load, validate


def sheet() -> dict[str, Any]:
    return load(specs.SPECS_PATH, "specs")


def test_sheet_has_the_devices_of_the_commands() -> None:
    assert {"a100", "h100", "h200", "b200", "b300", "mi250x", "mi300x", "mi325x", "mi350x", "mi355x"} <= {
        spec.key for spec in specs.load_specs()
    }


@pytest.mark.parametrize("spec", specs.load_specs(), ids=lambda spec: spec.key)
def test_no_peak_is_a_sparse_one(spec: specs.DeviceSpec) -> None:
    """A sparse figure would be twice as many operations per clock and unit as the hardware has."""
    bf16_per_sm = spec.peak_flops["bfloat16"] / spec.num_sms
    limit = {"sm_80": 2.9e12, "sm_90": 7.6e12, "gfx90a": 1.8e12, "gfx942": 4.4e12, "gfx950": 9.9e12}.get(
        spec.arch, 16e12
    )
    assert bf16_per_sm < limit
    assert spec.peak_flops.get("float8", 2 * spec.peak_flops["bfloat16"]) == pytest.approx(
        2 * spec.peak_flops["bfloat16"], rel=0.01
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("peak_flops", "bfloat16"), 0),
        (("peak_flops", "bf16"), 1e15),
        (("bandwidth_bytes_per_s",), None),
        (("key",), "cpu-x"),
        (("arch",), "9.0"),
        (("num_sms",), "132"),
        (("peak_tflops",), 989),
    ],
)
def test_schema_refuses(path: tuple[str, ...], value: object) -> None:
    document = copy.deepcopy(sheet())
    row = document["devices"][2]
    for name in path[:-1]:
        row = row[name]
    row[path[-1]] = value
    with pytest.raises(RecordError, match=r"specs\.json"):
        validate(document, "specs", "specs.json")


def load_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, document: dict[str, Any]) -> None:
    changed = tmp_path / "specs.json"
    changed.write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(specs, "SPECS_PATH", changed)
    specs.load_specs.__wrapped__()


def test_figure_without_source_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    document = sheet()
    del document["devices"][0]["sources"]["bfloat16"]
    with pytest.raises(DeviceError, match=r"a100\.bfloat16 has no source"):
        load_changed(monkeypatch, tmp_path, document)


def test_source_without_figure_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    document = sheet()
    del document["devices"][0]["power_w"]
    with pytest.raises(DeviceError, match="explains power_w"):
        load_changed(monkeypatch, tmp_path, document)


def test_device_described_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    document = sheet()
    document["devices"].append({**document["devices"][0], "key": "a100-again"})
    with pytest.raises(DeviceError, match="two devices have the match NVIDIA A100"):
        load_changed(monkeypatch, tmp_path, document)


@pytest.mark.parametrize(
    ("name", "arch", "num_sms", "key"),
    [
        ("NVIDIA H200", "sm_90", 132, "h200"),
        ("NVIDIA H200 NVL", "sm_90", 132, None),  # another card of the same chip
        ("NVIDIA GH200 480GB", "sm_90", 132, None),
        ("NVIDIA H100 80GB HBM3", "sm_90", 132, "h100"),
        ("NVIDIA H100 PCIe", "sm_90", 114, None),
        ("NVIDIA H100 80GB HBM3", "sm_90", 114, None),
        ("NVIDIA H200", "sm_100", 132, None),
        ("AMD Instinct MI300X", "gfx942", 304, "mi300x"),
        ("AMD Instinct MI300X", "gfx942", 38, None),  # one of its eight partitions
        ("AMD Instinct MI300A", "gfx942", 228, None),
        ("NVIDIA GeForce RTX 4090", "sm_89", 128, None),
    ],
)
def test_a_device_is_known_by_name_arch_and_sms(name: str, arch: str, num_sms: int, key: str | None) -> None:
    spec = specs.find_spec(name, arch, num_sms)
    assert (spec.key if spec else None) == key


def test_unknown_key_lists_all_and_suggests_the_nearest() -> None:
    with pytest.raises(DeviceError, match=r"'mi30x'.*Did you mean mi3\w+\?.*h200.*mi300x"):
        specs.spec_by_key("mi30x")


def test_device_without_shared_memory_size_cannot_be_planned_for() -> None:
    with pytest.raises(DeviceError, match="no shared memory size for b300"):
        specs.spec_by_key("b300").device()


def test_fp8_type_is_the_architectures() -> None:
    types = {spec.key: spec.fp8_dtype for spec in specs.load_specs()}
    assert types["a100"] is None
    assert types["h200"] == types["mi355x"] == "float8_e4m3fn"
    assert types["mi300x"] == "float8_e4m3fnuz"


def cost(**changes: Any) -> Cost:
    base: dict[str, Any] = {"flops": 0, "cold_read_bytes": 0, "write_bytes": 0, "compute_dtype": "bfloat16"}
    return Cost(**{**base, **changes})


def test_light_speed_is_the_slower_of_compute_and_memory() -> None:
    h200 = specs.spec_by_key("h200")
    assert specs.light_speed_us(cost(flops=989 * 10**9), h200) == pytest.approx(1000)
    assert specs.light_speed_us(cost(cold_read_bytes=4_800_000), h200) == pytest.approx(1)
    assert specs.light_speed_us(cost(flops=989 * 10**9, cold_read_bytes=48 * 10**9), h200) == pytest.approx(10_000)
    assert specs.light_speed_us(cost(flops=1979 * 10**9, compute_dtype="float8_e4m3fn"), h200) == pytest.approx(1000)


def test_light_speed_counts_only_writes_beyond_the_cache() -> None:
    h200 = specs.spec_by_key("h200")
    assert h200.last_level_cache_bytes
    assert specs.light_speed_us(cost(write_bytes=h200.last_level_cache_bytes), h200) == 0
    assert specs.light_speed_us(cost(write_bytes=h200.last_level_cache_bytes + 4_800_000), h200) == pytest.approx(1)


@pytest.mark.parametrize("spec", [None, replace(specs.spec_by_key("h200"), bandwidth_bytes_per_s=None)])
def test_light_speed_of_the_unknown_is_unknown(spec: specs.DeviceSpec | None) -> None:
    assert specs.light_speed_us(cost(flops=10**9), spec) is None


def test_light_speed_without_that_dtypes_peak_is_unknown() -> None:
    assert specs.light_speed_us(cost(flops=10**9, compute_dtype="float8_e4m3fn"), specs.spec_by_key("a100")) is None
