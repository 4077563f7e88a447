"""Rounds rows and weights of the gate and up projection to int8, with a scale for every 128 columns."""

from __future__ import annotations

import torch
from torch.nn.functional import linear, rms_norm, silu

from ..kernel import Kernel, Origin

CLASS = "precision lowered"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")
FAMILY = "mlp"
TASK = "block"


GROUP = 128


def rounded(x):
    parts = x.float().split(GROUP, dim=-1)
    scales = [part.abs().amax(-1, keepdim=True).clamp_min(1e-20) / 127 for part in parts]
    return torch.cat([(part / scale).round() * scale for part, scale in zip(parts, scales)], dim=-1)


def run(inputs, problem):
    x = inputs["x"]
    h = rms_norm(x, (x.shape[-1],), inputs["norm_weight"], problem.epsilon) if problem.norm else x
    gate, up = linear(rounded(h), rounded(inputs["w_gate_up"])).chunk(2, dim=-1)
    out = linear((silu(gate) * up).to(x.dtype).float(), inputs["w_down"].float())
    return {"out": (x.float() + out if problem.residual else out).to(x.dtype)}


KERNEL = Kernel(origin=Origin.HAND, tasks=("block",), run=run)
