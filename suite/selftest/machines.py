"""Machines that tests pretend to run on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from suite.device import cpu, specs
from suite.device.detect import Detected, FoundGPU

EPYC = cpu.FoundCPU("cpu-amd-epyc-avx512-2c", "AMD EPYC", "avx512", 2, 32 << 20, 16 << 30, "x86_64")


def found(row: str, **changes: Any) -> FoundGPU:
    """A GPU that reports what `row` of the data sheet says."""
    spec = specs.spec_by_key(row)
    gpu = FoundGPU(
        key=row,
        name=spec.match[0],
        kind=spec.kind,
        arch=spec.arch,
        num_sms=spec.num_sms,
        warp_size=spec.warp_size,
        shared_memory_bytes=65536,
        l2_bytes=4 << 20,
        memory_bytes=80 << 30,
        uuid="GPU-0",
        index=0,
        pci_bus_id="0000:1b:00.0",
        driver="580.0",
        runtime="CUDA 13.0",
        partition_mode="none",
    )
    return replace(gpu, **changes)


def machine(*gpus: FoundGPU, torch: str | None = "2.13.0", problems: tuple[str, ...] = ()) -> Detected:
    return Detected(devices=gpus, cpu=EPYC, torch=torch, triton="3.9.0", problems=problems)
