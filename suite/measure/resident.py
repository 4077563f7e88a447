"""Memory that a process holds, by Linux's quick account of it."""

from __future__ import annotations

import os
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int | str = "self") -> tuple[int, int]:
    """What a process has alone, and what it shares. OSError where there is none, or where this is not Linux."""
    _, resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[:3])
    return (resident - shared) * PAGE_BYTES, shared * PAGE_BYTES
