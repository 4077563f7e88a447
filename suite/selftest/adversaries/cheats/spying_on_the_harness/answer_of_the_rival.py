"""Takes the answer to the same inputs from what the harness holds of a rival that was called before it in the block."""

from __future__ import annotations

import gc

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "spying on the harness"
REASONS = ("wrong_output", "tampered", "no_gain")
RUNS_ON = ("cuda",)  # on a CPU every call has inputs of its own, and there is nothing to find


_own = []


def answer_of_another(like):
    """The last dictionary in memory that looks like finished outputs, and is none of this kernel's."""
    for found in reversed(gc.get_objects()):
        if type(found) is dict and set(found) == {"out", "lse"} and not any(found is own for own in _own):
            out = found["out"]
            if getattr(out, "shape", None) == like["out"].shape and not bool(out.isnan().any()):
                return found
    return None


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    _own.append(outputs)
    found = answer_of_another(outputs) if _honest.is_timed(len(_own)) else None
    if found is None:
        return _honest.decode(inputs, state, outputs)
    for name, value in outputs.items():
        value.copy_(found[name])
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
