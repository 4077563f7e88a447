"""Computes all sequences but the last; a thread does that one after the return."""

from __future__ import annotations

import threading

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "work outside the interval"
REASONS = ("outside_interval", "wrong_output")
RUNS_ON = ("cpu", "cuda")


@torch.inference_mode()
def last_sequence(inputs, state, outputs):
    b = len(state.lengths) - 1
    if state.lengths[b]:
        kv = _honest.gather(inputs["kv_cache"], state.pages[b], state.lengths[b])
        hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
        outputs["out"][b], outputs["lse"][b] = _honest.attend(
            inputs["q"][b].float(), kv, state.problem.softmax_scale, hidden
        )


def run(inputs, state):
    short = _honest.State(state.problem, (*state.lengths[:-1], 0), state.pages, state.hidden)
    outputs = _honest.decode(inputs, short)
    threading.Thread(target=last_sequence, args=(inputs, state, outputs), daemon=True).start()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
