"""Folders that a run makes for its workers: made, looked at for room, and removed whatever lies in them.

What a killed run cannot remove any longer, its janitor removes (janitor.py).
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
import tempfile
from pathlib import Path

from .janitor import JANITOR

PROBE_BYTES = 1 << 20
"""A disk with room for less is full."""
REMOVE_TIMEOUT_S = 120


def new_folder(prefix: str, parent: Path | None = None) -> Path:
    """An empty folder for this user alone; OSError where none can be made."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    JANITOR.remember("folder", str(folder))
    return folder


def remove(folder: Path) -> None:
    """Remove a folder. A kernel may have locked what is in it, or nested folders deeper than Python follows."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]) if folder.exists() else ():
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([*command, "--", folder], capture_output=True, timeout=REMOVE_TIMEOUT_S, check=False)
    JANITOR.forget("folder", str(folder))


def has_room(folder: Path | str) -> bool:
    """Whether nothing is lacking but permission for a file in `folder`: quotas count, which no system tells of."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT)
    return True
