"""Resources of compiled Triton functions, as rows, as text for a terminal and as a markdown page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .tables import MISSING, Column, code, count, details, fence, table, text

TITLES = (
    "kernel",
    "function",
    "config",
    "warps",
    "stages",
    "registers",
    "spills",
    "shared memory",
    "matrix",
    "problems",
)
LEGEND = (
    "A row is one piece of machine code. Registers and spills: 32-bit registers of a thread. Shared memory (LDS): "
    "bytes of a block. Matrix: instructions in the code. Problems: how many it serves."
)
_NUMBERS = frozenset({"warps", "stages", "registers", "spills", "shared memory", "problems"})
_FIGURES = ("num_warps", "num_stages", "registers", "spilled_registers", "shared_memory_bytes")


def resource_table(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each distinct piece of machine code, from `CompileResult.to_json()` of many cases.

    A row is a launch without its grid, plus `kernel` and `problems`, the number of problems that it serves.
    """
    rows: dict[str, dict[str, Any]] = {}
    problems: dict[str, set[str]] = {}
    for result in results:
        for launch in result["launches"]:
            row = {"kernel": result["kernel"], **{k: v for k, v in launch.items() if k != "grid"}}
            key = json.dumps(row, sort_keys=True)
            rows[key] = row
            problems.setdefault(key, set()).add(result["problem"])
    ordered = sorted(rows, key=lambda key: _order(rows[key]))
    return [{**rows[key], "problems": len(problems[key])} for key in ordered]


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """By kernel, function and configuration, numbers as numbers."""
    config = [(k, (v, "") if isinstance(v, (int, float)) else (0, str(v))) for k, v in row["constexprs"].items()]
    return row["kernel"], row["function"], config, row["binary_sha256"]


def resource_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal: one line a function, with the range of each figure over all its configurations."""
    functions: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        functions.setdefault((row["kernel"], row["function"]), []).append(row)
    titles = ["kernel", "function", "codes", *(TITLES[i] for i in range(3, 9))]
    lines = [titles, *([*name, str(len(alike)), *_ranges(alike)] for name, alike in functions.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    right = [title in _NUMBERS or title == "codes" for title in titles]
    aligned = ([c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def compile_report(
    results: Sequence[Mapping[str, Any]], device_key: str, arch: str, versions: Mapping[str, str]
) -> str:
    """A markdown page: what failed, what was compiled, what was left out, and how to do it again."""
    rows = resource_table(results)
    tally = Counter(result["status"] for result in results)
    compiler = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        f"# Compiled for {text(device_key)} ({text(arch)})",
        f"{count(tally['compiled'], 'case')} compiled, {tally['failed']} failed, {tally['skipped']} skipped.",
        f"Compiler: {text(compiler)}.",
        *_failures(results),
        "## Resources",
        LEGEND,
        table([Column(t, t in _NUMBERS) for t in TITLES], [_markdown_cells(row, rows) for row in rows]),
        *_skipped(results),
        "## Reproduce",
        fence([f"pytest --gpu {device_key} --compile-only"]),
    ]
    return "\n\n".join(parts) + "\n"


def _ranges(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """`242-255` for each figure, and the matrix instructions likewise."""
    columns = [[row[name] for row in rows if name in row] for name in _FIGURES]
    kinds = sorted({kind for row in rows for kind in row["matrix_instructions"]})
    matrix = [f"{kind}:{_range([row['matrix_instructions'].get(kind, 0) for row in rows])}" for kind in kinds]
    return [*(_range(column) for column in columns), " ".join(matrix) or "none"]


def _range(values: Sequence[int]) -> str:
    if not values:
        return MISSING
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def _cells(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    alike = [r for r in rows if (r["kernel"], r["function"]) == (row["kernel"], row["function"])]
    config = [*_telling("constexprs", row, alike), *(_telling("types", row, alike) if len(alike) > 1 else [])]
    matrix = " ".join(f"{name}:{n}" for name, n in row["matrix_instructions"].items())
    figures = [str(row.get(k, MISSING)) for k in _FIGURES]
    return [row["kernel"], row["function"], " ".join(config), *figures, matrix or "none", str(row["problems"])]


def _telling(name: str, row: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells a row from others of its function; all of it where there are no others."""
    return [
        f"{key}={value}"
        for key, value in row[name].items()
        if len(alike) == 1 or any(other[name].get(key) != value for other in alike)
    ]


def _markdown_cells(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    kernel, function, *rest = _cells(row, rows)
    return [code(kernel), code(function), *(text(cell) for cell in rest)]


def _failures(results: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [
        [code(r["kernel"]), code(r["problem"]), text(f"{r['reason']}: {r['sentence']}")]
        for r in results
        if r["status"] == "failed"
    ]
    return ["## Failed", table([Column("kernel"), Column("problem"), Column("why")], failed)] if failed else []


def _skipped(results: Sequence[Mapping[str, Any]]) -> list[str]:
    why = Counter((r["kernel"], r["sentence"]) for r in results if r["status"] == "skipped")
    rows = [[code(kernel), text(sentence), str(n)] for (kernel, sentence), n in sorted(why.items())]
    body = table([Column("kernel"), Column("why"), Column("problems", number=True)], rows)
    return [details(f"{count(sum(why.values()), 'case')} skipped", body)] if rows else []
