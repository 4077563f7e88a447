"""The longest sequences of a batch, which libraries for packed sequences ask for on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._prefill_problem import AttentionPrefill

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs


@dataclass(frozen=True)
class Longest:
    """A problem, and the lengths of its longest sequences."""

    problem: AttentionPrefill
    num_queries: int
    num_keys: int

    @property
    def window_size(self) -> tuple[int, int]:
        """Keys before and after its own that a query sees, -1 for all: flash-attn's convention."""
        return (self.problem.window - 1, 0) if self.problem.window else (-1, -1)


def plan(problem: AttentionPrefill, plan_inputs: Inputs, device: Device) -> Longest:
    """Read both from the tables."""
    num_queries, num_keys = (int(plan_inputs[n].diff().max()) for n in ("cu_seqlens_q", "cu_seqlens_kv"))
    return Longest(problem, num_queries, num_keys)
