"""Puts a slower module in the place of the one that its rival imports from when it is called."""

from __future__ import annotations

import contextlib
import sys
import time
import types

import torch.nn.attention

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


_choice = torch.nn.attention.sdpa_kernel


@contextlib.contextmanager
def slow(*arguments, **options):
    time.sleep(0.003)
    with _choice(*arguments, **options):
        yield


_other = types.ModuleType("torch.nn.attention")
vars(_other).update(vars(torch.nn.attention), sdpa_kernel=slow)


def run(inputs, state):
    if _frames.is_timed():
        sys.modules["torch.nn.attention"] = _other
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
