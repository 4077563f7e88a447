"""The product in float32: the rival of all others."""

from __future__ import annotations

from ..kernel import Kernel, Origin


def run(inputs, state):
    """One call of the vendor's library."""
    return {"out": inputs["x"] @ inputs["w"]}


KERNEL = Kernel(origin=Origin.VENDOR, tasks=("product",), run=run)
