"""Markdown pieces: escaping, tables, numbers.

Everything that comes from a record is data. It reaches a page through `text` or `code` only, which bound its size
and leave nothing in it that GitHub would interpret: no table cell ends early, no HTML, link or mention begins.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MISSING = "–"
"""What a page shows where a record has no figure."""
CELL_LIMIT_CHARS = 400
_ENTITIES = str.maketrans({c: f"&#{ord(c)};" for c in "&<>|`$@*[]~\\#!{}"})
_UNDERSCORE_AT_EDGE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_SAFE_IN_CODE = re.compile(r"[\w./:@+=%-]+", re.ASCII)


def plain(value: object, limit: int = CELL_LIMIT_CHARS) -> str:
    """One line of printable characters, at most `limit` of them; a cut is marked with an ellipsis."""
    raw = str(value)[: 4 * limit]
    # Categories C* are controls and invisible direction marks, which could reorder a line as it is displayed.
    shown = "".join(" " if c.isspace() else c for c in raw if c.isspace() or unicodedata.category(c)[0] != "C")
    line = " ".join(shown.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def text(value: object, limit: int = CELL_LIMIT_CHARS) -> str:
    """`value` as inert markdown, safe inside and outside table cells."""
    line = _UNDERSCORE_AT_EDGE.sub("&#95;", plain(value, limit).translate(_ENTITIES))
    return line.replace("://", "&#58;//").replace("www.", "www&#46;")  # GitHub links bare addresses by itself


def code(value: object, limit: int = CELL_LIMIT_CHARS) -> str:
    """`value` as a code span where its characters allow it (ids do), else as inert text."""
    line = plain(value, limit)
    return f"`{line}`" if _SAFE_IN_CODE.fullmatch(line) else text(value, limit)


def fence(lines: Iterable[str], language: str = "bash", limit: int = 2000) -> str:
    """A code block whose fence is longer than any run of backticks in `lines`."""
    body = [plain(line, limit) for line in lines]
    longest = max((len(run) for line in body for run in re.findall("`+", line)), default=0)
    marks = "`" * max(3, longest + 1)
    return "\n".join([marks + language, *body, marks])


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    number: bool = False
    """Numbers are aligned right."""


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub table. Cells must be markdown already: see `text` and `code`."""
    lines = [[c.title for c in columns], ["--:" if c.number else ":--" for c in columns], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def details(summary: str, body: str) -> str:
    """A collapsed block. `summary` is HTML, where `text` is safe too."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent: 2643, 193, 4.56, 0.0312."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{decimals}f}" if decimals > 0 else f"{round(value):,}"


def rate(per_second: float, unit: str) -> str:
    """A rate in the largest unit that fits: 4.27 TB/s, 21.0 GB/s, 770 TFLOP/s."""
    prefix, scale = next((p for p in (("T", 1e12), ("G", 1e9)) if per_second >= p[1]), ("M", 1e6))
    return f"{number(per_second / scale)} {prefix}{unit}/s"


def percent(fraction: float | None) -> str:
    """0.774 as 77%; below a tenth with one decimal."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return f"{100 * fraction:.0f}%" if abs(fraction) >= 0.1 else f"{100 * fraction:.1f}%"


def factor(value: float | None) -> str:
    """A speedup with the digits that a gate decides on: 1.621×."""
    return MISSING if value is None or not math.isfinite(value) else f"{factor_digits(value)}×"


def factor_digits(value: float) -> str:
    """A speedup without its sign of multiplication: three decimals, above 10 three digits."""
    return f"{value:.3f}" if value < 10 else number(value)


def rounded_factor(value: float) -> str:
    """A speedup for sentences and plots: 1.62×; three decimals only where 0.998 would read as 1.00."""
    return f"{value:.3f}×" if abs(value - 1) < 0.005 else f"{value:.2f}×"


def interval(low: float | None, high: float | None) -> str:
    """An interval of speedups. An end that the evidence does not bound yet is said to be open."""
    ends = [factor_digits(end) if end is not None and math.isfinite(end) and end > 0 else "open" for end in (low, high)]
    return MISSING if ends == ["open", "open"] else " – ".join(ends)


def count(how_many: int, noun: str, plural: str = "") -> str:
    """1 launch, 2 launches."""
    return f"{how_many} {noun if how_many == 1 else plural or noun + 's'}"


def listing(items: Sequence[str], most: int = 3) -> str:
    """The first `most` of `items`, and how many more there are."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
