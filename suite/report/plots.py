"""Which plots a family gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .labels import fields_of
from .plot_roofline import draw_roofline
from .plot_speedup import draw_speedup
from .pool import OURS, Pool
from .tables import plain


def draw_family(pool: Pool, family: str, claims: Sequence[Any], folder: Path, stem: str) -> Iterator[tuple[str, Path]]:
    """Draw what the measurements allow into `folder`; yields (alternative text, path of the PNG)."""
    problems = [problem for problem in fields_of(pool.problems, family) if pool.rows_of(problem)]
    name = f"{plain(family, 30)} on {plain(pool.device['name'], 50)}"
    if any(row.speedup for problem in problems for row in pool.rows_of(problem) if row.origin in OURS):
        path = folder / f"{stem}_speedup.png"
        draw_speedup(pool, problems, claims, f"Speedup: {name}", path)
        yield f"Speedup by problem, {name}", path
    if any(pool.roofs(pool.problems[problem]["compute_dtype"]) for problem in problems):
        path = folder / f"{stem}_roofline.png"
        draw_roofline(pool, problems, f"Roofline: {name}", path)
        yield f"Roofline, {name}", path
