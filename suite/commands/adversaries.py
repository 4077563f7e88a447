"""`kernelgate selftest --adversaries`: which cheating kernels the judge catches, and whether it accuses honest ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..device.detect import choose, detect
from ..measure.adversaries import Adversary, Judged, courses_for, judge, read_adversaries
from ..record.only import as_asked, is_selected
from ..record.schema import RecordError
from ..report.tables import Column, code, plain, table, text

SENTENCE_CHARS = 240
JOBS_ON_CPU, JOBS_ON_GPU = 2, 12


def run(out: Path | None = None, gpu: str = "auto", jobs: int | None = None, only: Sequence[str] = ()) -> int:
    """Judge all adversaries of the device's kind, print the table, and write it to `out` as markdown.

    `only` selects those whose `cheats/class/name` or `honest/class/name` contains one of its parts. Returns 1 where a
    cheat was missed, caught for a wrong reason, or an honest kernel was accused, or not all could be judged. Raises
    DeviceError where there is no such device, RecordError where `only` selects none.
    """
    chosen = choose(gpu, detect())
    kind = "cpu" if chosen.device.kind == "cpu" else "cuda"
    everyone = read_adversaries()
    selected = [a for a in everyone if kind in a.runs_on and is_selected(path_of(a), only)]
    if not selected:
        raise RecordError(f"{as_asked(only)}: none of the {len(everyone)} adversaries is called so and runs on {kind}.")
    console, started = Console(), time.monotonic()

    def told(judged: Judged) -> None:
        done = f"{judged.adversary.cheat_class}: {judged.adversary.name}: {judged.outcome.reason}"
        console.print(Text(plain(done) if judged.as_expected else complaint(judged)))

    lanes = jobs or (JOBS_ON_CPU if kind == "cpu" else JOBS_ON_GPU)
    results = judge(chosen, selected, courses_for(kind), lanes, told)
    if len(results) < len(selected):
        console.print(f"It was interrupted: {len(results)} of {len(selected)} were judged.")
    console.print(as_table(results))
    others = len(everyone) - len(selected)
    console.print(Text(summary(results, others, kind, time.monotonic() - started)))
    for judged in results:
        if not judged.as_expected:
            console.print(Text(complaint(judged)), style="red")
    if out is not None:
        out.write_text(as_markdown(results, chosen.name, summary(results, others, kind, 0.0)), encoding="utf-8")
    return 0 if len(results) == len(selected) and all(judged.as_expected for judged in results) else 1


def path_of(adversary: Adversary) -> str:
    """What parts of `only` are looked for in."""
    return f"{'honest' if adversary.honest else 'cheats'}/{adversary.cheat_class}/{adversary.name}"


def as_table(results: Sequence[Judged]) -> Table:
    """A row for each adversary."""
    shown = Table("class", "name", "caught by", "reason given", "sentence", title="Adversaries")
    for judged in results:
        style = "" if judged.as_expected else "bold red"
        shown.add_row(*(Text(cell) for cell in _cells(judged)), style=style)
    return shown


def as_markdown(results: Sequence[Judged], device: str, line: str) -> str:
    """A page with two tables: cheats, and honest kernels."""
    columns = [Column(title) for title in ("class", "name", "what it does", "caught by", "reason given", "sentence")]
    parts = ["# Adversaries", "", f"Device: {text(device)}. {text(line)}", ""]
    for honest, title in ((False, "Kernels that cheat"), (True, "Honest kernels that look odd")):
        rows = []
        for judged in (j for j in results if j.adversary.honest is honest):
            cheat_class, name, stage, reason, sentence = _cells(judged)
            rows.append([text(cheat_class), code(name), text(judged.adversary.summary), text(stage),
                         code(reason) if judged.as_expected else f"**{text(reason)}**", text(sentence)])  # fmt: skip
        parts += [f"## {title}", "", table(columns, rows), ""]
    return "\n".join(parts)


def summary(results: Sequence[Judged], others: int, kind: str, elapsed_s: float) -> str:
    """How many were caught and passed, and how many others were not to be judged."""
    cheats = [j for j in results if not j.adversary.honest]
    honest = [j for j in results if j.adversary.honest]
    line = (
        f"{sum(j.as_expected for j in cheats)} of {len(cheats)} cheats caught for the right reason, "
        f"{sum(j.as_expected for j in honest)} of {len(honest)} honest kernels passed; "
        f"{others} more are not for this device ({kind}) or were not selected."
    )
    return line + (f" {elapsed_s:.0f} s." if elapsed_s else "")


def complaint(judged: Judged) -> str:
    """What was expected of one adversary, and what came."""
    name, outcome = judged.adversary.name, judged.outcome
    if judged.adversary.honest:
        return plain(f"{name} is honest, and was accused: {outcome.reason}. {outcome.sentence}", 600)
    wanted = " or ".join(judged.adversary.reasons)
    return plain(f"{name} should be caught as {wanted}, and the answer was {outcome.reason}. {outcome.sentence}", 600)


def _cells(judged: Judged) -> tuple[str, str, str, str, str]:
    adversary, outcome = judged.adversary, judged.outcome
    return (adversary.cheat_class, adversary.name, outcome.stage, outcome.reason,
            plain(outcome.sentence, SENTENCE_CHARS))  # fmt: skip
