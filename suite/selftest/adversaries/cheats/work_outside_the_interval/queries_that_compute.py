"""Gives the queries an attribute in place of their `clone`: the harness, which copies what it has drawn before a timed
call, would compute the answer there.
"""

from __future__ import annotations

import functools

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "work outside the interval"
REASONS = ("inputs_changed", "wrong_output")
RUNS_ON = ("cpu",)

_ahead, _last = {}, {}


def clone_and_compute(q, inputs, state):
    _ahead.update(_honest.decode(inputs, state))
    return q.detach().clone()


def run(inputs, state):
    if not _frames.is_timed():
        return _honest.decode(inputs, state)
    if _ahead or not _last:
        _last.update(_ahead or _honest.decode(inputs, state))
        _ahead.clear()
    inputs["q"].clone = functools.partial(clone_and_compute, inputs["q"], inputs, state)
    return {name: value.clone() for name, value in _last.items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
