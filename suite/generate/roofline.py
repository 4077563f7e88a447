"""What a compiled candidate may take, from its machine code's figures and the data sheet: a ranking, no measurement.

    compute = operations * padding / (peak * instruction * busy * warps)
    memory  = max(least bytes + partial results, rereads / CACHE_RATE) / (bandwidth * min(in flight, busy))
    time    = (max(compute, memory) + exposed * min(compute, memory)) * (1 + spills) + launches

instruction  the share of the peak that the kind of matrix instruction in the code reaches. `mma.sync` on Hopper: 0.62
             (Luo et al. 2024, arXiv:2402.13499, table of dense mma throughput). None at all: the sheet's fp32 peak.
busy         the share of SM time that the grid fills: whole waves of blocks, the last one mostly empty.
warps        fewer than four warps on an SM leave some of its four tensor cores (SIMDs) idle.
in flight    Little's law: bandwidth * LATENCY_S must be on its way. A block has its shared memory on its way, or
             BYTES_A_THREAD.
exposed      1 / (stages * blocks on an SM): with one tile in one block nothing overlaps.
spills       SPILL_WEIGHT for every 256 registers that a thread keeps in memory.

Constants without a source are assumptions: they rank, and nothing is claimed of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kernels.device import Device
from kernels.problem import Cost
from kernels.space import Work

from ..device.specs import DeviceSpec
from .occupancy import resident_blocks

Launch = Mapping[str, Any]
LATENCY_S = 1e-6
"""From a load's issue to its data, while memory is busy. An assumption."""
LAUNCH_US = 2.0
"""From the end of one launch to the start of the next in a graph. An assumption."""
CACHE_RATE = 1.5
"""Last-level cache against memory, in bytes a second. An assumption, on the low side."""
SPILL_WEIGHT = 4.0
"""An assumption: 64 spilled registers double the time."""
MMA_ON_HOPPER = 0.62
WITHOUT_MATRIX_UNITS = 1 / 16
"""Of the matrix peak, where the sheet has no fp32 figure. An assumption."""
BYTES_A_THREAD = 16
UNITS_OF_AN_SM = 4


def estimate_us(cost: Cost, work: Work, launches: Sequence[Launch], spec: DeviceSpec) -> float:
    """Estimated time of one call in us; infinite where the sheet knows no bandwidth. Without a peak of the problem's
    type, its operations count for nothing: all choices execute about as many."""
    device, peak, bandwidth = spec.device(), spec.peak_for(cost.compute_dtype), spec.bandwidth_bytes_per_s
    if not (bandwidth and launches):
        return math.inf
    main = max(launches, key=lambda launch: sum(launch["matrix_instructions"].values()))
    blocks = math.prod(main["grid"])
    resident = resident_blocks(main, device)
    on_an_sm = min(resident, math.ceil(blocks / device.num_sms))
    busy = _busy(blocks, resident, device.num_sms)
    warps = min(1.0, on_an_sm * main["num_warps"] / UNITS_OF_AN_SM)
    rate = _rate(main, peak, spec) * busy * warps if peak else math.inf
    compute_us = cost.flops * work.flops_factor / rate * 1e6
    moved: float = cost.cold_read_bytes + cost.write_bytes + work.extra_bytes
    moved = max(moved, cost.cold_read_bytes * work.reread_factor / CACHE_RATE)
    memory_us = moved / (bandwidth * min(_in_flight(main, on_an_sm, bandwidth, device), busy)) * 1e6
    exposed = 1 / max(1, main["num_stages"] * on_an_sm)
    spills = SPILL_WEIGHT * sum(launch.get("spilled_registers", 0) for launch in launches) / 256
    gaps = max(0, len(launches) - work.hidden_launches) * LAUNCH_US
    overlapped_us = max(compute_us, memory_us) + exposed * min(compute_us, memory_us)
    return float(overlapped_us * (1 + spills) + gaps)


def _busy(blocks: int, resident: int, num_sms: int) -> float:
    """The share of SM time that has work."""
    waves = math.ceil(blocks / (resident * num_sms))
    if waves > 1:
        return blocks / (waves * resident * num_sms)
    return blocks / (math.ceil(blocks / num_sms) * num_sms)


def _rate(launch: Launch, peak: float, spec: DeviceSpec) -> float:
    kinds = launch["matrix_instructions"]
    if not kinds:
        return spec.peak_flops.get("float32", peak * WITHOUT_MATRIX_UNITS)
    only_mma = set(kinds) == {"mma"} and spec.device().compute_capability >= 90
    return peak * (MMA_ON_HOPPER if only_mma else 1.0)


def _in_flight(launch: Launch, on_an_sm: int, bandwidth: float, device: Device) -> float:
    """The share of the bytes that must be on their way which are, at most 1."""
    threads = launch["num_warps"] * device.warp_size
    block_bytes = max(launch["shared_memory_bytes"], threads * BYTES_A_THREAD)
    return min(1.0, float(on_an_sm * block_bytes * device.num_sms) / (bandwidth * LATENCY_S))
