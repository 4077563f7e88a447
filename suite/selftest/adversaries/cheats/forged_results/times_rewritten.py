"""Replaces json.dumps in its process, so that its own times are a third of what was measured."""

from __future__ import annotations

import json

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "forged results"
REASONS = ("tampered", "timer_contradicted")
RUNS_ON = ("cpu", "cuda")


_dumps = json.dumps


def generous_dumps(value, *args, **kwargs):
    for measurement in value.get("measurements", []) if isinstance(value, dict) else []:
        times_us = measurement["times_us"]
        times_us["mla/times_rewritten"] = [t / 3 for t in times_us["mla/times_rewritten"]]
    return _dumps(value, *args, **kwargs)


def run(inputs, state):
    json.dumps = generous_dumps
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
