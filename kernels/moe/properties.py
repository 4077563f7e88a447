"""What must hold between outputs of each task, whoever computes them, and random problems to try it on."""

from __future__ import annotations

from collections.abc import Mapping

from ..property import PropertySuite
from ._exchange_properties import PERMUTE, ROUTER, UNPERMUTE
from ._experts_properties import GROUPED_GEMM, LAYER

PROPERTIES: Mapping[str, PropertySuite] = {
    "router": ROUTER,
    "permute": PERMUTE,
    "unpermute": UNPERMUTE,
    "grouped_gemm": GROUPED_GEMM,
    "layer": LAYER,
}
