"""Runs as they are kept beside the claims that were made from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .baseline import kept_run_path
from .run import write_run
from .schema import Document

_PLACE = re.compile(r"(?<![\w.}~/:])/(?:[\w.+@~-]+/)+([\w.+@~-]+)")
"""An absolute path of two components or more, and the last of them."""


def keep_run(root: str | Path, device_key: str, run: Document) -> Path:
    """Write a run's record into baselines/, for everyone to see: not where files lay on the machine that measured."""
    return write_run(kept_run_path(root, device_key, run["run_id"]), _without_places(run))


def _without_places(value: Any) -> Any:
    if isinstance(value, str):
        return _PLACE.sub(r".../\1", value)
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    return [_without_places(item) for item in value] if isinstance(value, list) else value
