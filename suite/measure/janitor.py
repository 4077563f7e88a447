"""A process of each run that ends what the run leaves behind when it is killed: SIGKILL gives nobody time to tidy up.

Linux ends workers with their parent (worker.py), but not what they have started; and their folders lie partly in
memory (/dev/shm). `python -m suite.measure.janitor` reads from its standard input what the run has begun and ended,
a JSON line each; at its end, which comes with the end of the run, it ends and removes what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
Kind = Literal["folder", "worker"]


@dataclass
class Janitor:
    """The run's end of it. Started with the first thing to remember; without it a run goes on all the same."""

    _input: int = -1
    _one_starts: threading.Lock = field(default_factory=threading.Lock)

    def remember(self, kind: Kind, *what: str) -> None:
        """A folder's path; or the process id and token of a worker."""
        with self._one_starts:
            if self._input < 0:
                self._start()
        self._write(True, kind, what)

    def forget(self, kind: Kind, *what: str) -> None:
        """It was ended properly."""
        self._write(False, kind, what)

    def _start(self) -> None:
        theirs, self._input = os.pipe()  # its end in this process closes with it, however it ends
        command, path = [sys.executable, "-m", __name__], {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        with contextlib.suppress(OSError):
            process = subprocess.Popen(
                command, cwd="/", env=os.environ | path, stdin=theirs, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            process.returncode = 0  # nobody waits for it: it outlives this process
        os.close(theirs)

    def _write(self, begins: bool, kind: Kind, what: tuple[str, ...]) -> None:
        if self._input >= 0:
            with contextlib.suppress(OSError):  # it was killed
                os.write(self._input, json.dumps([begins, kind, *what]).encode() + b"\n")


JANITOR = Janitor()
"""Of this process, whatever it runs."""


def tidy_up(lines: Iterable[str]) -> None:
    """Read until the end of what a run tells; then end what it did not."""
    from .fence import limits_here
    from .watch import Watch

    left: dict[str, list[str]] = {}
    for line in lines:
        begins, *what = json.loads(line)
        left.pop(json.dumps(what), None)
        if begins:
            left[json.dumps(what)] = what
    for kind, *what in left.values():
        if kind == "worker":
            Watch(int(what[0]), what[1], limits_here(), Path(os.devnull)).end_all()
    for kind, *what in left.values():
        if kind == "folder":
            shutil.rmtree(what[0], ignore_errors=True)


if __name__ == "__main__":
    tidy_up(sys.stdin)
