"""What must hold between outputs of attention, by task."""

from __future__ import annotations

from collections.abc import Mapping

from ..property import PropertySuite
from . import _decode_properties, _prefill_properties, _tree_properties

PROPERTIES: Mapping[str, PropertySuite] = {
    **_prefill_properties.PROPERTIES,
    "decode": _decode_properties.SUITE,
    "tree": _tree_properties.SUITE,
}
