"""The parent's part in a launch: seeds one call at a time, outputs chosen afterwards, and its own clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from suite.measure.account import KEPT_BLOCKS, Sequence
from suite.measure.blocks import BlockSource
from suite.measure.plausible import consistent, contradicted
from suite.measure.process import WorkerError
from suite.measure.run_queue import Load, Mark, RunQueue, _process_us

KERNELS = ("toy/a", "toy/b")
ORIGINS = dict.fromkeys(KERNELS, "generated")


def ask(source: BlockSource, number: int, **changes: Any) -> dict[str, Any]:
    """The question of call `number` of three blocks of two kernels, each begun with its first call."""
    block, sequence = number // 2, changes.get("sequence", 1)
    begun = {"ask": "renew", "sequence": sequence, "block": block, "blocks": 3, "calls": 6,
             "shared": changes.pop("shared", False)}  # fmt: skip
    if not number % 2 and number < 6:
        source.answer(begun)
    return source.answer({"ask": "call", "sequence": 1, "index": number, "kernel": KERNELS[number % 2]} | changes)


def played(told_us: float | None = None, wait_s: float = 0.0, **changes: Any) -> BlockSource:
    """All six calls, each told with `told_us` and waited for `wait_s` seconds."""
    source = BlockSource(ORIGINS.get)
    ask(source, 0, **changes)
    for index in range(1, 7):
        time.sleep(wait_s)
        if told_us is not None:
            source.answer({"ask": "told", "sequence": 1, "time_us": told_us})
        ask(source, index, **changes)
    return source


def reply(times_us: dict[str, list[float]]) -> dict[str, Any]:
    return {"status": "ran", "measurements": [{"sequence": 1, "timer": "perf_counter", "times_us": times_us}]}


def test_every_call_has_its_own_seed_unless_a_block_shares_it() -> None:
    assert len(set(played().sequences[1].seeds)) == 6
    seeds = played(shared=True).sequences[1].seeds
    assert seeds[0::2] == seeds[1::2]
    assert len(set(seeds)) == 3


def test_kept_calls_are_whole_blocks_and_told_after_the_call() -> None:
    source = BlockSource(ORIGINS.get)
    ask(source, 0)
    told = [ask(source, index)["keep_previous"] for index in range(1, 7)]
    kept = source.sequences[1].kept_calls()
    assert [call for call, _, _ in kept] == [call for call, is_kept in enumerate(told) if is_kept]
    assert len(kept) == KEPT_BLOCKS * len(KERNELS)


@pytest.mark.parametrize(("origin", "blocks"), [("vendor", 1), ("reference", 0), ("hand", KEPT_BLOCKS)])
def test_of_what_gains_nothing_by_cheating_less_is_kept(origin: str, blocks: int) -> None:
    source = BlockSource((ORIGINS | {"toy/b": origin}).get)
    ask(source, 0)
    for index in range(1, 7):
        ask(source, index)
    kept = [kernel for _, kernel, _ in source.sequences[1].kept_calls()]
    assert (kept.count("toy/a"), kept.count("toy/b")) == (KEPT_BLOCKS, blocks)


def test_a_call_that_outpaces_all_before_it_is_kept_too() -> None:
    source, told_us = BlockSource(ORIGINS.get), [100.0, 100.0, 95.0, 50.0, 80.0, 49.0]  # of a and b in turn
    ask(source, 0)
    for index, time_us in enumerate(told_us, start=1):
        source.answer({"ask": "told", "sequence": 1, "time_us": time_us})
        ask(source, index)
    sequence = source.sequences[1]
    beyond = {call for call, _, _ in sequence.kept_calls() if sequence.block(call) not in sequence.kept}
    assert beyond == {call for call in (3, 4) if sequence.block(call) not in sequence.kept}


@pytest.mark.parametrize("changes", [
    {"index": 2}, {"index": -1}, {"sequence": 2}, {"sequence": "x"}, {"ask": "seed"}, {"ask": None},
    {"ask": "told", "time_us": None}, {"ask": "renew", "block": 0}, {"ask": "renew", "block": 2},
])  # fmt: skip
def test_a_question_out_of_turn_is_tampering(changes: dict[str, Any]) -> None:
    source = BlockSource(ORIGINS.get)
    ask(source, 0)
    with pytest.raises(WorkerError, match="what no launch asks for") as error:
        ask(source, 1, **changes)
    assert error.value.reason == "tampered"


def test_times_must_be_those_that_were_told() -> None:
    source = played(told_us=2000.0)
    honest = reply({kernel: [2000.0] * 3 for kernel in KERNELS})
    assert consistent(honest, 1.0, source)["status"] == "ran"
    edited: tuple[dict[str, list[float]], ...] = (
        {"toy/a": [700.0] * 3, "toy/b": [2000.0] * 3},
        {"toy/a": [2000.0] * 3},
        {"toy/a": [], "toy/b": []},
    )
    for times_us in edited:
        assert consistent(reply(times_us), 1.0, source)["reason"] == "tampered"


def test_a_kernel_that_kept_away_from_the_parents_clock_is_tampering() -> None:
    source = played(told_us=2000.0)
    honest = reply({kernel: [2000.0] * 3 for kernel in KERNELS})
    for kernel in KERNELS:
        assert consistent(honest, 1.0, source, KERNELS)["reason"] == "tampered"
        for when in ("begin", "end"):
            source.answer({"ask": "witness", "kernel": kernel, "calls": 4, "empty": False, "when": when})
    assert consistent(honest, 1.0, source, KERNELS)["status"] == "ran"


def test_a_launch_that_was_not_played_to_its_end_is_tampering() -> None:
    source = BlockSource(ORIGINS.get)
    ask(source, 0)
    assert consistent(reply({"toy/a": [1.0]}), 1.0, source)["reason"] == "tampered"


def test_times_that_the_parent_did_not_wait_for_are_contradicted() -> None:
    source = played(told_us=1500.0, wait_s=0.02)
    (first, second) = contradicted(reply({})["measurements"], source)
    assert first["reason"] == second["reason"] == "timer_contradicted"
    assert "1500 us" in first["sentence"]
    assert not contradicted(reply({})["measurements"], played(told_us=19000.0, wait_s=0.02))


class BusyMachine(RunQueue):
    """Where other programs have all but a hundredth of the time."""

    def mark(self) -> Mark:
        return 0.99 * time.monotonic() * 1e6, 0.0

    def is_calm(self, since: Load) -> bool:
        return False

    def _has_children(self) -> bool:
        return False


def test_what_other_programs_took_meanwhile_is_no_part_of_the_wait() -> None:
    source = BlockSource(ORIGINS.get, run_queue=BusyMachine(os.getpid()))
    ask(source, 0)
    for index in range(1, 7):
        time.sleep(0.02)
        source.answer({"ask": "told", "sequence": 1, "time_us": 400.0})
        ask(source, index)
    assert not contradicted(reply({})["measurements"], source)


SHARED = {  # of a machine with eight programs to a core: (told, waited, of it in line) in us
    "honest": [(47415, 47630, 40053), (30626, 35108, 28388), (30798, 37575, 30505), (34916, 48828, 41650)],
    "a quarter told": [(899, 3633, 7), (7149, 28669, 24115), (944, 15484, 11651), (921, 10791, 7071)],
    "short": [(287, 4406, 3990), (236, 2295, 1950), (666, 7207, 6420), (317, 15295, 14860)],
}


def test_on_a_crowded_machine_only_those_are_contradicted_who_tell_too_little() -> None:
    sequence = Sequence(blocks=4, calls=12, shared=False, kept=(), origin=ORIGINS.get)
    for block in range(4):
        for kernel, calls in SHARED.items():
            told_us, waited_us, lost_us = map(float, calls[block])
            sequence.kernels.append(kernel)
            sequence.told(told_us, waited_us - lost_us)
            sequence.handed_us.append(400.0)
    assert sequence.contradictions().keys() == {"a quarter told"}


def test_on_a_machine_that_others_use_too_part_of_a_call_is_held_against_nobody() -> None:
    late = {"toy/a": 300.0, "toy/b": 3000.0}  # beyond what was told
    for is_calm, contradicted_ones in ((True, {"toy/b"}), (False, set())):
        sequence = Sequence(blocks=3, calls=6, shared=False, kept=(), origin=ORIGINS.get, is_calm=is_calm)
        for kernel in KERNELS * 3:
            sequence.kernels.append(kernel)
            sequence.told(9000.0, 9000.0 + late[kernel])
            sequence.handed_us.append(400.0)
        assert sequence.contradictions().keys() == contradicted_ones


def test_a_machine_on_which_another_program_computes_is_not_calm() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            queue = RunQueue(worker_pid=2**22 + 1)
            load = queue.load()
            time.sleep(0.6)
            assert not queue.is_calm(load)
        finally:
            other.kill()


SPIN = """
import os, threading
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
"""


@pytest.mark.parametrize("main", ["spin()", "os.fork(); spin()"])
def test_nobody_stands_in_line_behind_its_own_threads_and_processes(main: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SPIN + main], start_new_session=True) as worker:
        try:
            queue = RunQueue(worker.pid)
            time.sleep(0.5)
            mark, began, computed_us = queue.mark(), time.monotonic(), _process_us(worker.pid)
            time.sleep(0.4)
            lost_us, took_us = queue.lost_us(mark), (time.monotonic() - began) * 1e6
            idle_us = took_us - (_process_us(worker.pid) - computed_us)
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
    assert lost_us <= (0.0 if "fork" in main else idle_us + 0.02e6)


def test_outputs_that_are_computed_when_they_are_handed_over_contradict_the_time() -> None:
    source = BlockSource(ORIGINS.get)
    ask(source, 0)
    for index in range(1, 7):
        source.answer({"ask": "ready", "undo": ["rows"]})
        source.answer({"ask": "told", "sequence": 1, "time_us": 100.0})
        time.sleep(0.02 if index % 2 else 0.001)
        assert source.answer({"ask": "handed", "sequence": 1, "sha256": {"out": "a"}})["undo"] == ["rows"]
        ask(source, index)
    (failure,) = contradicted(reply({})["measurements"], source)
    assert failure["kernel"] == "toy/a"
    assert failure["reason"] == "timer_contradicted"


def test_outputs_must_be_those_that_were_handed_over() -> None:
    source = BlockSource(ORIGINS.get)
    ask(source, 0)
    ask(source, 1)
    source.answer({"ask": "kept", "sequence": 1, "call": 0, "sha256": {"out": "a"}})
    sequence = source.sequences[1]
    assert sequence.has_kept(0, {"out": {"sha256": "a"}})
    assert not sequence.has_kept(0, {"out": {"sha256": "b"}})
    assert not sequence.has_kept(1, {"out": {"sha256": "a"}})
    with pytest.raises(WorkerError, match="what no launch asks for"):
        source.answer({"ask": "kept", "sequence": 1, "call": 0, "sha256": {"out": "b"}})


def around(
    drawn_us: float = 300.0, told_us: float = 3000.0, handed_us: float = 200.0, noise_us: float = 20.0
) -> Sequence:
    """Ten calls of 3 ms of each of two kernels, with what lies around those of the first."""
    sequence = Sequence(blocks=10, calls=20, shared=False, kept=(), origin=lambda kernel: None)
    for call in range(20):
        own, late_us = call % 2 == 0, noise_us * (call % 7)
        sequence.kernels.append(KERNELS[call % 2])
        sequence.drawn_us.append((drawn_us if own else 300.0) + late_us)
        sequence.told((told_us if own else 3000.0) + call, 3150.0 + call + late_us)
        sequence.handed_us.append((handed_us if own else 200.0) + late_us)
    return sequence


@pytest.mark.parametrize(("changes", "found"), [({}, []), ({"drawn_us": 60000.0, "told_us": 90000.0}, []),
                                                ({"drawn_us": 90000.0}, [KERNELS[0]]),
                                                ({"handed_us": 90000.0}, [KERNELS[0]])])  # fmt: skip
def test_where_others_compute_who_has_more_around_its_calls_than_in_them_is_contradicted(
    changes: dict[str, float], found: list[str]
) -> None:
    sequence = around(noise_us=3000.0, **changes)
    sequence.is_calm = False
    sequence.waited_us = [told or 0.0 for told in sequence.told_us]
    assert list(sequence.contradictions()) == found


def test_where_others_compute_a_short_call_whose_outputs_came_late_is_not_contradicted() -> None:
    sequence = around(told_us=550.0)
    sequence.waited_us = [told or 0.0 for told in sequence.told_us]
    sequence.drawn_us = [9000.0] * 20
    sequence.handed_us = [6600.0, 200.0, *[6600.0, 5000.0] * 9]
    for sequence.is_calm, found in ((False, []), (True, [KERNELS[0]])):
        assert list(sequence.contradictions()) == found


@pytest.mark.parametrize("changes", [{"drawn_us": 2800.0}, {"told_us": 1950.0}, {"handed_us": 2700.0},
                                     {"told_us": 1500.0, "noise_us": 3000.0},
                                     {"drawn_us": 1500.0, "handed_us": 1300.0, "told_us": 2000.0}])  # fmt: skip
def test_who_computes_around_the_call_or_tells_a_third_less_is_contradicted(changes: dict[str, float]) -> None:
    assert list(around(**changes).contradictions()) == [KERNELS[0]]


@pytest.mark.parametrize("changes", [{}, {"noise_us": 900.0}, {"drawn_us": 900.0}, {"told_us": 2800.0},
                                     {"handed_us": 2700.0, "noise_us": 1500.0}])  # fmt: skip
def test_what_noise_explains_is_not(changes: dict[str, float]) -> None:
    assert not around(**changes).contradictions()


def test_every_block_begins_with_signs_of_its_own() -> None:
    sequence = played().sequences[1]
    assert len(set(sequence.renewals)) == 3
    assert {renewal for _, _, (_, renewal) in sequence.kept_calls()} <= set(sequence.renewals)


def test_drawing_the_inputs_is_no_part_of_the_wait() -> None:
    source = BlockSource(ORIGINS.get)
    ask(source, 0)
    for index in range(1, 7):
        time.sleep(0.02)
        source.answer({"ask": "ready"})
        source.answer({"ask": "told", "sequence": 1, "time_us": 100.0})
        ask(source, index)
    assert not contradicted(reply({})["measurements"], source)
