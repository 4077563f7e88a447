"""A kernel: one implementation of a family. One file, one `KERNEL = Kernel(origin=Origin.X, ...)`.

`origin` and `tasks` must be literals in the source: kernels are found by reading the file, not by importing it.
A kernel's name is its path below kernels/ without `.py`: `mla/triton_split_kv`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .device import Device
    from .problem import Inputs, Outputs, Problem


class Origin(str, Enum):
    """Who wrote a kernel."""

    REFERENCE = "reference"
    """The maths, in fp32; one per task."""
    VENDOR = "vendor"
    """A library."""
    HAND = "hand"
    """Hand-tuned; ours."""
    GENERATED = "generated"
    """Written by a search or another generator."""


def anywhere(problem: Problem, device: Device) -> str | None:
    """`supports` of a kernel without limits."""
    return None


def problem_is_state(problem: Problem, plan_inputs: Inputs, device: Device) -> Problem:
    """`plan` of a kernel that decides nothing: its state is the problem."""
    return problem


def nothing() -> None:
    """`warm_up` of a kernel that starts fast."""


def no_version() -> str:
    """`version` of a kernel that is nothing but its own file."""
    return ""


@dataclass(frozen=True)
class Kernel:
    """Up to three steps. `plan` is timed by itself; `run` is what is scored."""

    origin: Origin
    tasks: tuple[str, ...]
    """Tasks of the family that it solves: ("decode",)."""
    run: Callable[[Inputs, Any], Outputs]
    """`run(inputs, state) -> outputs`: all work on the inputs' device, on the current stream, without a host
    synchronisation where possible. Returns freshly allocated outputs by name, but for rows that it updates in place
    (`Problem.updated_rows`)."""
    plan: Callable[[Any, Inputs, Device], Any] = problem_is_state
    """`plan(problem, plan_inputs, device) -> state`: every launch decision. Sees lengths and tables
    (`Problem.plan_inputs`), no other tensor. With inputs on device `meta` it must still decide, from shapes alone."""
    supports: Callable[[Any, Device], str | None] = anywhere
    """None, or the sentence that says why this problem cannot run on this device."""
    warm_up: Callable[[], None] = nothing
    """What is slow once in a process and needs no device: imports, compilers' start. Called ahead of a launch."""
    requires: tuple[str, ...] = ()
    """Modules beyond torch that must import for `run` to work: ("triton",) or ("flashinfer",)."""
    uses_triton: bool = False
    """Written in Triton by us: it is interpreted on the CPU and cross-compiled for every device."""
    version: Callable[[], str] = no_version
    """Version of the library behind a vendor kernel, empty for others."""
    output_factors: dict[str, float] = field(default_factory=dict)
    """Constants that the judge multiplies outputs by before it compares: a base-2 LSE declares ln 2."""
