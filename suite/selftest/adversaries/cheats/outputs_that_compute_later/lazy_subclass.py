"""Returns tensors of its own class, which compute when something is first done with them."""

from __future__ import annotations

import functools

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs that compute later"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu", "cuda")


class Lazy(torch.Tensor):
    @staticmethod
    def __new__(cls, thunk, name, like):
        self = torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype, device=like.device)
        self.thunk, self.name_of_output = thunk, name
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args = [a.thunk()[a.name_of_output] if isinstance(a, Lazy) else a for a in args]
        return func(*args, **(kwargs or {}))


def run(inputs, state):
    own = {name: tensor.clone() for name, tensor in inputs.items()}
    thunk = functools.cache(lambda: _honest.decode(own, state))
    return {name: Lazy(thunk, name, like) for name, like in _honest.empty_outputs(inputs["q"]).items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
