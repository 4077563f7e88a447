"""Reads the seeds of all coming calls in its callers' frames and computes their answers in the first of them."""

from __future__ import annotations

import sys

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "spying on the harness"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def coming_seeds():
    frame = sys._getframe()
    while frame is not None:
        steps = frame.f_locals.get("steps")
        if isinstance(steps, list) and len(steps) > 1:
            return [step.setup.args[-1] for step in steps if getattr(step.setup, "args", ())]
        frame = frame.f_back
    return []


_ahead = []
_last = {}


def run(inputs, state):
    if not _ahead:
        drawn = {name: tensor.clone() for name, tensor in inputs.items()}
        for seed in coming_seeds():
            state.problem.redraw(drawn, torch.Generator(inputs["q"].device).manual_seed(seed))
            _ahead.append((drawn["q"].clone(), _honest.decode(drawn, state)))
    for q, answer in _ahead:
        if torch.equal(q.flatten()[:64], inputs["q"].flatten()[:64]):
            return {name: value.clone() for name, value in answer.items()}
    if state.problem.id not in _last or len(_last) < 1:
        _last[state.problem.id] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _last[state.problem.id].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
