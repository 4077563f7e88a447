"""A problem: one point of a family's size sweep, and everything that it implies.

A family is a folder with a `problem.py` that defines one `Problem` subclass a task and two module constants:

    PROBLEMS: Mapping[Tier, tuple[Problem, ...]]    # the sweep; each tier is listed whole
    HARD_CASES: tuple[Problem, ...]                 # odd sizes and edge cases: checked at every tier, never timed

torch is imported inside functions only: collecting tests must not load it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

    from .device import Device

Inputs = dict[str, "torch.Tensor"]
Outputs = dict[str, "torch.Tensor"]
NullKernel = Callable[[Inputs], Outputs]


class Tier(str, Enum):
    """Which problems a run takes."""

    SMOKE = "smoke"
    CI = "ci"
    FULL = "full"


class Residency(str, Enum):
    """Where an input lies when a timed call starts. Part of what a problem means."""

    COLD = "cold"
    """Flushed from every cache: KV caches, weights."""
    WARM = "warm"
    """Touched after the flush: activations, index tables."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype (torch's name, `bfloat16`) of one output, which owns dense memory in any order of dimensions."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Tolerance:
    """How far an output may lie from the fp32 reference.

    Both must hold, with rms over the finite elements of one output:
    `|actual - expected| <= atol + atol_rms * rms(expected) + rtol * |expected|` everywhere, and
    `rms(actual - expected) <= relative_rms * rms(expected)`. Infinities must match exactly; NaN never passes.

    One element in 262,144 may miss the first limit by as much again: the tail of honest roundings grows with the number
    of elements that are drawn. An output of fewer elements has no such leave.
    """

    rtol: float
    relative_rms: float
    atol: float = 0.0
    atol_rms: float = 0.0


@dataclass(frozen=True)
class Cost:
    """The least work that a problem's drawn inputs allow."""

    flops: int
    """Floating-point operations; a fused multiply-add counts as two."""
    cold_read_bytes: int
    """Unique bytes of cold inputs read, counted from the actual lengths and page tables."""
    write_bytes: int
    """Bytes of outputs. What fits the last-level cache need not reach memory within the call."""
    compute_dtype: str
    """The dtype (torch's name) whose peak rate bounds `flops`."""


@dataclass(frozen=True)
class Edit:
    """Other values for some rows of one input, which is seen as [rows, last dimension]."""

    name: str
    rows: torch.Tensor
    """[n] int64, no row twice."""
    values: torch.Tensor
    """[n, last dimension], of the input's dtype."""

    def apply(self, inputs: Inputs) -> Edit:
        """Write the values in place; returns the edit that undoes this one."""
        import torch

        table = inputs[self.name].view(-1, inputs[self.name].shape[-1]).view(torch.uint8)  # fp8 has no index_put
        before = table[self.rows]
        table[self.rows] = self.values.contiguous().view(torch.uint8)
        return Edit(self.name, self.rows, before.view(self.values.dtype))


EDITED_ROWS = 4


@dataclass(frozen=True)
class Problem(ABC):
    """Base of every family's problems. Subclasses are frozen dataclasses of plain values.

    Each field carries `metadata={"tag": ...}` through `tagged`: the short name that it has in the id.
    """

    family: ClassVar[str]
    task: ClassVar[str]
    """What is computed, `decode`; leads the id."""
    residency: ClassVar[Mapping[str, Residency]]
    """For every input by name."""
    activations: ClassVar[tuple[str, ...]]
    """Inputs that are redrawn in place before every timed call."""
    plan_inputs: ClassVar[tuple[str, ...]]
    """Inputs (lengths, tables) that a kernel's `plan` may read; fixed within a launch, fresh in the next."""

    @property
    def id(self) -> str:
        """Identity, derived from all fields: `decode-b64-q1-s4096-...`. Valid in pytest's -k, unique in a family."""
        return "-".join([self.task, *(_tag(f.metadata["tag"], getattr(self, f.name)) for f in fields(self))])

    def field_values(self) -> dict[str, Any]:
        """All fields as JSON values, for records."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @abstractmethod
    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        """Draw all inputs on torch device `device`. Device `meta` gives shapes only."""

    @abstractmethod
    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        """Refill `activations` in place, asynchronously, from a generator on the inputs' device."""

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        """New values for a few rows of the other inputs: what a kernel kept of them from an earlier call is then wrong.

        Asked for before every block of timed calls, after `redraw`. Must show in the outputs well above the tolerances,
        and ask for no more or less work. By default four rows of every cold floating-point input change their sign.
        """
        import torch

        changes = []
        for name, tensor in inputs.items():
            if self.residency[name] is Residency.COLD and name not in self.activations and tensor.is_floating_point():
                table = tensor.view(-1, tensor.shape[-1])
                drawn = torch.randint(len(table), (EDITED_ROWS,), device=tensor.device, generator=generator)
                rows = drawn.unique()
                changes.append(Edit(name, rows, (-table[rows].float()).to(tensor.dtype)))
        return changes

    @property
    def sign_bytes(self) -> Mapping[str, tuple[int, ...]]:
        """Sign bits of inputs whose values are packed in bytes: name -> bytes that repeat throughout the input."""
        return {}

    def updated_rows(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Rows that a call writes into its inputs, in place: name -> [n] int64, none twice.

        The input is seen as [rows, last dimension]. What a call leaves in these rows is an output under the input's
        name, [n, last dimension], that `run` does not return; all else in the input must stay as it is.
        """
        return {}

    def shorten(self, inputs: Inputs, generator: torch.Generator) -> bool:
        """Refill `plan_inputs` in place with other, not larger, lengths; False where the task has none.

        Used to see whether a captured graph still computes the right thing when lengths change under it.
        """
        return False

    @abstractmethod
    def output_specs(self) -> dict[str, TensorSpec]:
        """Shape and dtype of every output."""

    @abstractmethod
    def tolerances(self) -> dict[str, Tolerance]:
        """One tolerance per output."""

    @abstractmethod
    def cost(self, inputs: Inputs) -> Cost:
        """FLOPs and least bytes of these drawn inputs."""

    @abstractmethod
    def memory_bytes(self) -> int:
        """Device memory of all inputs and outputs, without the workspaces of kernels."""

    @abstractmethod
    def null_kernels(self) -> Mapping[str, NullKernel]:
        """Wrong kernels that a lax tolerance would accept; every one of them must be rejected."""

    def cut(self) -> Problem:
        """A smaller problem that is as hard to get right: what a CPU can compute of it. By default the problem."""
        return self

    def unsupported_by(self, device: Device) -> str | None:
        """Why `device` cannot run this problem at all (a missing dtype), or None."""
        return None

    distributions: ClassVar[tuple[str, ...]] = ("normal",)
    """Names that `make_inputs` accepts; correctness runs every one of them."""


def tagged(tag: str, default: Any = ...) -> Any:
    """A dataclass field with the short name that it has in ids."""
    from dataclasses import field

    return field(metadata={"tag": tag}) if default is ... else field(default=default, metadata={"tag": tag})


def _tag(tag: str, value: Any) -> str:
    if isinstance(value, bool):
        return tag if value else f"no{tag}"
    return f"{tag}{value:.5g}" if isinstance(value, float) else f"{tag}{value}"
