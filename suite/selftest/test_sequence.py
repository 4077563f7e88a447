"""What stands around timed calls: the timer must know all of it, or it accuses honest kernels of hiding time."""

from __future__ import annotations

import functools
import gc
import signal
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.device import Device
from kernels.discover import load_problems, problem_key
from kernels.problem import Outputs, Problem, Tier
from suite.device.device_records import OutsideWorkError
from suite.device.timer import PerfCounter, TimedCall
from suite.measure import sequence
from suite.measure.blame import culprit
from suite.measure.drawn import Drawn
from suite.measure.execute import WrongFormError
from suite.measure.helpers import Helpers
from suite.measure.interleave import measure_problem
from suite.measure.sequence import Sequence, surroundings
from suite.measure.tampering import Tampered

CPU = Device("cpu", "cpu", 2, 0, 1, "float8_e4m3fn")
GPU = Device("hip", "gfx942", 304, 65536, 64, "float8_e4m3fnuz")
TASKS = {"moe": "router", "gemm": "linear"}
"""Of one, every input is drawn anew for a call; of the other, weights stay and are checksummed."""


@pytest.fixture(autouse=True)
def _threads_of_pytorch_are_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker, which has used them before any kernel is there."""
    torch.ones(1 << 22).sum()
    helpers = Helpers()
    helpers.claim("")
    monkeypatch.setattr(sequence, "HELPERS", helpers)


class Operators(TorchDispatchMode):
    """Names of all that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def smoke_problem(family: str) -> Problem:
    problems, _ = load_problems(family)
    return next(p for p in problems[Tier.SMOKE] if p.task == TASKS[family])


def answer(question: dict[str, Any]) -> dict[str, Any]:
    return {"seed": question.get("index", 0), "keep_previous": False, "look": False}


@pytest.mark.parametrize("family", TASKS)
def test_surroundings_do_all_that_is_done_around_calls(family: str, tmp_path: Path) -> None:
    problem = smoke_problem(family)
    inputs = problem.make_inputs(0, "cpu", problem.distributions[0])
    outputs = {n: torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for n, s in problem.output_specs().items()}
    call = TimedCall(run=lambda: outputs, before=lambda: None, outputs=outputs, replay=lambda: None)
    drawn = Drawn(problem, inputs, torch.Generator())
    with Operators() as known:
        surroundings(problem, drawn, inputs, [call])
    with Operators() as seen:
        for step in Sequence(1, problem, GPU, drawn, answer, {"toy/a": [call]}, 2, tmp_path).steps():
            step.setup()
            step.after()
    assert seen.names <= known.names
    assert any("_local_scalar_dense" in name for name in known.names)  # the host reads: a copy from the device


class Parent:
    """Keeps every call, and remembers what it was told."""

    def __init__(self, looks_after: str = "") -> None:
        self.looks_after = looks_after
        self.handed: list[dict[str, str]] = []
        self.undo: Any = None

    def __call__(self, question: dict[str, Any]) -> dict[str, Any]:
        self.undo = question.get("undo", self.undo)
        if question["ask"] == "handed":
            self.handed.append(question["sha256"])
        return {"seed": question.get("index", 0) + 1, "keep_previous": question.get("index", 0) > 0, "undo": self.undo,
                "look": question["ask"] == self.looks_after}  # fmt: skip


def play(run: Any, tmp_path: Path, blocks: int = 3) -> tuple[Sequence, Parent]:
    """Blocks of one kernel, timed on the CPU."""
    problem = smoke_problem("gemm")
    drawn, parent = Drawn(problem, problem.make_inputs(0, "cpu"), torch.Generator()), Parent()
    call = TimedCall(run=functools.partial(run, problem, drawn), before=lambda: None)
    sequence = Sequence(1, problem, CPU, drawn, parent, {"toy/a": [call]}, blocks, tmp_path)
    PerfCounter().measure(sequence.steps())
    return sequence, parent


def fresh(problem: Problem, drawn: Drawn) -> Outputs:
    return {n: torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for n, s in problem.output_specs().items()}


def test_what_is_kept_of_an_eager_call_was_told_before(tmp_path: Path) -> None:
    sequence, parent = play(fresh, tmp_path)
    kept = [{name: output["sha256"] for name, output in entry["outputs"].items()} for entry in sequence.kept]
    assert kept == parent.handed
    assert [entry["call"] for entry in sequence.kept] == [0, 1, 2]


def test_who_changes_what_was_kept_is_named(tmp_path: Path) -> None:
    def writes(problem: Problem, drawn: Drawn) -> Outputs:
        for file in tmp_path.glob("*.bin"):
            file.write_bytes(bytes(file.stat().st_size))
        return fresh(problem, drawn)

    with pytest.raises(Tampered, match="changed what was kept") as error:
        play(writes, tmp_path)
    assert culprit(error.value) == {"kernel": "toy/a"}


def test_no_call_finds_which_rows_are_new(tmp_path: Path) -> None:
    found = []

    def spy(problem: Problem, drawn: Drawn) -> Outputs:
        found.append((list(drawn._undo), drawn._seed, drawn.generator.initial_seed()))
        return fresh(problem, drawn)

    sequence, parent = play(spy, tmp_path)
    assert found == [([], -1, 0)] * 3
    assert parent.undo
    before = {name: tensor.clone() for name, tensor in sequence.problem.make_inputs(0, "cpu").items()}
    sequence.drawn.restore()
    fixed = [name for name in before if name not in sequence.problem.activations]
    assert fixed
    for name in fixed:
        assert torch.equal(sequence.drawn.inputs[name].view(torch.uint8), before[name].view(torch.uint8))


def test_memory_that_an_earlier_call_returned_is_refused(tmp_path: Path) -> None:
    buffers = list[Outputs]()

    def in_turn(problem: Problem, drawn: Drawn) -> Outputs:
        buffers.append(fresh(problem, drawn) if len(buffers) < 3 else buffers[-3])
        return buffers[-1]

    with pytest.raises(WrongFormError, match="memory that an earlier one had returned"):
        play(in_turn, tmp_path, blocks=4)


@pytest.mark.parametrize("switch", [sys.settrace, sys.setprofile])
def test_a_hook_that_a_call_leaves_on_is_refused_before_anything_else_runs(switch: Any, tmp_path: Path) -> None:
    heard = list[str]()

    def hook(frame: Any, event: str, argument: Any) -> None:
        heard.append(frame.f_code.co_name)

    def leaves_it_on(problem: Problem, drawn: Drawn) -> Outputs:
        switch(hook)
        return fresh(problem, drawn)

    try:
        with pytest.raises(OutsideWorkError, match="left a hook on"):
            play(leaves_it_on, tmp_path)
    finally:
        switch(None)
    assert "_tell" not in heard


def test_an_alarm_that_a_call_leaves_set_is_refused_before_outputs_are_copied(tmp_path: Path) -> None:
    def leaves_it_set(problem: Problem, drawn: Drawn) -> Outputs:
        signal.setitimer(signal.ITIMER_VIRTUAL, 1000.0)
        return fresh(problem, drawn)

    try:
        with pytest.raises(Tampered, match="returned and left on: interval timers"):
            play(leaves_it_set, tmp_path)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)


def test_a_lazy_output_of_a_timed_call_is_refused(tmp_path: Path) -> None:
    def lazy(problem: Problem, drawn: Drawn) -> Outputs:
        outputs = fresh(problem, drawn)
        for output in outputs.values():
            setattr(output, "clone", output.clone)  # noqa: B010 - mypy refuses an assignment
        return outputs

    with pytest.raises(WrongFormError, match="hides clone of"):
        play(lazy, tmp_path)


def test_a_launch_whose_kernels_cannot_be_prepared_says_why_and_asks_for_no_call(tmp_path: Path) -> None:
    asked: list[Any] = []

    def hear(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question["ask"])
        return {}

    reply = measure_problem(
        hear, problem=problem_key(smoke_problem("gemm")), kernels=["gemm/not_there"], libraries=[], device=vars(CPU),
        cache_bytes=1 << 20, seed=1, max_blocks=2, budget_s=0.1, output_dir=str(tmp_path), witnessed=[],
    )  # fmt: skip
    assert (reply["status"], reply["measurements"], asked) == ("ran", [], ["prepare"])
    assert [failure["reason"] for failure in reply["failures"]] == ["raised"]
    assert "No module named 'kernels.gemm.not_there'" in reply["failures"][0]["sentence"]


def test_finalisers_of_what_a_call_left_run_in_no_later_call(tmp_path: Path) -> None:
    in_call, finalised = list[bool](), list[bool]()

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            finalised.append(bool(in_call))

    def leaves(problem: Problem, drawn: Drawn) -> Outputs:
        in_call.append(True)
        held = [[] for _ in range(2 * gc.get_threshold()[0])]  # type: ignore[var-annotated] # the collector comes by
        in_call.clear()
        for _ in range(50):
            Garbage()
        del held
        return fresh(problem, drawn)

    play(leaves, tmp_path)
    assert len(finalised) >= 100
    assert not any(finalised)


def test_finalisers_that_leave_garbage_again_are_refused(tmp_path: Path) -> None:
    class Again:
        left = 1000

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            Again.left -= 1
            if Again.left:
                Again()

    def leaves(problem: Problem, drawn: Drawn) -> Outputs:
        Again()
        return fresh(problem, drawn)

    with pytest.raises(Tampered, match="without end") as error:
        play(leaves, tmp_path)
    assert culprit(error.value) == {"kernel": "toy/a"}
    Again.left = 1


def test_the_process_is_looked_at_when_the_parent_says_so(tmp_path: Path) -> None:
    problem, looked = smoke_problem("gemm"), list[str]()
    for looks_after in ("", "handed"):
        parent = Parent(looks_after)
        drawn = Drawn(problem, problem.make_inputs(0, "cpu"), torch.Generator())
        call = TimedCall(run=functools.partial(fresh, problem, drawn), before=lambda: None)
        look = functools.partial(looked.append, looks_after)
        sequence = Sequence(1, problem, CPU, drawn, parent, {"toy/a": [call]}, 3, tmp_path, look)
        PerfCounter().measure(sequence.steps())
    assert looked == ["handed"] * 3


def test_nobody_learns_from_the_harnesss_copies_that_inputs_were_drawn(tmp_path: Path) -> None:
    gone = list[int]()

    def waits(problem: Problem, drawn: Drawn) -> Outputs:
        assert len(gone) == len(watching)  # the copies of the call before went before these inputs were drawn
        drawn_now = {name: drawn.inputs[name].clone() for name in drawn._expected}
        known = drawn._expected.values()
        watching.extend(weakref.ref(copy, lambda _: gone.append(same(drawn, drawn_now))) for copy in known)
        return fresh(problem, drawn)

    def same(drawn: Drawn, then: dict[str, Any]) -> int:
        return all(torch.equal(drawn.inputs[name], tensor) for name, tensor in then.items())

    watching: list[Any] = []
    play(waits, tmp_path)
    assert gone == [True] * 3


def test_what_observes_operators_does_so_in_no_later_call(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    observer = torch.profiler.ExecutionTraceObserver()
    calls = iter(range(3))

    def observes(problem: Problem, drawn: Drawn) -> Outputs:
        if next(calls) == 0:
            observer.register_callback(str(trace))
            observer.start()
            torch.ones(1).sin()
        else:
            torch.ones(1).cos()
        return fresh(problem, drawn)

    play(observes, tmp_path)
    observer.unregister_callback()
    seen = trace.read_text()
    assert "aten::sin" in seen
    assert "aten::cos" not in seen
