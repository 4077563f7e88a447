"""The end of a pytest run in the terminal: verdicts with the regressed ones first, and where the seconds went.

Everything from records is put into `rich.text.Text`, never into markup. Statuses are words, so that a log without
colours says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import verdicts as judged
from .labels import short_labels
from .tables import count, factor_digits, plain
from .verdicts import Record

STYLES = {
    "regressed": "bold red", "incorrect": "bold red", "failed": "bold red", "inconclusive": "yellow",
    "holds": "green", "unclaimed": "", "skipped": "dim",
}  # fmt: skip
_GREEN_ROWS = 30
"""Green verdicts beyond this are counted, not listed."""


def print_summary(
    console: Console,
    verdicts: Sequence[Record],
    problems: Mapping[str, Record],
    reproduce: Callable[[dict[str, Any]], str],
    phases_s: Mapping[str, float],
) -> None:
    """Table; a sentence and a command for every verdict that is not green; how many there are; the phases.

    Commands are never wrapped or cut, whatever the console's width: they are there to be copied.
    """
    if verdicts:
        console.print(verdict_table(verdicts, problems))
        console.print()
    for verdict in judged.worst_first(verdicts):
        if verdict["status"] not in judged.GREEN:
            console.print(explanation(verdict))
            console.print(Text(f"  {reproduce(dict(verdict))}\n"), soft_wrap=True)
    console.print(count_line(verdicts))
    if phases_s:
        console.print(phase_line(phases_s))


def verdict_table(verdicts: Sequence[Record], problems: Mapping[str, Record]) -> Table:
    """One row a verdict, the worst first. `problems` is the run record's, for short labels."""
    labels = short_labels(problems)
    several = len({problem["family"] for problem in problems.values()}) > 1
    ordered = judged.worst_first(verdicts)
    alarming = [verdict for verdict in ordered if verdict["status"] not in judged.GREEN]
    green = ordered[len(alarming) :]
    caption = f"and {count(len(green) - _GREEN_ROWS, 'more green verdict')}" if len(green) > _GREEN_ROWS else None
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=caption,
        caption_justify="left",
    )
    table.add_column("verdict", no_wrap=True)
    table.add_column("kernel > rival", overflow="fold")
    table.add_column("problem", overflow="fold")
    for title in ("claimed", "measured", "95% interval"):
        table.add_column(title, justify="right", no_wrap=True)
    for verdict in alarming + green[:_GREEN_ROWS]:
        table.add_row(*_cells(verdict, labels, several))
    return table


def _cells(verdict: Record, labels: Mapping[str, str], with_family: bool) -> list[Text]:
    """Kernels without their family, which the problem names where a run has several: the ids are below, and long."""
    status = plain(verdict["status"], 20)
    pair = " > ".join(_stem(name) for name in (str(verdict["kernel"]), judged.rival_name(verdict)) if name)
    family = f"{str(verdict['problem']).split('/', 1)[0]} " if with_family else ""
    low, high = judged.ends(verdict)
    return [
        Text(status, style=STYLES.get(status, "bold red")),
        Text(plain(pair, 160)),
        Text(plain(family + labels.get(verdict["problem"], verdict["problem"]), 80)),
        Text(_factor(verdict["factor_claimed"])),
        Text(_factor(verdict["factor"]), style=STYLES.get(status, "bold red")),
        Text(f"{factor_digits(low)}-{factor_digits(high)}" if low and high else "-"),
    ]


def _stem(kernel: str) -> str:
    """`flash_mla` of `mla/flash_mla`; a base kernel stays recognisable."""
    prefix, _, name = kernel.rpartition(":")
    return f"{prefix}:{name.split('/', 1)[-1]}" if prefix else name.split("/", 1)[-1]


def explanation(verdict: Record) -> Text:
    """`regressed (slower_than_claim)` and the verdict's sentence."""
    status = plain(verdict["status"], 20)
    line = Text.assemble((status, STYLES.get(status, "bold red")), f" ({plain(verdict['reason'], 40)}): ")
    return line.append(plain(judged.why(verdict)))


def count_line(verdicts: Sequence[Record]) -> Text:
    """`1 regressed, 12 holds`, or that nothing was judged."""
    counted = judged.counts(verdicts)
    parts = [
        Text(f"{number} {plain(status, 20)}", STYLES.get(status, "bold red")) for status, number in counted.items()
    ]
    return Text(", ").join(parts) if parts else Text("Nothing was judged.", style="bold red")


def phase_line(phases_s: Mapping[str, float]) -> Text:
    """`142 s: kernels 61 s (43%), checks 20 s (14%), ...`, the longest first."""
    total_s = sum(phases_s.values())
    parts = [
        f"{plain(phase, 30)} {_seconds(seconds)}" + (f" ({seconds / total_s:.0%})" if total_s > 0 else "")
        for phase, seconds in sorted(phases_s.items(), key=lambda item: -item[1])
    ]
    return Text(f"{_seconds(total_s)}: {', '.join(parts)}" if parts else "no phase was timed", style="dim")


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{factor_digits(value)}x"
