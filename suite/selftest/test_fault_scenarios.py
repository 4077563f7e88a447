"""What befalls a run from outside costs it what it must and no more. `kernelgate selftest --faults` shows them all."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from suite import cli
from suite.selftest import fault_scenarios
from suite.selftest.toy_project import ToyProject


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    return fault_scenarios.make_project(tmp_path_factory.mktemp("scenarios"))


# Full disks and cut runs are in test_resume.py.
@pytest.mark.parametrize(
    "name",
    ["worker killed at any instant", "run cancelled", "run stopped for a while", "read-only run directory",
     "wall clock steps", "GPU falls off the bus"],
)  # fmt: skip
def test_a_fault_from_outside_is_borne(project: ToyProject, name: str) -> None:
    result = fault_scenarios.SCENARIOS[name](project)
    assert result.right, result
    assert result.journal_readable
    assert result.others_measured is not False


@pytest.mark.parametrize("arguments", [[], ["--timers", "--faults"]])
def test_selftest_tests_one_thing_at_a_time(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli.app, ["selftest", *arguments])
    assert done.exit_code == 2
    assert "one thing at a time" in done.output
