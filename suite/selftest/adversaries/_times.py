"""What several cheats use to edit their times where a timer keeps them."""

from __future__ import annotations

import sys


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
