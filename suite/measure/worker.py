"""The child's end: answers requests until its parent closes the pipe.

Run as `python -m suite.measure.worker REQUEST_FD REPLY_FD PARENT_PID LIMITS`. A kernel's exception becomes a reply;
one that leaves the device unusable is replied to and then ends the process, so that the parent starts a fresh one.
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

from .fence import Limits, enter

PR_SET_PDEATHSIG = 1
POISONED = 3
"""Exit status after a device error that outlives the case."""

OPERATIONS = {
    "describe": "suite.measure.describe:describe",
    "compile": "suite.measure.compile_worker:compile_case",
    "compile_choice": "suite.measure.compile_worker:compile_choice",
    "prepare_choices": "suite.measure.choice_times:prepare_choices",
    "measure_choice": "suite.measure.choice_times:measure_choice",
    "check": "suite.measure.execute:run_case",
    "referee": "suite.judge.check:referee",
    "property": "suite.measure.execute_properties:run_property",
    "referee_property": "suite.judge.properties:referee_property",
    "measure": "suite.measure.interleave:measure_problem",
    "ceilings": "suite.measure.describe:ceilings",
    "canary": "suite.measure.canary:canary",
    "warm_up": "suite.measure.describe:warm_up",
    "start": "suite.measure.describe:start",
}

ASKING = frozenset({"measure"})
"""Operations that ask the parent something while they run."""


def main(argv: list[str]) -> int:
    """Serve requests from one pipe on another until end of file."""
    requests, replies, parent = (int(a) for a in argv[:3])
    sys.path[:] = [folder for folder in sys.path if folder != os.getcwd()]  # nothing is imported from there
    enter(Limits.from_json(argv[3]))
    _die_with(parent)
    with os.fdopen(requests, "rb") as source:

        def ask(question: dict[str, Any]) -> dict[str, Any]:
            _send(replies, question)
            answer: dict[str, Any] = json.loads(source.readline())
            return answer

        while line := source.readline():
            reply = _answer(json.loads(line), ask)
            _send(replies, reply)
            if reply.get("poisoned"):
                return POISONED
    return 0


def _send(replies: int, reply: dict[str, Any]) -> None:
    data = json.dumps(reply).encode() + b"\n"
    while data:
        data = data[os.write(replies, data) :]


def _answer(request: dict[str, Any], ask: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    op = request.pop("op")
    if op == "echo":
        return request
    module, _, name = OPERATIONS[op].partition(":")
    if op in ASKING:
        request["ask"] = ask
    try:
        operation: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
        return operation(**request)
    except BaseException as error:  # noqa: BLE001 - a kernel may raise anything
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
