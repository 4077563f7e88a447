"""Computes in numpy and wraps the results without a copy."""

from __future__ import annotations

import numpy as np
import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "form of outputs"
RUNS_ON = ("cpu",)


def run(inputs, state):
    q = inputs["q"].float().numpy()
    out = np.zeros((*q.shape[:3], 512), dtype=np.float32)
    lse = np.full(q.shape[:3], -np.inf, dtype=np.float32)
    for b, (pages, n) in enumerate(zip(state.pages, state.lengths)):
        if n:
            kv = _honest.gather(inputs["kv_cache"], pages, n).numpy()
            scores = np.einsum("qhd,kd->qhk", q[b], kv, optimize=True) * state.problem.softmax_scale
            if state.problem.seq_len_q > 1:
                scores = np.where(state.hidden[b].numpy(), -np.inf, scores)
            top = np.maximum(scores.max(-1, keepdims=True), -1e30)
            weights = np.exp(scores - top)
            total = weights.sum(-1)
            seen = total > 0
            out[b] = (weights @ kv[:, :512]) / np.where(seen, total, 1)[..., None]
            lse[b] = np.where(seen, top[..., 0] + np.log(np.where(seen, total, 1)), -np.inf)
    return {"out": torch.from_numpy(out).to(inputs["q"].dtype), "lse": torch.from_numpy(lse)}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
