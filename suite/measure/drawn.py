"""In the worker: the inputs of timed calls, drawn anew for every block."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from kernels.problem import Edit, Inputs, Problem


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

    def draw(self, seed: int) -> None:
        """Draw activations, and replace rows of the other inputs, unless that is done; deterministic in `seed`."""
        if seed == self._seed:
            return
        self.restore()
        self.draw_activations(seed)
        self._undo = [edit.apply(self.inputs) for edit in self.problem.edits(self.inputs, self.generator)]
        self._expected = {name: self.inputs[name].clone() for name in self.problem.activations if name in self.inputs}
        self._seed = seed

    def draw_activations(self, seed: int) -> None:
        """The activations alone."""
        self.problem.redraw(self.inputs, self.generator.manual_seed(seed))

    def changed_activations(self) -> torch.Tensor:
        """[] bool on the device: whether any activation is not what was given. Does not wait."""
        pairs = [(self.inputs[name], expected) for name, expected in self._expected.items()]
        differ = [(now.view(torch.uint8) != then.view(torch.uint8)).any() for now, then in pairs]
        return torch.stack(differ).any() if differ else torch.zeros((), dtype=torch.bool, device=self.generator.device)

    def restore(self) -> None:
        """Put the replaced rows back."""
        for edit in self._undo:
            edit.apply(self.inputs)
        self._undo, self._seed = [], -1
