"""Under capture records a copy from the memory that a rival's graph writes its outputs to: every replay then takes
the rival's latest answer.
"""

from __future__ import annotations

import gc

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "spying on the harness"
REASONS = ("wrong_output",)
RUNS_ON = ("cuda",)


_own = []


def buffers_of_others(like):
    for found in gc.get_objects():
        is_another = type(found) is dict and set(found) == {"out", "lse"} and not any(found is own for own in _own)
        if is_another and getattr(found["out"], "shape", None) == like["out"].shape and found["out"].is_cuda:
            return found
    return None


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    _own.append(outputs)
    if torch.cuda.is_current_stream_capturing():
        others = buffers_of_others(outputs)
        if others is not None:
            for name, value in outputs.items():
                value.copy_(others[name])
            return outputs
        raise RuntimeError("nobody to copy from")
    return _honest.decode(inputs, state, outputs)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
