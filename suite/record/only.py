"""What `--only` selects: names that have one of its parts in them."""

from __future__ import annotations

from collections.abc import Sequence


def is_selected(name: str, only: Sequence[str]) -> bool:
    """Whether a name has one of the parts in it; every name is selected where there are none."""
    return not only or any(part in name for part in only)


def as_asked(only: Sequence[str]) -> str:
    """The options again, for a sentence."""
    return " ".join(f"--only {part}" for part in only)
