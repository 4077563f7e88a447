"""Properties: what the maths guarantees between a kernel's outputs on several inputs, tested on random problems.

A family folder may have a `properties.py` with one module constant:

    PROPERTIES: Mapping[str, PropertySuite]    # by task

Inputs are derived in the kernel's process and again where its outputs are judged, from one seed: what a property
derives must depend on nothing but its arguments. torch and hypothesis are imported inside functions only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .device import Device
    from .problem import Inputs, Outputs, Problem

FAR_SCORE = 120.0
"""Beyond what float32 can take the exponential of, up (88.7) and down (-103.3): a softmax subtracts its maximum."""

Relation = Callable[["Outputs", "Sequence[Outputs]"], tuple["Outputs", "Outputs"]]
"""(outputs of the base, outputs of each derived case), all float32 -> two sides that must be equal."""


@dataclass(frozen=True)
class Derived:
    """What a property makes of one problem and its inputs."""

    cases: tuple[tuple[Any, Inputs], ...]
    """(problem, inputs): each is run by itself, and its outputs are held against the reference as well."""
    relate: Relation
    """The sides carry the errors of two outputs, so they may differ by twice the problem's tolerance."""


Property = Callable[[Any, "Inputs", "torch.Generator"], "Derived | None"]
"""`property(problem, inputs, generator on the CPU)`; None where it says nothing about the problem. Its docstring
begins with a line that says what must hold. It leaves the inputs as they are."""


@dataclass(frozen=True)
class PropertySuite:
    """All that a family says about one task off its sweep."""

    problem_class: type[Problem]
    problems: Callable[[Device, bool], Any]
    """`problems(device, tiny)` -> a hypothesis strategy of problems that the device can run, a few hundred tokens or
    rows large; where `tiny`, what Triton's interpreter runs in a tenth of a second."""
    properties: Mapping[str, Property]


def derive(suite: PropertySuite, name: str, problem: Problem, inputs: Inputs, seed: int) -> Derived | None:
    """What property `name` makes of inputs drawn from `seed`; the same in every process."""
    import torch

    generator = torch.Generator().manual_seed((seed + zlib.crc32(name.encode())) % 2**63)
    return suite.properties[name](problem, inputs, generator)


def with_far_scores(q: torch.Tensor, per_key_unit: float) -> torch.Tensor:
    """Queries [..., heads, head_dim] whose last column moves all scores: by `FAR_SCORE`, down in every other head.

    `per_key_unit`: what a 1 in that column adds to a score, given what the caller has there in all keys.
    """
    import torch

    sign = 1 - 2 * (torch.arange(q.shape[-2], device=q.device) % 2)
    far = q.clone()
    far[..., -1] = (sign * FAR_SCORE / per_key_unit).to(q.dtype)
    return far
