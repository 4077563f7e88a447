"""The CPU as a device: its model, best instruction set and cores are its identity. Reads files only; milliseconds.

Claims made on one CPU are foreign on another, and so is the same model with another number of usable cores.
"""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ASSUMED_CACHE_BYTES = 64 << 20
"""Last-level cache where the system does not tell: it only sizes the flush, so too large is safe."""

# The first whose flag the CPU has names it.
INSTRUCTION_SETS: tuple[tuple[str, str], ...] = (
    ("amx_bf16", "amx"),
    ("avx512f", "avx512"),
    ("avx2", "avx2"),
    ("avx", "avx"),
    ("sse4_2", "sse42"),
    ("sve2", "sve2"),
    ("sve", "sve"),
    ("asimd", "neon"),
)

_NOISE = re.compile(r"\((r|tm|c)\)|@.*$|\b(\d+-core|(dual|quad|six|eight|\w+teen)-core|cpu|processor)\b", re.IGNORECASE)


@dataclass(frozen=True)
class FoundCPU:
    """The CPU of this machine, as far as this process may use it."""

    key: str
    """`cpu-amd-epyc-avx512-2c`."""
    model: str
    isa: str
    """Best instruction set: `avx512`, `avx2`, `neon`, ... or `scalar`."""
    cores: int
    """Logical CPUs that this process may run on, within its container's quota."""
    last_level_cache_bytes: int
    """All last-level caches that those cores reach, together."""
    memory_bytes: int
    """Main memory, within the container's limit."""
    arch: str
    """`x86_64`, `aarch64`."""


def find_cpu() -> FoundCPU:
    """Describe the CPU that this process runs on."""
    info = _cpuinfo()
    model = clean_model(info.get("model name") or _model_elsewhere(info))
    flags = (info.get("flags") or info.get("Features") or "").split()
    isa = next((name for flag, name in INSTRUCTION_SETS if flag in flags), _isa_elsewhere())
    cores = usable_cores()
    return FoundCPU(
        key=f"cpu-{slug(model)}-{isa}-{cores}c",
        model=model,
        isa=isa,
        cores=cores,
        last_level_cache_bytes=last_level_cache_bytes() or ASSUMED_CACHE_BYTES,
        memory_bytes=_memory_bytes(),
        arch={"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine()),
    )


def clean_model(raw: str) -> str:
    """The marketing name without trademarks, core counts and clocks: `Intel Xeon Platinum 8481C`."""
    return " ".join(_NOISE.sub(" ", raw).split()) or "unknown"


def slug(text: str) -> str:
    """Lower case, with single dashes for everything that is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Logical CPUs in this process's affinity mask, or fewer where a cgroup (v2) quota allows less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(cgroup / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        return max(1, min(allowed, math.ceil(int(quota[0]) / int(quota[1]))))
    return allowed


def last_level_cache_bytes(cpus: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Sum over the distinct caches of the highest level that the usable CPUs have; None where the system is silent."""
    found: dict[tuple[int, str], int] = {}
    for index in (path for cpu in _usable_cpus() for path in (cpus / f"cpu{cpu}" / "cache").glob("index*")):
        level, size = _read(index / "level"), _read(index / "size")
        if level.isdigit() and size and _read(index / "type") != "Instruction":
            found[int(level), _read(index / "shared_cpu_list")] = _parse_size(size)
    if not found:
        return (
            _sysctl_int("hw.l3cachesize") or _sysctl_int("hw.perflevel0.l2cachesize") or _sysctl_int("hw.l2cachesize")
        )
    last = max(level for level, _ in found)
    return sum(size for (level, _), size in found.items() if level == last)


def _usable_cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Fields of the first CPU."""
    lines = (line.partition(":") for line in _read(path).split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _model_elsewhere(info: dict[str, str]) -> str:
    """ARM Linux gives numbers in place of a name; macOS has sysctl."""
    if "CPU part" in info:
        return f"ARM {info.get('CPU implementer', '')} {info['CPU part']}"
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def _isa_elsewhere() -> str:
    return "neon" if platform.machine() == "arm64" else "scalar"


def _memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(cgroup / "memory.max")
    return min(installed, int(limit)) if limit.isdigit() else installed


def _parse_size(text: str) -> int:
    """`32768K` in bytes."""
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1])
    return int(text[:-1]) * unit if unit else int(text)


def _read(path: Path) -> str:
    """A small file's text, empty where it cannot be read: these files exist on some systems only."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    if platform.system() != "Darwin":
        return ""
    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip()


def _sysctl_int(name: str) -> int | None:
    text = _sysctl(name)
    return int(text) if text.isdigit() and text != "0" else None
