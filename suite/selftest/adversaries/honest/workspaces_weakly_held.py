"""Finds workspaces by weak references, counts how often they are freed, and holds none itself."""

from __future__ import annotations

import weakref

import torch

from ..kernel import Kernel, Origin

CLASS = "memory"
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"

_alive = weakref.WeakValueDictionary()
_freed = []


def workspace(like):
    found = _alive.get(like.shape)
    if found is None:
        found = _alive[like.shape] = torch.empty_like(like)
        weakref.finalize(found, _freed.append, like.shape)
    return found


def run(inputs, state):
    wide = workspace(inputs["x"]).copy_(inputs["x"])
    return {"out": wide @ inputs["w"]}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
