"""What a run says to people: markdown pages with plots, a step summary, the terminal's verdict table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .step_summary import summary_markdown

__all__ = ["summary_markdown", "write_report"]

_UNSAFE_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


def write_report(runs: Sequence[Mapping[str, Any]], claims: Sequence[Any], out_path: Path) -> list[Path]:
    """Write `<device>.md` into folder `out_path`, and its plots into `<device>/` beside it; one page a device.

    Runs of one device are pooled. `claims` are the stored ones of these devices: objects with kernel, rival,
    problem and factor, of which those that no run judged are named. Returns every path written, pages first.
    Raises ValueError without runs and OSError where a file cannot be written.
    """
    from .pool import pools

    if not runs:
        raise ValueError("A report needs at least one run, and none was given.")
    written = [_write_device(pool, claims, out_path) for pool in pools(runs)]
    return [page for page, _ in written] + [plot for _, plots in written for plot in plots]


def _write_device(pool: Any, claims: Sequence[Any], folder: Path) -> tuple[Path, list[Path]]:
    from .labels import families
    from .markdown import page
    from .plots import draw_family

    name = file_name(pool.device["key"])
    plots_folder = folder / name
    plots_folder.mkdir(parents=True, exist_ok=True)
    images: dict[str, list[tuple[str, str]]] = {}
    plots: list[Path] = []
    for family in families(pool.problems):
        for alternative, path in draw_family(pool, family, claims, plots_folder, file_name(family)):
            images.setdefault(family, []).append((alternative, f"{name}/{path.name}"))
            plots.append(path)
    target = folder / f"{name}.md"
    target.write_text(page(pool, claims, images), encoding="utf-8")
    return target, plots


def file_name(key: object) -> str:
    """`key`, which comes from a record, as the name of a file: it cannot leave its folder."""
    return _UNSAFE_IN_NAMES.sub("-", str(key)).strip("-")[:80] or "unnamed"
