"""Targets in a report: what is reached, missed, not measured, and targets that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kernels.discover import load_problem
from suite.device.detect import PROJECT_ROOT
from suite.record.schema import load
from suite.report.pool import Pool
from suite.report.targets import FOLDER, targets_section
from suite.selftest.synthetic_run import make_run

PROBLEM = next(iter(make_run()["problems"]))


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool([make_run()])


def best_us(pool: Pool, problem: str, origins: tuple[str, ...]) -> float:
    return min(row.median_us for row in pool.rows_of(problem) if row.origin in origins)


def section(pool: Pool, root: Path, *targets: dict[str, Any]) -> str | None:
    document = {"schema": "kernelgate.targets/1", "device": "h200", "source": "A test.", "targets": list(targets)}
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{pool.device['key']}.json").write_text(json.dumps(document))
    return targets_section(pool, root)


def test_each_target_is_met_by_a_time_or_a_factor(pool: Pool, tmp_path: Path) -> None:
    problem = PROBLEM
    ours, rival = best_us(pool, problem, ("hand", "generated")), best_us(pool, problem, ("vendor", "reference"))
    goals = [({"us": ours * 1.1}, {"us": ours * 0.9}, "at least"), ({"us": ours * 1.2}, {"us": ours * 1.1}, "moonshot"),
             ({"us": ours * 0.9}, None, "**missed**"), ({"factor": rival / ours * 0.9}, None, "at least"),
             ({"factor": rival / ours * 1.1}, None, "**missed**")]  # fmt: skip
    targets = [{"problem": problem, "at_least": a} | ({"moonshot": m} if m else {}) for a, m, _ in goals]
    shown = section(pool, tmp_path, *targets, {"problem": "mla/none", "at_least": {"us": 1}})
    assert shown is not None
    assert "3 of 5 measured targets are reached; not measured: 1." in shown
    lines = [line for line in shown.splitlines() if line.startswith("|")][2:]
    reached = [line.rstrip("| ").rpartition("|")[2].strip() for line in lines]
    assert reached == [*(word for _, _, word in goals), "not measured"]


def test_no_file_is_no_section_and_a_bad_one_a_sentence(pool: Pool, tmp_path: Path) -> None:
    assert targets_section(pool, tmp_path) is None
    shown = section(pool, tmp_path, {"problem": PROBLEM, "at_least": {"us": -1}})
    assert shown is not None
    assert shown.startswith("The targets cannot be used")


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / FOLDER).glob("*.json")), ids=lambda path: path.stem)
def test_targets_name_problems_that_exist(path: Path) -> None:
    document = load(path, "targets")
    assert document["device"] == path.stem
    for target in document["targets"]:
        load_problem(target["problem"])
