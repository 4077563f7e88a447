"""In the worker: the inputs of timed calls, drawn anew for every block."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import torch

from kernels.problem import Edit, Inputs, Problem

from ..judge.renewal import Renewal

MOST_ENTRUSTED_BYTES = 4 << 20
"""A quarter of the longest line that the parent takes."""


class InputsChangedError(RuntimeError):
    """A timed call changed what it was given."""


@dataclass(slots=True)  # an instance's methods cannot be replaced
class Drawn:
    """The inputs of the present call; put back in the end."""

    problem: Problem
    inputs: Inputs
    generator: torch.Generator
    _seed: int = -1
    _expected: Inputs = field(default_factory=dict)
    """Copies of the activations that were given."""
    _undo: list[Edit] = field(default_factory=list)
    _renewal: Renewal = field(init=False)

    def __post_init__(self) -> None:
        self._renewal = Renewal(self.problem, self.inputs)

    def renew(self, seed: int) -> None:
        """Other signs for all inputs that are not redrawn, before the next call's are drawn."""
        self._restore_rows()
        self._renewal.renew(seed)

    def draw(self, seed: int) -> None:
        """Draw activations, and replace rows of the other inputs, unless that is done; deterministic in `seed`."""
        if seed == self._seed:
            return
        self._restore_rows()
        self.draw_activations(seed)
        self._undo = [edit.apply(self.inputs) for edit in self.problem.edits(self.inputs, self.generator)]
        self._expected = {name: self.inputs[name].clone() for name in self.problem.activations if name in self.inputs}
        self._seed = seed

    def draw_activations(self, seed: int) -> None:
        """The activations alone."""
        self.problem.redraw(self.inputs, self.generator.manual_seed(seed))

    def changed_activations(self) -> torch.Tensor:
        """[] bool on the device: whether any activation is not what was given. Does not wait.

        What was given is forgotten now: whoever waits for its copies to go must not learn when the next are drawn.
        """
        pairs = [(self.inputs[name], expected) for name, expected in self._expected.items()]
        self._expected = {}
        differ = [(now.view(torch.uint8) != then.view(torch.uint8)).any() for now, then in pairs]
        return torch.stack(differ).any() if differ else torch.zeros((), dtype=torch.bool, device=self.generator.device)

    def entrust(self) -> list[Any]:
        """What undoes the replaced rows, as JSON: nothing in this process tells any more which they are.

        Empty where that is much: it stays here.
        """
        if sum(edit.values.nbytes for edit in self._undo) > MOST_ENTRUSTED_BYTES:
            return []
        entrusted = [[edit.name, _encoded(edit.rows), _encoded(edit.values.view(torch.uint8))] for edit in self._undo]
        self._undo, self._seed = [], -1
        self.generator.manual_seed(0)
        return entrusted

    def take_back(self, entrusted: list[Any]) -> None:
        """Inverse of `entrust`."""
        device = self.generator.device
        for name, rows, values in entrusted:
            dtype, width = self.inputs[name].dtype, self.inputs[name].shape[-1]
            as_values = _decoded(values, torch.uint8).to(device).view(dtype).view(-1, width)
            self._undo.append(Edit(name, _decoded(rows, torch.int64).to(device), as_values))

    def restore(self) -> None:
        """Put the replaced rows back, and all signs."""
        self._restore_rows()
        self._renewal.restore()

    def _restore_rows(self) -> None:
        for edit in self._undo:
            edit.apply(self.inputs)
        self._undo, self._seed = [], -1


def _encoded(tensor: torch.Tensor) -> str:
    return base64.b64encode(tensor.contiguous().cpu().numpy().tobytes()).decode()


def _decoded(text: str, dtype: torch.dtype) -> torch.Tensor:
    data = bytearray(base64.b64decode(text))
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
