"""The canary tells twins from a planted slowdown, and a machine that cannot from one that can."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from suite.device.detect import PROJECT_ROOT
from suite.record.run import check_run, fold
from suite.record.schema import RecordError
from suite.selftest.record_examples import make_events

CODE = """
import json, sys
from suite.measure import canary
from suite.measure.canary import Plan, judged

asked = json.load(sys.stdin)
if "times_us" in asked:
    answer = judged(Plan(rows=1, columns=1, blocks=3, extra=0.1, twins_within=0.02), "made_up", asked["times_us"])
else:
    answer = canary.canary({"kind": "cpu"}, 1 << 20, 7)["canary"]
print(json.dumps(answer))
"""


def in_child(asked: dict[str, Any]) -> dict[str, Any]:
    """torch stays out of this process."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=PROJECT_ROOT, input=json.dumps(asked), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def on_this_cpu() -> dict[str, Any]:
    return in_child({})


def test_it_sees_its_slowdown_on_any_cpu(on_this_cpu: dict[str, Any]) -> None:
    assert on_this_cpu["timer"] == "perf_counter"
    assert {len(times_us) for times_us in on_this_cpu["times_us"].values()} == {15}
    assert on_this_cpu["slower"] > on_this_cpu["twins"]
    assert on_this_cpu["attempts"] in (1, 2)


def test_what_it_says_is_recorded(on_this_cpu: dict[str, Any]) -> None:
    events = make_events(launches=1)
    events.insert(1, {"event": "canary", "canary": on_this_cpu | {"note": None}})
    assert check_run(fold(events), "run")["canary"]["timer"] == "perf_counter"
    events[1]["canary"]["twins"] = "1.0"
    with pytest.raises(RecordError, match=r"\$\.canary\.twins"):
        check_run(fold(events), "run")


@pytest.mark.parametrize(
    ("twin", "slower", "words"),
    [
        (1.0, 1.10, None),
        (1.019, 1.06, None),
        (1.03, 1.10, "The same work, timed twice, differs by 3.0%; 2% is the most."),
        (0.97, 1.10, "The same work, timed twice, differs by 3.0%"),
        (1.0, 1.04, "A call with 10% more work took +4.0% of time; between 5% and 20% must be seen."),
        (1.0, 1.30, "A call with 10% more work took +30.0% of time"),
        (1.0, 0.98, "A call with 10% more work took -2.0% of time"),
    ],
)
def test_unfit_is_a_sentence(twin: float, slower: float, words: str | None) -> None:
    first_us = [100.0, 130.0, 90.0]
    times_us = {"first": first_us, "twin": [t * twin for t in first_us], "slower": [t * slower for t in first_us]}
    unfit = in_child({"times_us": times_us})["unfit"]
    assert unfit is None if words is None else words in unfit
