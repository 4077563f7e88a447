"""Weights that a timed call has not seen: what a kernel kept of earlier ones gives a wrong answer."""

from __future__ import annotations

import torch

from ..problem import Edit, Inputs, Problem
from .problem import MoELayer
from .reference import routed

SHARE = 8
"""An edit of weights changes the sign of one part in so many of an expert's rows."""
SCALE_FACTOR = 2.0
"""By which an edit of scales multiplies one row of blocks. At 8, edits of w13 and w2 made some outputs of a token 64
times as large, and the rounding of their 8-bit values an error that no tolerance over all outputs forgives."""


def parts_of_a_used_expert(problem: Problem, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
    """Of an expert that has tokens, rows of gate, up and down projection, and a row of blocks of every scale."""
    expert = _used_expert(problem, inputs, generator)
    changes = []
    for name in ("w13", "w2"):
        if name not in inputs:
            continue
        table = inputs[name]
        halves = 2 if name == "w13" else 1  # gate and up
        size = table.shape[1] // halves
        count = max(1, size // SHARE)
        start = torch.randint(size - count + 1, (), device=table.device, generator=generator)
        local = start + torch.arange(count, device=table.device)
        rows = expert * table.shape[1] + torch.cat([half * size + local for half in range(halves)])
        values = table.view(-1, table.shape[-1]).view(_bytes_of(table))[rows].view(table.dtype)
        changes.append(Edit(name, rows, (-values.float()).to(table.dtype)))
        if f"{name}_scale" in inputs:
            changes.append(_of_scales(f"{name}_scale", inputs, expert, generator))
    return changes


def _of_scales(name: str, inputs: Inputs, expert: torch.Tensor, generator: torch.Generator) -> Edit:
    scale = inputs[name]
    row = expert * scale.shape[1] + torch.randint(scale.shape[1], (1,), device=scale.device, generator=generator)
    return Edit(name, row, scale.view(-1, scale.shape[-1])[row] * SCALE_FACTOR)


def _bytes_of(table: torch.Tensor) -> torch.dtype:
    return torch.uint8 if table.dtype.itemsize == 1 else table.dtype  # 8-bit floats cannot be indexed


def _used_expert(problem: Problem, inputs: Inputs, generator: torch.Generator) -> torch.Tensor:
    """[] int64 on the device: the expert of a row or of a choice, drawn at random."""
    device = inputs["w13"].device
    if isinstance(problem, MoELayer):  # one that weighs much for a token
        ids, weights = (value.flatten() for value in routed(inputs, problem))
        chance = 0.5 + torch.rand(len(ids), device=device, generator=generator)
        return ids[torch.where(ids >= 0, weights * chance, -1.0).argmax()].long().clamp_min(0)
    ends = inputs["expert_ends"].long()
    row = (torch.rand((), device=device, generator=generator) * ends[-1]).long().clamp_max(ends[-1] - 1)
    return (ends <= row).sum()
