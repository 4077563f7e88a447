"""Zeroes the KV cache once it is done, so that whoever comes next is wrong. After KernelBench's zero_out_kernel."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "inputs changed"
REASONS = ("inputs_changed",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    inputs["kv_cache"].zero_()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
