"""Where a report's figures come from: how the time was spent, on what machine, and how to measure them again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from statistics import median
from typing import Any

from .pool import Pool, Record
from .tables import Column, code, count, fence, number, percent, plain, rate, table, text

_SNAPSHOT_ROWS = {
    "sm_mhz": "SM clock, MHz", "memory_mhz": "Memory clock, MHz",
    "power_w": "Power, W", "temperature_c": "Temperature, °C",
}  # fmt: skip
_CEILING_UNITS = {"_bytes_per_s": "B", "_flops_per_s": "FLOP"}
_SHELL_SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def time_spent(pool: Pool) -> str:
    """Seconds by phase: of the launches, each and all together, and of the whole runs."""
    launches = [launch["phases_s"] for run in pool.runs for launch in run["launches"] if launch.get("phases_s")]
    parts = []
    if launches:
        launches_table = _phase_table(launches, "Median of a launch, s")
        parts.append(f"{count(len(launches), 'launch', 'launches')}:\n\n{launches_table}")
    if runs := [run["phases_s"] for run in pool.runs if run["phases_s"]]:
        parts.append(f"{count(len(runs), 'whole run')}:\n\n{_phase_table(runs, 'Median of a run, s')}")
    cut_off = sum(launch.get("complete") is False for run in pool.runs for launch in run["launches"])
    if cut_off:
        parts.append(f"{count(cut_off, 'launch was', 'launches were')} cut off; what they had measured is kept.")
    return "\n\n".join(parts) or "No phase was timed."


def _phase_table(records: list[Mapping[str, float]], title: str) -> str:
    phases = dict.fromkeys(phase for record in records for phase in record)
    total_s = sum(sum(record.values()) for record in records)
    rows = [(phase, [record.get(phase, 0.0) for record in records]) for phase in phases]
    columns = [Column("Phase"), *(Column(name, number=True) for name in (title, "All, s", "Share"))]
    cells = [
        [text(phase), number(median(each)), number(sum(each)), percent(sum(each) / total_s if total_s else None)]
        for phase, each in rows
    ]
    total = ["**all**", number(median(sum(record.values()) for record in records)), number(total_s), ""]
    return table(columns, [*cells, total])


def environment(pool: Pool) -> str:
    """The device, its measured ceilings, what it did during the launches, and the software."""
    facts: dict[str, Iterable[Any]] = {
        **{f"device: {name}": [value] for name, value in pool.device.items() if value is not None},
        "device: uuid": _distinct(run["device"]["uuid"] for run in pool.runs),
        **{f"ceiling: {name}": [value] for name, value in map(_ceiling, pool.ceilings.items())},
        **_conditions(pool),
        **{name: _distinct(run["environment"].get(name) for run in pool.runs) for name in pool.runs[-1]["environment"]},
    }
    rows = ([text(name), text(shown)] for name, values in facts.items() if (shown := ", ".join(map(_fact, values))))
    return table([Column("What"), Column("Value")], rows)


def _ceiling(item: tuple[str, float]) -> tuple[str, str]:
    name, value = item
    for suffix, unit in _CEILING_UNITS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("_", " "), rate(value, unit)
    return name, number(value)


def _conditions(pool: Pool) -> dict[str, list[str]]:
    """Clocks, power, temperature, throttling and foreign processes, over all launches' snapshots."""
    snapshots = [
        snapshot
        for run in pool.runs
        for launch in run["launches"]
        for snapshot in (launch.get("environment") or {}).values()
        if snapshot
    ]
    found = {}
    for name, title in _SNAPSHOT_ROWS.items():
        if values := [snapshot[name] for snapshot in snapshots if snapshot.get(name) is not None]:
            found[title] = [" to ".join(dict.fromkeys(number(v, 4) for v in (min(values), max(values))))]
    if any("throttle_reasons" in snapshot for snapshot in snapshots):
        reasons = dict.fromkeys(reason for s in snapshots for reason in s.get("throttle_reasons", ()))
        found["Throttle reasons seen"] = list(reasons) or ["none"]
    if any("processes" in snapshot for snapshot in snapshots):
        most = max(len(snapshot.get("processes", ())) for snapshot in snapshots)
        found["Other processes on the device, most at once"] = [str(most)]
    return found


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _fact(value: Any) -> str:
    """Numbers with thousands separated; nested facts as `name value` pairs."""
    if isinstance(value, bool) or not isinstance(value, (int, dict)):
        return plain(value, 200)
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(f"{name} {_fact(inner)}" for name, inner in value.items())


def reproduction(pool: Pool) -> str:
    """The exact commands, run by run, from a clean checkout."""
    alike: dict[str, list[str]] = {}
    for run in pool.runs:
        alike.setdefault(_steps(run), []).append(code(run["run_id"]))
    blocks = [f"{', '.join(names)}, {steps}" for steps, names in alike.items()]
    report = "kernelgate report " + " ".join(shell_word(f"runs/{run['run_id']}") for run in pool.runs)
    return "\n\n".join([*blocks, f"This page, from those runs:\n\n{fence([report])}"])


def _steps(run: Record) -> str:
    source, lines = run["source"], []
    if source["git_sha"]:
        lines.append(f"git checkout {shell_word(source['git_sha'])}")
    lines.append(command_line(run["command"]))
    state = ", with uncommitted changes that the commit does not hold" if source["dirty"] else ""
    return f"source tree {code(str(source['tree_sha256'])[:16])}{state}:\n\n{fence(lines)}"


def command_line(command: Iterable[str]) -> str:
    """An argv as one line of shell; the program by its name, and no --run-dir: folders are those of one machine."""
    words = _without_option([plain(word, 1000) for word in command], "--run-dir")
    if not words:
        return "# the run did not record its command"
    program = PurePath(words[0])
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    return " ".join([name if name.startswith("python -m ") else shell_word(name), *map(shell_word, words[1:])])


def _without_option(words: list[str], option: str) -> list[str]:
    named = {index for index, word in enumerate(words) if word == option or words[index - 1 : index] == [option]}
    return [w for index, w in enumerate(words) if index not in named and not w.startswith(f"{option}=")]


def shell_word(word: object) -> str:
    """`word` quoted for a shell where it needs it, and readable where it does not."""
    line = plain(word, 1000)
    return line if _SHELL_SAFE.fullmatch(line) else shlex.quote(line)
