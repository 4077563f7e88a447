"""Generated kernels against hand-tuned ones and vendors' libraries: one row for each task of a family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import geometric_mean

from .pool import Pool, best_of
from .tables import MISSING, Column, factor, table, text

COMPARED = ("generated", "hand", "vendor")
PAIRS = (("generated", "hand"), ("generated", "vendor"), ("hand", "vendor"))

Times = Mapping[str, float]
"""Origin -> time of its fastest kernel, in us."""


def origins_section(pool: Pool) -> str | None:
    """The table; None where no problem was measured with kernels of two origins."""
    tasks: dict[str, list[Times]] = {}
    for problem in sorted(pool.problems):
        times = _times_us(pool, problem)
        if len(times) > 1:
            tasks.setdefault(_task(problem), []).append(times)
    if not tasks:
        return None
    columns = [Column("Task"), Column("Problems", True), *(Column(f"{a} / {b}", True) for a, b in PAIRS),
               Column("Fastest")]  # fmt: skip
    rows = [_row(task, problems) for task, problems in tasks.items()]
    about = (
        "Speedup of the fastest kernel of one origin over that of the other, geometric mean over problems with both."
    )
    return f"{about}\n\n{table(columns, rows)}"


def _times_us(pool: Pool, problem: str) -> Times:
    best = {origin: best_of(pool.rows_of(problem), (origin,)) for origin in COMPARED}
    return {origin: row.median_us for origin, row in best.items() if row is not None}


def _task(problem: str) -> str:
    family, _, fields = problem.partition("/")
    return f"{family}: {fields.partition('-')[0].replace('_', ' ')}"


def _row(task: str, problems: Sequence[Times]) -> list[str]:
    fastest = Counter(min(times, key=lambda origin: times[origin]) for times in problems)
    told = ", ".join(f"{origin} {fastest[origin]}" for origin in COMPARED if fastest[origin])
    return [text(task), str(len(problems)), *(_mean(problems, a, b) for a, b in PAIRS), told]


def _mean(problems: Sequence[Times], one: str, other: str) -> str:
    ratios = [times[other] / times[one] for times in problems if one in times and other in times]
    return factor(geometric_mean(ratios)) if ratios else MISSING
