"""Returns plain tensors with an attribute in place of their `clone`: they compute when the harness copies them."""

from __future__ import annotations

import functools

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs that compute later"
REASONS = ("wrong_form", "tampered", "timer_contradicted")
RUNS_ON = ("cpu", "cuda")


def compute(outputs, name, inputs, state):
    if outputs:
        outputs.update(_honest.decode(inputs, state))
    return outputs[name]


def run(inputs, state):
    own = {name: tensor.clone() for name, tensor in inputs.items() if name == "q"} | {"kv_cache": inputs["kv_cache"]}
    outputs = _honest.empty_outputs(inputs["q"])
    computed = functools.cache(lambda: _honest.decode(own, state))
    for name, output in outputs.items():
        output.clone = functools.partial(lambda name: computed()[name].detach().clone(), name)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
