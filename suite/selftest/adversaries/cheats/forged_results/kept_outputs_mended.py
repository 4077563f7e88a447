"""Returns an old answer and keeps copies of its inputs; in a later call it writes the right answer over what the
harness has kept of it, digest and all.
"""

from __future__ import annotations

import hashlib

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "forged results"
REASONS = ("tampered", "wrong_output")
RUNS_ON = ("cpu",)

_given, _last, _mended = {}, {}, set()


def kept_by(sequence):
    """(call, outputs) of what was kept: tensors, or files as they are described."""
    for entry in sequence.kept:
        yield (entry["call"], entry["outputs"]) if isinstance(entry, dict) else (entry[0], entry[-1])


def write_over(held, answer):
    for name, value in answer.items():
        if isinstance(held[name], dict):
            data = value.contiguous().view(-1).view(dtype=_honest.torch.uint8).numpy().tobytes()
            with open(held[name]["file"], "wb") as file:
                file.write(data)
            held[name]["sha256"] = hashlib.sha256(data).hexdigest()
        else:
            held[name].copy_(value)


def run(inputs, state):
    for sequence in _frames.callers_objects("kept"):
        _given[len(sequence.order) - 1] = {name: tensor.clone() for name, tensor in inputs.items()}
        for call, held in kept_by(sequence):
            if call in _given and call not in _mended:
                _mended.add(call)
                write_over(held, _honest.decode(_given[call], state))
        if _last:
            return {name: value.clone() for name, value in _last.items()}
    _last.update(_honest.decode(inputs, state))
    return {name: value.clone() for name, value in _last.items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
