"""What several cheats use to find objects of the harness among their callers' local variables."""

from __future__ import annotations

import sys


def callers_objects(attribute):
    """Objects with this attribute that some caller holds in a local variable."""
    frame = sys._getframe(1)
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if hasattr(type(value), attribute):
                yield value
            method = getattr(getattr(value, "setup", None), "func", None)  # a timer holds steps
            if hasattr(type(getattr(method, "__self__", None)), attribute):
                yield method.__self__
        frame = frame.f_back


def timers_frame():
    """The frame of a CPU's timer, which holds the times so far; None where this call is not timed."""
    frame = sys._getframe(1)
    while frame is not None and not {"step", "times_us"} <= frame.f_locals.keys():
        frame = frame.f_back
    return frame


def is_timed():
    """Whether the harness has this call timed."""
    return any(True for _ in callers_objects("kept"))
