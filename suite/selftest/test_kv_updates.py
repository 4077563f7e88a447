"""In-place updates are seen through the harness: what a call writes into a cache is its output, all else must stay."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.device import Device
from kernels.kernel import Kernel, Origin
from kernels.kv import reference
from kernels.kv._append_problem import Append
from kernels.kv._mla_append_problem import MLAAppend
from kernels.kv._null_kernels import rows_left
from kernels.kv._rope_append_problem import RopeAppend
from kernels.problem import Inputs, Outputs
from kernels.updates import spoil_updates, taken_updates
from suite.device.timer import TimedCall
from suite.judge.check import expected_outputs, judge_outputs
from suite.measure import execute
from suite.measure.contestant import Contestant
from suite.measure.drawn import Drawn
from suite.measure.session import Session

pytestmark = pytest.mark.side_by_side

CPU = Device("cpu", "x86_64", 2, 0, 1, None)
SMALL: dict[str, Any] = {"seqs": 3, "lengths": "skewed", "context": 5, "padding": 2, "page_size": 4}
FP8 = "float8_e4m3fn"
IN_PLACE: dict[str, Any] = {
    "rope_append": RopeAppend(11, **SMALL, num_pages=12, num_heads=4, num_kv_heads=2, head_dim=16, rotary_dim=16),
    "rope_append_fp8": RopeAppend(
        11, **SMALL, num_pages=12, num_heads=4, num_kv_heads=2, head_dim=16, rotary_dim=8, is_neox=False,
        cache_dtype=FP8, k_scale=0.021, v_scale=0.017,
    ),
    "append": Append(11, **SMALL, num_pages=12, num_kv_heads=2, head_dim=16),
    "append_fnuz": Append(
        11, **SMALL, num_pages=12, num_kv_heads=2, head_dim=16,
        cache_dtype="float8_e4m3fnuz", k_scale=0.021, v_scale=0.017,
    ),
    "mla_append": MLAAppend(11, **SMALL, num_pages=12, num_heads=3),
}  # fmt: skip


def rounded(problem: Any, inputs: Inputs) -> Outputs:
    """What an honest kernel returns."""
    specs = problem.output_specs()
    return {n: v.to(getattr(torch, specs[n].dtype)) for n, v in reference.run(inputs, problem).items()}


@pytest.fixture
def verdict_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any], tuple[str, str]]:
    """A function that sends a run function through the worker's and the referee's code: (status, reason)."""
    monkeypatch.setattr(execute, "keeps_computing", lambda: False)
    monkeypatch.setattr(execute, "LATE_S", 0.0)

    def judged(problem: Any, run: Callable[[Inputs, Any], Outputs]) -> tuple[str, str]:
        kernel = Kernel(origin=Origin.HAND, tasks=(problem.task,), run=run)
        monkeypatch.setattr(execute, "load_watched", lambda *_: kernel)
        place = execute.Place("kv/reference", CPU, "cpu", False, tmp_path)
        try:
            reply = execute.run_once(place, problem, problem, problem.make_inputs(3, "cpu"))
        except execute.WrongFormError as error:
            reply = execute.failure(error)
        if reply["status"] != "ran":
            return reply["status"], reply["reason"]
        expected = expected_outputs(problem, problem.make_inputs(3, "cpu"))
        verdict = judge_outputs(problem, expected, reply["outputs"], {}, "cpu")[1]
        return verdict["status"], verdict["reason"]

    return judged


def with_slots(change: Callable[[torch.Tensor, Any], torch.Tensor]) -> Callable[[Inputs, Any], Outputs]:
    """The reference, but for the slots that it is given."""

    def run(inputs: Inputs, problem: Any) -> Outputs:
        return rounded(problem, {**inputs, "slot_mapping": change(inputs["slot_mapping"], problem)})

    return run


def writes_nothing(inputs: Inputs, problem: Any) -> Outputs:
    return rounded(problem, {**inputs, **{name: inputs[name].clone() for name in problem.caches}})


def one_row_beside(inputs: Inputs, problem: Any) -> Outputs:
    """All that it should write, and a row that belongs to nobody."""
    outputs = rounded(problem, inputs)
    free = set(range(problem.num_pages * problem.page_size)) - set(inputs["slot_mapping"].tolist())
    for name in problem.caches:
        inputs[name].flatten(0, 1)[min(free)] = inputs[name].flatten(0, 1)[int(inputs["slot_mapping"].max())]
    return outputs


def forgets_a_token(inputs: Inputs, problem: Any) -> Outputs:
    kept = {name: inputs[name].clone() for name in problem.caches}
    outputs = rounded(problem, inputs)
    slot = int(inputs["slot_mapping"].max())
    for name, cache in kept.items():
        as_bytes(inputs[name])[slot] = as_bytes(cache)[slot]
    return outputs


def returns_rows_instead(inputs: Inputs, problem: Any) -> Outputs:
    """The right rows, handed over as an output; the caches are left alone."""
    rows = rows_left(inputs, problem)
    specs = problem.output_specs()
    return {name: rows[name].to(getattr(torch, specs[name].dtype)) for name in specs}


def adds_to_what_is_there(inputs: Inputs, problem: Any) -> Outputs:
    before = {name: inputs[name].float() for name in problem.caches}
    outputs = rounded(problem, inputs)
    for name in problem.caches:
        inputs[name].copy_((inputs[name].float() + 0 * before[name]).to(inputs[name].dtype))
    return outputs


def pages_in_the_wrong_cache(inputs: Inputs, problem: Any) -> Outputs:
    names = dict(zip(problem.caches, reversed(problem.caches), strict=True))
    return rounded(problem, {**inputs, **{name: inputs[other] for name, other in names.items()}})


def as_bytes(cache: torch.Tensor) -> torch.Tensor:
    """[slots, bytes of a row]."""
    return cache.flatten(0, 1).flatten(1).view(torch.uint8)


def slots_are_all_padding(inputs: Inputs, problem: Any) -> Outputs:
    """Then there would be nothing to look at."""
    outputs = rounded(problem, {**inputs, **{name: inputs[name].clone() for name in problem.caches}})
    inputs["slot_mapping"].fill_(-1)
    return outputs


IN_PLACE_CHEATS: dict[str, Any] = {
    "writes nothing": writes_nothing,
    "one row beside": one_row_beside,
    "forgets a token": forgets_a_token,
    "a page on": with_slots(lambda slots, p: torch.where(slots < 0, slots, (slots + p.page_size) % (p.num_pages * 4))),
    "a slot on": with_slots(lambda slots, p: torch.where(slots < 0, slots, (slots + 1) % (p.num_pages * p.page_size))),
    "padding at the end": with_slots(lambda slots, p: slots % (p.num_pages * p.page_size)),
    "padding at slot 0": with_slots(lambda slots, p: slots.clamp_min(0)),
    "tokens in another order": with_slots(lambda slots, p: slots.flip(0)),
    "returns rows instead": returns_rows_instead,
    "adds to what is there": adds_to_what_is_there,
    "slots are all padding": slots_are_all_padding,
}


@pytest.mark.parametrize("key", IN_PLACE)
def test_an_honest_update_is_correct(key: str, verdict_on: Any) -> None:
    assert verdict_on(IN_PLACE[key], lambda inputs, problem: rounded(problem, inputs)) == ("correct", "correct")


@pytest.mark.parametrize("name", IN_PLACE_CHEATS)
@pytest.mark.parametrize("key", IN_PLACE)
def test_a_wrong_update_is_caught(key: str, name: str, verdict_on: Any) -> None:
    status, reason = verdict_on(IN_PLACE[key], IN_PLACE_CHEATS[name])
    assert (status, reason in ("wrong_output", "inputs_changed", "wrong_form")) == ("incorrect", True), reason


def test_keys_and_values_exchanged_are_caught(verdict_on: Any) -> None:
    assert verdict_on(IN_PLACE["append"], pages_in_the_wrong_cache) == ("incorrect", "wrong_output")


def test_what_is_written_late_into_a_cache_is_caught(verdict_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, pending = IN_PLACE["append"], list[Callable[[], object]]()
    monkeypatch.setattr(time, "sleep", lambda _: [write() for write in pending])  # the other thread's turn

    def run(inputs: Inputs, problem: Any) -> Outputs:
        pending[:] = [lambda: rounded(problem, inputs)]
        return {}

    assert verdict_on(problem, run) == ("incorrect", "outside_interval")


@pytest.mark.parametrize("key", IN_PLACE)
def test_updated_rows_are_all_that_the_reference_writes(key: str) -> None:
    problem = IN_PLACE[key]
    inputs, before = problem.make_inputs(5, "cpu"), problem.make_inputs(5, "cpu")
    reference.run(inputs, problem)
    slots = inputs["slot_mapping"][inputs["slot_mapping"] >= 0]
    assert len(slots) == len(slots.unique()) == problem.written
    for name, rows in problem.updated_rows(inputs).items():
        assert len(rows) == len(rows.unique()) == problem.output_specs()[name].shape[0]
        changed = (as_bytes(inputs[name]) != as_bytes(before[name])).any(1).nonzero().flatten()
        assert changed.tolist() == sorted(slots.tolist())
        assert (rows // math.prod(problem.row_shape[:-1])).unique().tolist() == sorted(slots.tolist())


@pytest.mark.parametrize("key", IN_PLACE)
def test_draws_leave_the_caches_as_they_were(key: str) -> None:
    """Edits, updates and their undoing do not leave traces that would look like a kernel's."""
    problem = IN_PLACE[key]
    inputs = problem.make_inputs(5, "cpu")
    drawn = Drawn(problem, inputs, torch.Generator())
    before = execute.fixed_checksums(problem, inputs)
    for seed in (1, 2, 2, 3):
        drawn.draw(seed)
        during = execute.fixed_checksums(problem, inputs)
        reference.run(inputs, problem)
        assert taken_updates(problem, inputs).keys() == set(problem.caches)
        assert execute.fixed_checksums(problem, inputs) == during
    drawn.restore()
    assert execute.fixed_checksums(problem, inputs) == before


def test_spoilt_rows_are_nan_in_every_type() -> None:
    for key, problem in IN_PLACE.items():
        inputs = problem.make_inputs(1, "cpu")
        spoil_updates(problem, inputs)
        for name, rows in taken_updates(problem, inputs).items():
            assert rows.float().isnan().all(), (key, name)


@pytest.mark.parametrize("key", IN_PLACE)
def test_a_graph_that_keeps_the_slots_of_its_capture_is_not_safe(key: str, tmp_path: Path) -> None:
    problem = IN_PLACE[key]
    inputs = problem.make_inputs(5, "cpu")
    before = inputs["slot_mapping"].clone()
    honest = Kernel(origin=Origin.HAND, tasks=(problem.task,), run=lambda inputs, problem: rounded(problem, inputs))
    session = Session(problem, inputs, CPU, lambda _: {}, tmp_path, {}, 1.0, 1)
    for name, slots, safe in (("follows", inputs["slot_mapping"], True), ("keeps", before, False)):
        replay: Any = functools.partial(rounded, problem, {**inputs, "slot_mapping": slots})
        call = TimedCall(run=dict, before=lambda: None, outputs=rounded(problem, inputs), replay=replay)
        contestant = Contestant(name, honest, problem, inputs, problem, 0.0, 0.0, 0.0, [call])
        assert session._graph_safety([contestant]) == {name: safe}
        assert torch.equal(inputs["slot_mapping"], before)
