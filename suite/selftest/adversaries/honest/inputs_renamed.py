"""Takes its inputs out of the dictionary and puts others of its own in, for a helper that wants other names."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to write Python"
RUNS_ON = ("cpu", "cuda")


def decode(given, state):
    return _honest.decode({"q": given["query"], "kv_cache": given["kv_cache"]}, state)


def run(inputs, state):
    inputs.setdefault("query", inputs["q"].view(inputs["q"].shape))
    inputs["q"].name_of_input = "query"
    return decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
