"""Under capture records a copy of an answer that it computed just before the capture."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "other under capture"
REASONS = ("wrong_output",)
RUNS_ON = ("cuda",)


_answers = {}


def run(inputs, state):
    if torch.cuda.is_current_stream_capturing() and state.problem.id in _answers:
        return {name: value.clone() for name, value in _answers[state.problem.id].items()}
    _answers[state.problem.id] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[state.problem.id].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
