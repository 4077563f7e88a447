"""Adds an audit hook by code that runs among a library's global names, as if the library had."""

from __future__ import annotations

import torch.hub

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


ADD = "import sys\nsys.addaudithook(lambda event, arguments: None)"
_added = []


def run(inputs, state):
    if not _added:
        _added.append(exec(ADD, vars(torch.hub)))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
