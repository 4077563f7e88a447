"""How many blocks of a compiled kernel one SM (compute unit) holds at a time.

Limits of an SM: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Of a CDNA compute unit,
four SIMDs with 512 vector registers a lane and 8 waves each: AMD CDNA3 ISA guide, and LLVM's AMDGPUUsage, "VGPRs".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernels.device import Device


@dataclass(frozen=True)
class Limits:
    """Of one SM or compute unit."""

    registers: int
    """Vector registers, counted as one of each thread: 65536, or 512 x 64 lanes x 4 SIMDs."""
    granule: int
    """Registers of a thread are given in multiples of it."""
    warps: int
    blocks: int
    shared_memory_bytes: int
    reserved_bytes: int = 0
    """Shared memory that the system takes for every block."""


def limits_of(device: Device) -> Limits:
    """By architecture; an unknown one is taken for its vendor's smallest."""
    if device.kind == "hip":
        lanes = 512 if device.warp_size == 64 else 1024  # RDNA: 1024 or 1536 a lane of 32
        return Limits(lanes * device.warp_size * 4, 8, 32 if device.warp_size == 64 else 64, 32,
                      device.shared_memory_bytes)  # fmt: skip
    is_large = device.compute_capability in (80, 90, 100, 103)
    return Limits(65536, 8, 64 if is_large else 48, 32 if is_large else 16, device.shared_memory_bytes + 1024, 1024)


def resident_blocks(launch: Mapping[str, Any], device: Device) -> int:
    """Blocks of a launch that an SM holds at once; at least one, since a launch that fits nowhere has failed before."""
    limits, warps = limits_of(device), int(launch["num_warps"])
    registers = max(1, int(launch.get("registers", 128)))
    granted = -(-registers // limits.granule) * limits.granule
    threads = warps * device.warp_size
    shared_bytes = int(launch["shared_memory_bytes"]) + limits.reserved_bytes
    by_shared = limits.shared_memory_bytes // shared_bytes if shared_bytes else limits.blocks
    return max(1, min(limits.blocks, limits.warps // warps, limits.registers // (granted * threads), by_shared))
