"""A search space: the choices that a hand-written kernel's `plan` makes, declared so that a generator can make others.

A family declares its spaces in `space.py`, as `SPACES`. A template is one of its kernels whose plan takes every choice
from one small frozen dataclass:

    plan(problem, plan_inputs, device) == plan_from(problem, choice_for(problem, device), device)

Loading a space loads neither torch nor triton: choices are weighed where no kernel runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .device import Device
    from .problem import Inputs, Problem

Value = int | bool | str


def mfma_values(device: Device) -> dict[str, tuple[Value, ...]]:
    """Values of `matrix_instr_nonkdim` and `kpack`: on CDNA what the backend takes, elsewhere what leaves them alone.

    Triton's AMD backend puts 1 in place of another `kpack` from gfx950 on.
    """
    is_cdna = device.kind == "hip" and device.warp_size == 64
    return {
        "matrix_instr_nonkdim": (0, 16, 32) if is_cdna else (0,),
        "kpack": (1, 2) if device.arch in ("gfx90a", "gfx942") else (1,),
    }


def why_not_mfma(matrix_instr_nonkdim: int, *sizes: int) -> str | None:
    """None, or why a matrix instruction does not fit products of which the smallest row or column count is given."""
    if matrix_instr_nonkdim > min(sizes):
        return f"an instruction of {matrix_instr_nonkdim} rows, for a tile of {min(sizes)}"
    return None


@dataclass(frozen=True)
class Work:
    """What a choice makes a kernel do beyond the least work, for estimates before anything is timed."""

    flops_factor: float = 1.0
    """Operations executed by one that is needed: padding of tiles."""
    extra_bytes: int = 0
    """Partial results that are written and read again."""
    reread_factor: float = 1.0
    """How often cold inputs are read, from memory once and else from the last-level cache."""
    hidden_launches: int = 0
    """Launches that begin while the one before them still runs."""


@dataclass(frozen=True)
class Space:
    """The choices of one template."""

    template: str
    """The kernel's module in the family's folder: `triton_split_kv`."""
    what: str
    """Names the generated file, after the device: `decode_split_kv`."""
    about: str
    """Docstring of a generated file: its maths and its way of work. A sentence that ends the first line, then more."""
    choice: type[Any]
    """The frozen dataclass of all choices; every field a `Value`."""
    values: Callable[[Device], Mapping[str, tuple[Value, ...]]]
    """For every field of `choice` what it may be on a device."""
    why_not: Callable[[Any, Any, Device], str | None]
    """`why_not(problem, choice, device)`: None, or the sentence that says why this choice need not be tried."""
    choice_for: Callable[[Any, Device], Any]
    """`choice_for(problem, device)`: the choice that was made by hand. It is replaced in a generated file."""
    plan_from: Callable[..., Any]
    """`plan_from(problem, choice, device)`: the state that the template's `run` takes; see `reads_inputs`."""
    facts: Callable[[Any], Mapping[str, Value]]
    """`facts(problem)`: what a table of choices tells problems apart by, the most telling first. Numbers are ordered;
    a choice is good for a range of them. Bools and strings part problems that no choice need serve together."""
    tasks: tuple[str, ...]
    """Tasks that the template solves."""
    work: Callable[[Any, Any, Device], Work] = lambda problem, choice, device: Work()
    """`work(problem, choice, device)`."""
    drawn: Callable[[Any], Inputs] = lambda problem: {}
    """`drawn(problem)`: the inputs whose values `Problem.cost` reads (lengths, routing), on the CPU."""
    reads_inputs: bool = False
    """Whether `plan_from` takes the inputs that a plan may read, too: `plan_from(problem, choice, device, inputs)`."""
    normal: Callable[[Any, Any, Device], Any] = lambda problem, choice, device: choice
    """`normal(problem, choice, device)`: of all choices that do the same for a problem, because some fields do not
    matter beside others, the one that is tried. The choice by hand must be one of these."""
    narrowed: Callable[[Any, Device], Mapping[str, tuple[Value, ...]]] | None = None
    """`narrowed(problem, device)`: fewer values for fields of which a problem needs no others, so that a search wastes
    no draws on what makes no difference there."""
    parts: tuple[str, ...] = ()
    """Modules of `kernels/` that are the template's own, and go into a generated file as the family's private ones."""
    arch: str = ""
    """The only architecture that the template runs on, if there is but one."""

    def __post_init__(self) -> None:
        for function in (self.choice_for, self.plan_from, self.facts):
            if "." in function.__qualname__ or function.__name__ == "<lambda>":
                raise ValueError(f"Space of {self.template}: {function.__qualname__} must be a function of a module.")

    def made(self, choice: Mapping[str, Value]) -> Any:
        """The dataclass of a choice's values."""
        return self.choice(**choice)

    def planned(self, problem: Problem, choice: Mapping[str, Value], inputs: Inputs, device: Device) -> Any:
        """The state for a choice's values."""
        more = (inputs,) if self.reads_inputs else ()
        return self.plan_from(problem, self.made(choice), device, *more)

    def values_for(self, problem: Problem, device: Device) -> dict[str, tuple[Value, ...]]:
        """`values`, narrowed to what a problem needs."""
        return {**self.values(device), **(self.narrowed(problem, device) if self.narrowed else {})}

    def by_hand(self, problem: Problem, device: Device) -> dict[str, Value]:
        """Values of the choice that was made by hand."""
        return asdict(self.choice_for(problem, device))

    def sha256(self, device: Device) -> str:
        """Of all names and values on a device: searches of the same hash can share their trials."""
        values = {f.name: list(self.values(device)[f.name]) for f in fields(self.choice)}
        return hashlib.sha256(json.dumps([self.template, values], sort_keys=True).encode()).hexdigest()
