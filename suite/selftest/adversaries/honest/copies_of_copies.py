"""Copies its inputs and its outputs more often than anybody needs."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "memory"
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    own = {name: tensor.clone().contiguous() for name, tensor in inputs.items()}
    outputs = _honest.decode(own, state)
    return {name: value.contiguous().clone() for name, value in outputs.items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
