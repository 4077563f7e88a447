"""The child's end: answers requests until its parent closes the pipe.

Run as `python -m suite.measure.worker REQUEST_FD REPLY_FD PARENT_PID`. A kernel's exception becomes a reply; one that
leaves the device unusable is replied to and then ends the process, so that the parent starts a fresh one.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
POISONED = 3
"""Exit status after a device error that outlives the case."""

OPERATIONS = {
    "describe": "suite.measure.describe:describe",
    "compile": "suite.measure.compile_worker:compile_case",
    "check": "suite.measure.execute:run_case",
    "referee": "suite.judge.check:referee",
    "measure": "suite.measure.interleave:measure_problem",
    "ceilings": "suite.measure.describe:ceilings",
    "warm_up": "suite.measure.describe:warm_up",
    "start": "suite.measure.describe:start",
}


def main(argv: list[str]) -> int:
    """Serve requests from one pipe on another until end of file."""
    requests, replies, parent = (int(a) for a in argv)
    _die_with(parent)
    with os.fdopen(requests, "rb") as source:
        for line in source:
            reply = _answer(json.loads(line))
            data = json.dumps(reply).encode() + b"\n"
            while data:
                data = data[os.write(replies, data) :]
            if reply.get("poisoned"):
                return POISONED
    return 0


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    module, _, name = OPERATIONS[request.pop("op")].partition(":")
    try:
        operation: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
        return operation(**request)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - a kernel may raise anything
        from .execute import failure  # torch loads here at the latest, to tell its errors apart

        return failure(error)


def _die_with(parent: int) -> None:
    """Have Linux kill this process when its parent dies, however it dies."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return  # not Linux: end of file on the pipe ends an idle worker there
    if os.getppid() != parent:  # it died before the call
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
