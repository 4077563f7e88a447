"""The product."""

from __future__ import annotations

from ..kernel import Kernel, Origin


def run(inputs, state):
    """In double precision."""
    return {"out": (inputs["x"].double() @ inputs["w"].double()).float()}


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("product",), run=run)
