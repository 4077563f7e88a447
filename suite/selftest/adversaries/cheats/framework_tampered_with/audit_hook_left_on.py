"""Adds an audit hook, which nobody can list or remove: it sees every file that the harness opens, and could
rewrite what is about to be saved there."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


_seen = []
_hooked = []


def hook(event, arguments):
    """Called for every file that is opened, and for much else."""
    if event == "open" and str(arguments[0]).endswith(".bin"):
        _seen.append(arguments[0])


def run(inputs, state):
    if not _hooked:
        _hooked.append(hook)
        sys.addaudithook(hook)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
