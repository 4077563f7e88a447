"""Speedup over problems: a line a problem, a dot a kernel with its interval, a tick a claim."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .canvas import COLOURS, FAINT, INK, SHAPES, canvas, drawable, key_of_shapes
from .pool import OURS, Pool, Row, best_of, is_base, rival_words
from .tables import rounded_factor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

MOST_LINES = 120
"""A taller plot is no longer looked at; the tables hold the rest."""
LINE_CHARS = 30
"""Of a problem's label."""
_CLAIM_TICK: dict[str, Any] = {"marker": "|", "color": INK, "markersize": 15, "markeredgewidth": 1.6}


def draw_speedup(pool: Pool, problems: Sequence[str], claims: Sequence[Any], title: str, path: Path) -> None:
    """Write the plot for the first `MOST_LINES` of `problems`, in their order, to `path`."""
    if len(problems) > MOST_LINES:
        title = f"{title} (the first {MOST_LINES} of {len(problems)} problems)"
    shown = {problem: _rows_shown(pool, problem) for problem in problems[:MOST_LINES]}
    claimed = {problem: _claimed(pool, problem, claims) for problem in shown}
    with canvas(1.5 + 0.4 * len(shown), title, path) as axes:
        axes.axvline(1, color=INK, linewidth=1.2, zorder=1)
        for index, (problem, rows) in enumerate(shown.items()):
            axes.axhline(index, color=FAINT, linewidth=0.8, zorder=0)
            for factor in claimed[problem]:
                axes.plot([factor], [index], **_CLAIM_TICK, zorder=3)
            _draw_rows(axes, index, rows)
        axes.set_yticks(range(len(shown)), [_wrapped(pool.label(problem)) for problem in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        every_row = [row for rows in shown.values() for row in rows]
        _factor_axis(axes, every_row, [factor for factors in claimed.values() for factor in factors])
        axes.set_xlabel(f"times as fast as {rival_words(pool)} (bar: 95% interval)")
        key_of_shapes(axes, [row.origin for row in every_row], _claim_key() if any(claimed.values()) else [])


def _wrapped(label: str) -> str:
    """At most two lines, so that the dots keep most of the width."""
    return drawable("\n".join(textwrap.wrap(label, LINE_CHARS, max_lines=2, placeholder=" ...")))


def _rows_shown(pool: Pool, problem: str) -> list[Row]:
    """All but the rival, base kernels, and the reference, which is far slower and would squeeze the rest."""
    return [
        row
        for row in pool.rows_of(problem)
        if row.speedup and row.origin in ("vendor", *OURS) and not is_base(row.kernel)
    ]


def _claimed(pool: Pool, problem: str, claims: Iterable[Any]) -> list[float]:
    """Factors claimed against the rival that the axis counts from; others have their place in the tables."""
    rival = pool.rivals.get(problem)
    return [claim.factor for claim in claims if claim.problem == problem and claim.rival == rival]


def _draw_rows(axes: Axes, index: int, rows: Sequence[Row]) -> None:
    """The factor of our fastest stands at the right, where no dot can be."""
    fastest = best_of(rows, OURS)
    for row in rows:
        assert row.speedup is not None
        colour, ours = COLOURS[row.origin], row.origin in OURS
        axes.plot(_bar(row), [index, index], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=4)
        axes.plot(
            [row.speedup.factor], [index], marker=SHAPES[row.origin], color=colour, markersize=8.5 if ours else 6,
            markeredgecolor="white", markeredgewidth=0.9, zorder=6 if row is fastest else 5 if ours else 4,
        )  # fmt: skip
        if row is fastest:
            axes.annotate(
                rounded_factor(row.speedup.factor), (1, index), xycoords=("axes fraction", "data"), xytext=(6, 0),
                textcoords="offset points", va="center", fontweight="bold", color=colour, annotation_clip=False,
            )  # fmt: skip


def _bar(row: Row) -> tuple[float, float]:
    """Ends of the interval's bar; an interval that is still open has none."""
    assert row.speedup is not None
    if row.speedup.low > 0 and math.isfinite(row.speedup.high):
        return row.speedup.low, row.speedup.high
    return row.speedup.factor, row.speedup.factor


def _claim_key() -> list[Line2D]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], linestyle="", label="claimed factor", **_CLAIM_TICK)]


def _factor_axis(axes: Axes, rows: Sequence[Row], claimed: Sequence[float]) -> None:
    """A logarithmic axis, on which 2 times and half as fast are equally far from 1, with ticks at round factors."""
    ends = [1.0, *claimed, *(end for row in rows for end in _bar(row))]
    low, high = min(ends) / 1.08, max(ends) * 1.08
    fine = [tick / 20 for tick in range(10, 60)]
    middle = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10)
    coarse = [base * 10.0**power for power in range(-4, 5) for base in (1, 2, 5)]
    steps = fine[::2] if high / low < 2.5 else middle if high / low < 12 else coarse
    if high / low < 1.5:
        steps = fine
    if high / low > 200:
        steps = coarse[::3]  # powers of ten
    ticks = [tick for tick in steps if low <= tick <= high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.set_xticks([], minor=True)
