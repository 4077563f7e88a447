"""Registers a slower operator with the dispatcher itself, past the list that torch.library keeps."""

from __future__ import annotations

import sys
import time

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


_libraries = []


def slow_logsumexp(scores, dim, keepdim=False):
    if sys._getframe(1).f_globals["__name__"] != "kernels.mla._honest":
        time.sleep(0.003)
    greatest = scores.amax(dim, keepdim=True)
    return (scores - greatest).exp().sum(dim).log() + greatest.squeeze(-1)


def run(inputs, state):
    if _frames.is_timed() and not _libraries:
        _libraries.append(torch._C._dispatch_library("IMPL", "aten", "CPU", __file__, 1))
        _libraries[0].impl("logsumexp", "CPU", slow_logsumexp)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
