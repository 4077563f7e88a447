"""Returns nothing yet; the answer is computed when the harness clones the outputs to keep them."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


_clone = torch.Tensor.clone
_owed = {}


def pay_and_clone(tensor, *args, **kwargs):
    inputs, state, outputs = _owed.pop(tensor.data_ptr(), (None, None, None))
    if inputs is not None:
        _honest.decode(inputs, state, outputs)
    return _clone(tensor, *args, **kwargs)


_calls = 0


def run(inputs, state):
    global _calls
    _calls += 1
    if not _honest.is_timed(_calls):
        return _honest.decode(inputs, state)
    torch.Tensor.clone = pay_and_clone
    outputs = _honest.empty_outputs(inputs["q"])
    _owed[outputs["out"].data_ptr()] = (inputs, state, outputs)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
