"""Options of pytest and its plugins that would leave claims unjudged in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

REFUSED = {
    "benchmark_skip": "--benchmark-skip would leave every claim unjudged",
    "setuponly": "--setup-only would leave every claim unjudged",
    "setupplan": "--setup-plan would leave every claim unjudged",
    "numprocesses": "-n would measure several kernels at once on one device",
    "tx": "--tx would measure several kernels at once on one device",
}
"""Option -> why."""


def why_refused(option: Callable[[str, Any], Any], has_plugin: Callable[[str], bool]) -> str | None:
    """A sentence where pytest cannot run the gate as it was called, or None. `option` is pytest's `getoption`."""
    if not has_plugin("benchmark"):
        return "The gate hands its times to pytest-benchmark, which is not here or switched off: run with it."
    return next((f"{why}: run without it." for name, why in REFUSED.items() if option(name, None)), None)
