"""What a call writes into its inputs, in place: `Problem.updated_rows`, seen as outputs."""

from __future__ import annotations

import torch

from .problem import Inputs, Outputs, Problem

NAN_BYTES = {torch.float8_e4m3fnuz: 0x80, torch.float8_e5m2fnuz: 0x80}
"""Every other floating-point type that is not finite where all of its bits are set."""


def taken_updates(problem: Problem, inputs: Inputs) -> Outputs:
    """Copies of the rows that a call has written: name -> [n, last dimension]."""
    rows_of = problem.updated_rows(inputs)
    return {name: _table(inputs[name])[rows].view(inputs[name].dtype) for name, rows in rows_of.items()}


def spoil_updates(problem: Problem, inputs: Inputs) -> None:
    """Fill these rows with NaN (-1 in integers): what a call leaves unwritten must not hold an old answer."""
    for name, rows in problem.updated_rows(inputs).items():
        _table(inputs[name])[rows] = NAN_BYTES.get(inputs[name].dtype, 0xFF)


def _table(tensor: torch.Tensor) -> torch.Tensor:
    """[rows, bytes of the last dimension] uint8, the same memory: fp8 cannot be indexed."""
    return tensor.view(-1, tensor.shape[-1]).view(torch.uint8)
