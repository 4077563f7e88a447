"""The report of one device as a markdown page that GitHub renders."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean
from typing import Any

from . import verdicts as judged
from .error_rates import error_rates_section
from .findings import findings_section
from .labels import Labels, families, fields_of
from .origins import origins_section
from .pool import OURS, Pool, Row, best_of, is_base, rival_words
from .provenance import environment, reproduction, time_spent
from .tables import (
    MISSING,
    Column,
    code,
    count,
    details,
    factor,
    interval,
    listing,
    number,
    percent,
    plain,
    rounded_factor,
    table,
    text,
)
from .targets import targets_section
from .troubles import troubles

_OPEN_TABLES = 4
"""A family with more problems than this has its tables collapsed."""
_VERDICT_ROWS = 40
"""Green verdicts beyond this are collapsed; all others always show."""


def page(pool: Pool, claims: Sequence[Any], images: dict[str, list[tuple[str, str]]]) -> str:
    """The whole page. `images` holds (alternative text, relative path) for every family."""
    sections = [
        f"# kernelgate on {text(pool.device['name'])}",
        summary(pool, claims),
        *([f"## Targets\n\n{shown}"] if (shown := targets_section(pool)) else []),
        *([f"## By origin\n\n{shown}"] if (shown := origins_section(pool)) else []),
        f"## Verdicts\n\n{verdict_section(pool, claims)}",
        *(family_section(pool, family, images.get(family, [])) for family in families(pool.problems)),
        f"## What could not run, and why\n\n{troubles(pool)}",
        *([f"## What the source shows\n\n{shown}"] if (shown := findings_section(pool)) else []),
        f"## How often the gate errs here\n\n{error_rates_section(str(pool.device['key']))}",
        f"## How the time was spent\n\n{time_spent(pool)}",
        f"## Environment\n\n{environment(pool)}",
        f"## How to reproduce\n\n{reproduction(pool)}",
    ]
    return "\n\n".join(sections) + "\n"


def summary(pool: Pool, claims: Sequence[Any]) -> str:
    """One paragraph: what was measured where and when, the verdicts, the best and the worst speedup."""
    newest = pool.runs[-1]
    source = newest["source"]
    commit = f"commit {code(str(source['git_sha'])[:12])}" if source["git_sha"] else "no commit (not a git checkout)"
    dates = sorted({str(run["started_utc"])[:10] for run in pool.runs})
    when = text(" to ".join(dict.fromkeys([dates[0], dates[-1]])))
    kernels = [kernel for kernel in pool.kernels if not is_base(kernel)]
    measured = (
        f"{text(pool.device['name'])} ({code(pool.device['arch'])}), {when}, "
        f"{commit}{' **with uncommitted changes**' if source['dirty'] else ''}: "
        f"{count(len(kernels), 'kernel')} on {count(len(pool.problems), 'problem')}, "
        f"{count(pool.num_launches, 'launch', 'launches')} in {count(len(pool.runs), 'run')}."
    )
    return "\n\n".join([f"{measured} {_counted(pool, claims)} {headline(pool)}", *_warnings(pool)])


def _warnings(pool: Pool) -> list[str]:
    """What a reader must know before believing any figure below."""
    warnings = [f"> **Unfit runner:** {text(run['unfit'])}" for run in pool.runs if run["unfit"]]
    if len({run["source"]["tree_sha256"] for run in pool.runs}) > 1:
        warnings.append(
            f"> These runs are of different sources. Of a kernel that changed, only the newest was pooled "
            f"({count(pool.measurements_left_out, 'older measurement')} left out)."
        )
    if impossible := [row for row in pool.rows if row.of_sheet is not None and row.of_sheet > 1]:
        names = [f"{code(row.kernel)} at {text(pool.label(row.problem))}" for row in impossible]
        warnings.append(
            f"> **Impossible times:** faster than the data sheet allows, so something was measured wrongly or not "
            f"computed: {listing(names, 5)}."
        )
    return warnings


def _counted(pool: Pool, claims: Sequence[Any]) -> str:
    standing, changed = _verdicts(pool, claims)
    if not standing and not changed:
        return "No verdicts: nothing was judged."
    found = [f"**{n} {text(status)}**" for status, n in judged.counts(standing).items()]
    if changed:
        found.append(f"{len(changed)} on claims that were changed since")
    return f"Verdicts: {', '.join(found)}."


def _verdicts(pool: Pool, claims: Sequence[Any]) -> tuple[list[judged.Record], list[tuple[judged.Record, Any]]]:
    """The newest verdicts, and apart from them those whose claim was changed since, with the claim that stands."""
    found = pool.verdicts()
    changed = judged.overtaken(found, claims)
    return [verdict for verdict in found if not any(verdict is old for old, _ in changed)], changed


def headline(pool: Pool) -> str:
    """Our fastest kernel of every problem against the best vendor kernel: how often ahead, the best, the worst."""
    best = {
        row: row.speedup
        for problem in pool.problems
        if (row := best_of(pool.rows_of(problem), OURS)) is not None and row.speedup is not None
    }
    if not best:
        return "No kernel of ours was measured beside a vendor kernel or the reference."
    ahead = sum(speedup.low > 1 for speedup in best.values())
    behind = sum(speedup.high < 1 for speedup in best.values())
    top, bottom = (pick(best, key=lambda row: best[row].factor) for pick in (max, min))
    mean = rounded_factor(geometric_mean(speedup.factor for speedup in best.values()))
    lead = (
        f"Against {rival_words(pool)}, our fastest kernel is ahead on {ahead} of {count(len(best), 'problem')}, "
        f"behind on {behind}, too close to tell on {len(best) - ahead - behind}; geometric mean {mean}."
    )
    ends = [f"Best: {_told(pool, top)}."] + ([f"Worst: {_told(pool, bottom)}."] if bottom is not top else [])
    return " ".join([lead, *ends])


def _told(pool: Pool, row: Row) -> str:
    assert row.speedup is not None
    return (
        f"{code(row.kernel)} with **{rounded_factor(row.speedup.factor)}** over {code(row.rival)} "
        f"at {text(pool.label(row.problem))}"
    )


def verdict_section(pool: Pool, claims: Sequence[Any]) -> str:
    """All verdicts, the worst first; claims that these runs did not judge as they stand are named below."""
    standing, changed = _verdicts(pool, claims)
    ordered = judged.worst_first(judged.listed(standing, pool.kernels))
    left_out = judged.unjudged(claims, standing)
    cut = _cut(ordered)
    parts = [judged.markdown_table(ordered[:cut], pool.label) if ordered else "Nothing was judged in these runs."]
    if rest := ordered[cut:]:
        parts.append(details(f"{count(len(rest), 'more verdict')}, all green", judged.markdown_table(rest, pool.label)))
    if changed:
        heading = f"{count(len(changed), 'verdict')} on claims that were changed since"
        parts.append(details(heading, judged.overtaken_table(changed, pool.label)))
    if left_out:
        names = [f"{code(c.kernel)} over {code(c.rival)} at {text(pool.label(c.problem))}" for c in left_out]
        parts.append(f"{count(len(left_out), 'stored claim')} not judged as they stand now: {listing(names, 5)}.")
    return "\n\n".join(parts)


def _cut(ordered: Sequence[judged.Record]) -> int:
    return max(_VERDICT_ROWS, sum(verdict["status"] not in judged.GREEN for verdict in ordered))


def family_section(pool: Pool, family: str, images: Sequence[tuple[str, str]]) -> str:
    """Plots, one line a problem, then one table a problem."""
    problems = fields_of(pool.problems, family)
    measured = [problem for problem in problems if pool.rows_of(problem)]
    heading = f"## Speedup by problem: {text(family)}"
    if not measured:
        return f"{heading}\n\nNothing of this family was measured."
    tables = [_problem_block(pool, problem, collapsed=len(measured) > _OPEN_TABLES) for problem in measured]
    plots = [f"![{text(alternative)}]({path})" for alternative, path in images]
    legend = text(Labels(problems).legend(), 600)
    return "\n\n".join([heading, legend, *plots, _overview(pool, measured), *tables, _READING])


_READING = (
    "Times are device times, medians over launches of each launch's median. Factors are against the best vendor kernel "
    "in the same launches (the reference where no vendor kernel ran), with an anytime-valid 95% interval. GB/s counts "
    "the least bytes that the problem must move, TFLOP/s the least operations. *Roof, sheet* is the least possible "
    "time by the data sheet over the measured time; *roof, measured* the same by a large copy and a large product "
    "timed in the same runs."
)


def _overview(pool: Pool, problems: Sequence[str]) -> str:
    columns = [
        Column("Problem"), Column("Fastest of ours"), Column("µs", number=True), Column("Best vendor"),
        Column("µs", number=True), Column("Speedup", number=True), Column("95% interval", number=True),
        Column("Roof, sheet", number=True), Column("Roof, measured", number=True),
    ]  # fmt: skip
    return table(columns, (_overview_cells(pool, problem) for problem in problems))


def _overview_cells(pool: Pool, problem: str) -> list[str]:
    rows = pool.rows_of(problem)
    ours = best_of(rows, OURS)
    rival = next((row for row in rows if row.kernel == row.rival), None)
    speedup = ours.speedup if ours else None
    fastest = rows[0]
    return [
        text(pool.label(problem)),
        code(ours.kernel) if ours else "",
        number(ours.median_us) if ours else "",
        code(rival.kernel) if rival else "",
        number(rival.median_us) if rival else "",
        f"**{rounded_factor(speedup.factor)}**" if speedup else "",
        interval(speedup.low, speedup.high) if speedup else "",
        percent((ours or fastest).of_sheet),
        percent((ours or fastest).of_measured),
    ]


def _problem_block(pool: Pool, problem: str, collapsed: bool) -> str:
    rows, label = pool.rows_of(problem), text(pool.label(problem))
    body = f"{code(problem)}\n\n{_kernel_table(rows)}"
    if not collapsed:
        return f"### {label}\n\n{body}"
    return details(f"<b>{label}</b>: fastest {text(rows[0].kernel)}, {number(rows[0].median_us)} µs", body)


def _kernel_table(rows: Sequence[Row]) -> str:
    numbers = ("Median µs", "Against best vendor", "TFLOP/s", "GB/s", "Roof, sheet", "Roof, measured")
    columns = [Column("Kernel"), Column("Origin"), *(Column(title, number=True) for title in numbers), Column("Timer")]
    columns += [Column("Host µs", number=True), Column("Plan µs", number=True), Column("Graph-safe")]
    return table(columns, (_kernel_cells(row) for row in rows))


def _kernel_cells(row: Row) -> list[str]:
    return [
        code(row.kernel),
        text(row.origin),
        number(row.median_us),
        _against(row),
        number(row.tflops),
        number(row.gb_per_s),
        percent(row.of_sheet),
        percent(row.of_measured),
        text(", ".join(plain(timer).replace("_", " ") for timer in row.timers)),
        number(row.host_us),
        number(row.plan_us),
        {True: "yes", False: "no", None: MISSING}[row.graph_safe],
    ]


def _against(row: Row) -> str:
    if row.kernel == row.rival:
        return "best vendor" if row.origin == "vendor" else row.origin
    if row.speedup is None:
        return MISSING
    return f"{factor(row.speedup.factor)} ({interval(row.speedup.low, row.speedup.high)})"
