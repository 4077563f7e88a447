"""Replays a graph of its own that was captured on copies of the first inputs. Seen at GPU MODE, with stale pointers."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "other under capture"
REASONS = ("wrong_output",)
RUNS_ON = ("cuda",)


_graphs = {}


def run(inputs, state):
    key = state.problem.id
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("this kernel has a graph of its own")
    if key not in _graphs:
        own = {name: tensor.clone() for name, tensor in inputs.items()}
        _honest.decode(own, state)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            outputs = _honest.decode(own, state)
        _graphs[key] = (graph, outputs, own)
    graph, outputs, _ = _graphs[key]
    graph.replay()
    return {name: value.clone() for name, value in outputs.items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
