"""Edits the timer's list as well, and answers at once, with an old answer, where it sees that another clock looks
on.
"""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("timer_contradicted", "tampered", "wrong_output")
RUNS_ON = ("cpu",)


def list_of_times():
    """The timer's list, while it still grows."""
    frame = sys._getframe()
    while frame is not None:
        times = frame.f_locals.get("times_us")
        if isinstance(times, list):
            return times
        frame = frame.f_back
    return None


_mine = []


def shorten_mine():
    """The entries of earlier calls of this kernel become a third; the present call's comes next."""
    times = list_of_times()
    if times is None:
        return
    for place in _mine:
        if place < len(times):
            times[place] /= 3
    _mine[:] = [len(times)]


def is_watched():
    frame = sys._getframe()
    while frame is not None:
        if "witness" in frame.f_code.co_name:
            return True
        frame = frame.f_back
    return False


_answers = {}


def run(inputs, state):
    shorten_mine()
    if is_watched() and state.problem.id in _answers:
        return {name: value.clone() for name, value in _answers[state.problem.id].items()}
    _answers[state.problem.id] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[state.problem.id].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
