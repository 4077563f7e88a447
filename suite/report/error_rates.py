"""How often the gate errs on a device, as `kernelgate selftest --aa` measured it there: words, tables, power curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..device.detect import PROJECT_ROOT
from ..judge.error_curve import CAUGHT, false_alarms, smallest_caught
from ..record.error_rates import read_error_rates
from ..record.schema import RecordError
from .canvas import FAINT, INK, canvas
from .tables import MISSING, Column, number, percent, plain, table, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Document = Mapping[str, Any]

NOT_MEASURED = "Not measured on this device: `kernelgate selftest --aa` does."
READING = (
    "Caught / ended as `holds`, of simulated gate runs that resample the measured launches (pieces of consecutive "
    "launches, with replacement); the rest stayed inconclusive. The extra work was planted: counted, not timed. "
    "Between days, cards and drivers nothing was measured."
)
OTHERS_READING = (
    "Red on pairs of launches of this machine, the mean over the sizes above: what each tool's rule says when a run is "
    "compared with an earlier one. The gate's own row needs several launches for its answer; the others take one."
)
OURS = "this gate"
# From Okabe and Ito's palette, dark to light by size of kernel; the others' rules are greys of different dashes.
_LINES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREYS = (("#6E6E6E", "-"), ("#6E6E6E", "--"), ("#6E6E6E", ":"), ("#A0A0A0", "-"), ("#A0A0A0", "--"))


def error_rates_section(device_key: str, root: Path = PROJECT_ROOT) -> str:
    """What a report says of its device, from the stored file; that it was not measured where there is none."""
    try:
        document = read_error_rates(root, device_key)
    except RecordError as error:
        return f"The stored error rates cannot be used: {text(error)}"
    return NOT_MEASURED if document is None else markdown(document)


def markdown(document: Document) -> str:
    """Both numbers in words, the gate's table by size of kernel, the comparison with other tools' rules."""
    measured = f"Measured {text(str(document['measured_utc'])[:10])}, {_launches(document)}."
    parts = [f"{false_alarm_words(document)} {caught_words(document)} {promise_words(document)} {measured}"]
    parts += [_table(*gate_rows(document)), READING, _table(*other_rows(document)), OTHERS_READING]
    return "\n\n".join(parts)


def false_alarm_words(document: Document) -> str:
    """The first number: what was seen on unchanged code, and its upper limit a gate run."""
    claims = document["simulation"]["num_claims"]
    runs = sum(one["unchanged"]["gate"]["runs"] for one in document["classes"])
    if not runs:
        return "No claim could be made of these launches (too wide an interval), so nothing is known of false alarms."
    seen, limit = false_alarms(document["classes"], claims)
    found = f"{number(100 * seen)}% of gate runs" if seen else f"none of {runs:,} simulated judgements"
    return (
        f"False alarms on unchanged code: {found}; at 95% confidence at most one gate run of {claims} claims in "
        f"{number(1 / limit)} goes red without a cause."
    )


def caught_words(document: Document) -> str:
    """The second number, for each size: "Caught in 99% of runs: 2% at 343 us, 5% at 5.2 us"."""
    found = [f"{_smallest(one)} at {duration(one['kernel_us'])}" for one in _by_size(document)]
    return f"Smallest planted slowdown caught in {CAUGHT:.0%} of runs: {', '.join(found)}."


def promise_words(document: Document) -> str:
    """Whether the losses that the bands promise to catch are caught, and how often one passed for `holds`."""
    points = [(one, next((p for p in one["planted"] if p["percent"] >= promised_percent(one) - 1e-9), None))
              for one in _by_size(document)]  # fmt: skip
    known = [point["gate"] for _, point in points if point is not None and point["gate"]["runs"]]
    if not known:
        return "Whether the losses are caught that the bands promise to catch is not known."
    kept = sum(rates["regressed"] >= CAUGHT for rates in known)
    worst = max(rates["holds"] for rates in known)
    return (
        f"The loss that the bands promise to catch (2% for the largest kernels of a GPU, 10% on a CPU; column "
        f"*promised*) is caught in {CAUGHT:.0%} of runs for {kept} of {len(points)} sizes, and passes for `holds` in "
        f"{'none' if not worst else f'at most {_share(worst)}'} of them."
    )


def gate_rows(document: Document) -> tuple[list[Column], list[list[str]]]:
    """A row a problem, the largest kernel first; cells are plain words."""
    percents = [point["percent"] for point in document["classes"][0]["planted"]]
    titles = ("Kernel", "Launches", "Launch sd", "False alarms a claim", *(f"{x}% slower" for x in percents))
    titles = (*titles, "Promised", "Caught from", "Launches used")
    return [Column(title, number=title != "Kernel") for title in titles], [_gate_row(o) for o in _by_size(document)]


def _gate_row(one: Document) -> list[str]:
    unchanged = one["unchanged"]["gate"]
    alarms = f"{unchanged['regressed']:.5f}" if unchanged["regressed"] else f"0 of {unchanged['runs']:,}"
    return [
        f"{duration(one['kernel_us'])}: {plain(one['problem'], 32)}",
        str(one["launches"]),
        f"{100 * one['launch_sd']:.2f}%",
        alarms if unchanged["runs"] else "refused",
        *(_ended(point["gate"]) for point in one["planted"]),
        f"{promised_percent(one):.3g}%",
        _smallest(one),
        f"{unchanged['mean_launches']:.1f}",
    ]


def promised_percent(one: Document) -> float:
    """The loss that the bands promise to catch: twice d1."""
    return 200 * float(one["bands"]["d1"])


def other_rows(document: Document) -> tuple[list[Column], list[list[str]]]:
    """A row a rule: how often it is red on unchanged code and at each planted slowdown, the mean over problems."""
    points = {"unchanged": [one["unchanged"] for one in document["classes"]]}
    for index, point in enumerate(document["classes"][0]["planted"]):
        points[f"{point['percent']}% slower"] = [one["planted"][index] for one in document["classes"]]
    columns = [Column("Rule"), *(Column(title, number=True) for title in points)]
    rules = list(document["classes"][0]["unchanged"]["others"])
    rows = [[OURS, *(percent(_mean([_regressed(p["gate"]) for p in column])) for column in points.values())]]
    rows += [[plain(r), *(percent(_mean([p["others"].get(r) for p in c])) for c in points.values())] for r in rules]
    return columns, rows


def _regressed(rates: Document) -> float | None:
    """None where `promote` would have made no claim."""
    return float(rates["regressed"]) if rates["runs"] else None


def draw_power(document: Document, path: Path) -> None:
    """The share of runs called slower, by planted slowdown: a line a size of ours, grey lines for the others' rules."""
    title = f"Slowdowns called slower on {plain(document['device']['name'], 50)}"
    with canvas(5.2, title, path) as axes:
        axes.axhline(CAUGHT, color=FAINT, linewidth=0.8, zorder=0)
        first = document["classes"][0]
        for (colour, dash), rule in zip(_GREYS, first["unchanged"]["others"], strict=False):
            ys = [_mean([p["others"].get(rule) for p in column]) for column in _columns(document["classes"])]
            drawn = [(x, y) for x, y in zip(_xs(first), ys, strict=True) if y is not None]
            axes.plot(*zip(*drawn, strict=True), color=colour, linestyle=dash, linewidth=1.4, label=plain(rule, 40))
        for colour, one in zip(_LINES, _by_size(document), strict=False):
            ours = [_regressed(column[0]["gate"]) for column in _columns([one])]
            ys = [math.nan if y is None else y for y in ours]
            label = f"{OURS}, {duration(one['kernel_us'])}"
            axes.plot(_xs(one), ys, color=colour, linewidth=2.2, marker="o", markersize=5, label=label, zorder=3)
        _finish(axes, _xs(first))


def _finish(axes: Axes, xs: Sequence[int]) -> None:
    axes.set_xticks(list(xs), [f"{x}%" for x in xs])
    axes.set_yticks([0, 0.25, 0.5, 0.75, CAUGHT], ["0%", "25%", "50%", "75%", f"{CAUGHT:.0%}"])
    axes.set_ylim(-0.02, 1.03)
    axes.set_xlabel("planted slowdown (0%: unchanged code, where every red is a false alarm)", color=INK)
    axes.set_ylabel("runs called slower", color=INK)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.4, borderpad=0)


def duration(time_us: float) -> str:
    """5.2 µs, 343 µs, 4.6 ms."""
    return f"{number(time_us)} µs" if time_us < 1000 else f"{number(time_us / 1000)} ms"


def _columns(classes: Sequence[Document]) -> list[list[Document]]:
    """Unchanged, then each planted slowdown: the points of all `classes`."""
    planted = zip(*(one["planted"] for one in classes), strict=True)
    return [[one["unchanged"] for one in classes], *(list(points) for points in planted)]


def _xs(one: Document) -> list[int]:
    return [0, *(int(point["percent"]) for point in one["planted"])]


def _by_size(document: Document) -> list[Document]:
    return sorted(document["classes"], key=lambda one: -float(one["kernel_us"]))


def _smallest(one: Document) -> str:
    found = smallest_caught(one)
    return f"{found}%" if found else f"more than {max(_xs(one))}%"


def _ended(rates: Document) -> str:
    return f"{_share(rates['regressed'])} / {_share(rates['holds'])}" if rates["runs"] else "refused"


def _share(rate: float) -> str:
    """One decimal, none where it is exact: 99.9% is not 100%."""
    return f"{rate:.0%}" if rate in (0, 1) else f"{rate:.1%}"


def _launches(document: Document) -> str:
    counts = sorted({one["launches"] for one in document["classes"]})
    return f"{' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))} launches"


def _mean(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return fmean(known) if known else None


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    return table(columns, ([text(cell) if cell != MISSING else cell for cell in row] for row in rows))
