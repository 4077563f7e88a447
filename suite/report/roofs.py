"""Rooflines: the least time that a problem's work needs, by the data sheet and by ceilings measured in the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..device.specs import load_specs

SHORT_DTYPES = {
    "bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64", "tfloat32": "tf32",
    "float8_e4m3fn": "e4m3fn", "float8_e4m3fnuz": "e4m3fnuz", "float8_e5m2": "e5m2",
}  # fmt: skip


@dataclass(frozen=True)
class Roof:
    """Peak rates for one compute dtype."""

    flops_per_s: float
    bytes_per_s: float

    def least_seconds(self, flops: float, num_bytes: float) -> float:
        """No kernel can be faster than this."""
        return max(flops / self.flops_per_s, num_bytes / self.bytes_per_s)

    def attainable_flops_per_s(self, flops_per_byte: float) -> float:
        """Height of the roof over an arithmetic intensity."""
        return min(self.flops_per_s, flops_per_byte * self.bytes_per_s)


def least_bytes(problem: Mapping[str, Any], device: Mapping[str, Any]) -> int | None:
    """Cold bytes read, plus bytes written beyond the last-level cache, which must reach memory.

    Where the cache's size or the bytes written are unknown, writes are left out: a bound must not be too high. None
    where the bytes read are unknown.
    """
    read_bytes, write_bytes = problem["cold_read_bytes"], problem["write_bytes"]
    cache_bytes = device.get("last_level_cache_bytes")
    if read_bytes is None:
        return None
    return int(read_bytes) + (max(0, write_bytes - cache_bytes) if None not in (write_bytes, cache_bytes) else 0)


def short_dtype(dtype: str) -> str:
    """bf16 for bfloat16."""
    return SHORT_DTYPES.get(dtype, dtype)


def sheet_roof(device: Mapping[str, Any], compute_dtype: str) -> Roof | None:
    """The data sheet's roof, or None for a device or a figure that the sheet does not hold."""
    spec = next((s for s in load_specs() if s.key == device["key"] and s.num_sms == device["num_sms"]), None)
    peak_flops = spec.peak_for(compute_dtype) if spec else None
    if spec is None or peak_flops is None or spec.bandwidth_bytes_per_s is None:
        return None
    return Roof(peak_flops, spec.bandwidth_bytes_per_s)


def measured_roof(ceilings: Mapping[str, float], compute_dtype: str) -> Roof | None:
    """The roof by a large copy and a large product in the same runs, or None unless both were measured."""
    product = ceilings.get(f"matmul_{short_dtype(compute_dtype)}_flops_per_s")
    copy = ceilings.get("copy_bytes_per_s")
    return Roof(product, copy) if product and copy else None
