"""Runs that are kept beside the claims that were made from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.record.run import read_run
from suite.selftest.promoted import claims, promote_runs, two_runs

pytestmark = pytest.mark.side_by_side


def test_the_runs_are_kept_and_can_be_promoted_from_again(tmp_path: Path) -> None:
    _, *kept = promote_runs(tmp_path, two_runs()).written
    assert [path.name for path in kept] == [f"{run['run_id']}.json.xz" for run in two_runs()]
    assert [read_run(path) for path in kept] == two_runs()
    promote_runs(tmp_path / "again", [read_run(path) for path in kept])
    factors = [{name: claim.factor for name, claim in claims(root).items()} for root in (tmp_path, tmp_path / "again")]
    assert factors[0]
    assert factors[0] == factors[1]


def test_what_is_kept_does_not_say_where_files_lay(tmp_path: Path) -> None:
    runs = two_runs()
    place, url = "/" + "home/somebody/runs/b-1", "https://example.org/a/b"
    runs[0]["command"] = ["pytest", "--run-dir", place, "-m", "mla"]
    runs[0]["checks"][0]["sentence"] = f"It said {place}: lost; see {url}."
    _, kept, _ = promote_runs(tmp_path, runs).written
    assert read_run(kept)["command"] == ["pytest", "--run-dir", ".../b-1", "-m", "mla"]
    assert read_run(kept)["checks"][0]["sentence"] == f"It said .../b-1: lost; see {url}."
