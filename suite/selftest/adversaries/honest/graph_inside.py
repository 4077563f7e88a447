"""Captures itself into a graph for each set of addresses and replays it when called eagerly; outputs are copied out."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "threads and streams"
RUNS_ON = ("cuda",)


_graphs = {}


def run(inputs, state):
    if torch.cuda.is_current_stream_capturing():
        return _honest.decode(inputs, state)
    key = (id(state), *(tensor.data_ptr() for tensor in inputs.values()))
    if key not in _graphs:
        _honest.decode(inputs, state)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = _honest.decode(inputs, state)
        _graphs[key] = (graph, outputs, state)
    graph, outputs, _ = _graphs[key]
    graph.replay()
    return {name: value.clone() for name, value in outputs.items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
