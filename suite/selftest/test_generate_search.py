"""The search without a device: reproducible, resumable, and unharmed by what fails."""

from __future__ import annotations

import json
import math
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import pytest

from kernels.discover import load_problems, load_spaces, problem_key
from kernels.problem import Cost, Tier
from kernels.space import Space, Work
from suite.device.specs import spec_by_key
from suite.generate.emit import Subject, rows_of
from suite.generate.occupancy import resident_blocks
from suite.generate.roofline import estimate_us
from suite.generate.search import AHEAD, Budget, Search
from suite.generate.table import look_up
from suite.generate.trials import LOG_NAME, Trials
from suite.record.schema import RecordError

pytestmark = pytest.mark.side_by_side

pytest.importorskip("optuna", reason="the extra `generate` brings it")

H200, MI300X = spec_by_key("h200"), spec_by_key("mi300x")
(SPACE,) = load_spaces("mla")
PROBLEMS = load_problems("mla")[0][Tier.CI][:3]
COST: dict[str, Any] = {"flops": 10**11, "cold_read_bytes": 10**8, "write_bytes": 10**6, "compute_dtype": "bfloat16"}
HEADER = {"seed": 0}
WALL_S = 100.0


class Here(Executor):
    """Evaluates at once, in the caller's thread; loses the worker of some calls."""

    def __init__(self, lost=(), interrupt_at=None):
        self.calls, self.lost, self.interrupt_at = 0, lost, interrupt_at

    def submit(self, fn, /, *args, **kwargs):
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        future: Future[Any] = Future()
        if self.calls in self.lost:
            future.set_exception(RuntimeError("KilledWorker"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


def fake(request):
    """Compiled, with figures that depend on the choice; four stages fail."""
    choice = request["choice"]
    if choice["num_stages"] == 4:
        return {"status": "failed", "reason": "does_not_compile", "sentence": "no"}
    spilled = abs(choice["block_h"] - 64) + 10 * abs(choice["num_stages"] - 3)
    return {"status": "compiled", "cost": COST, "launches": [launch(spilled=spilled, grid=(256, 1, 1))]}


def launch(registers=128, shared=65536, warps=4, spilled=0, grid=(304, 1, 1), kinds=None):
    return {"function": "f", "grid": list(grid), "num_warps": warps, "num_stages": 2, "registers": registers,
            "spilled_registers": spilled, "shared_memory_bytes": shared,
            "matrix_instructions": {"mfma": 8} if kinds is None else kinds}  # fmt: skip


def go(search, budget, on=None):
    search.begin(on or Here(), budget)
    return search.run()


def searched(folder, trials, resume=False, seed=0, on=None) -> list[str]:
    """Lines of the log after a search, without times."""
    kept = Trials(folder, HEADER, resume)
    go(Search(SPACE, "mla", MI300X, PROBLEMS, seed, kept, evaluate=fake), Budget(WALL_S, trials), on)
    kept.close()
    return [json.dumps(json.loads(line) | {"elapsed_s": 0}) for line in (folder / LOG_NAME).read_text().splitlines()]


def table(folder):
    trials = Trials(folder, HEADER, resume=True)
    try:
        return rows_of(Subject(folder, "mla", SPACE, MI300X, PROBLEMS, PROBLEMS, 0), trials)
    finally:
        trials.close()


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(tmp_path):
    first, again = searched(tmp_path / "a", 24), searched(tmp_path / "b", 24)
    assert first == again
    assert len(first) == 25
    assert searched(tmp_path / "c", 24, seed=1) != first


def test_a_search_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path):
    whole = searched(tmp_path / "whole", 30)
    cut = tmp_path / "cut"
    searched(cut, 17)
    with (cut / LOG_NAME).open("a") as log:
        log.write('{"event":"trial","prob')  # SIGKILL within a write
    on = Here()
    assert searched(cut, 30, resume=True, on=on) == whole
    assert on.calls == 13, "what the log knows is not tried again"
    assert table(cut) == table(tmp_path / "whole")


def test_the_first_choice_is_the_one_by_hand_and_the_best_is_never_worse(tmp_path):
    searched(tmp_path, 40)
    trials = Trials(tmp_path, HEADER, resume=True)
    trials.close()
    for problem in PROBLEMS:
        by_hand = trials.find(problem_key(problem), SPACE.by_hand(problem, MI300X.device()))
        best = trials.best(problem_key(problem))
        assert trials.of(problem_key(problem))[0] == by_hand
        assert best is not None
        assert by_hand is not None
        assert (best.score_us or 0) <= (by_hand.score_us or 0)
        found = trials.find(problem_key(problem), look_up(table(tmp_path), SPACE.facts(problem)))
        assert found is not None
        assert found.score_us == best.score_us
    scores = [r.score_us for r in trials.results.values() if r.score_us is not None]
    assert min(scores) < scores[0], "the search found nothing better than the first try"


def test_what_failed_is_kept_with_its_reason_and_never_chosen(tmp_path):
    searched(tmp_path, 40)
    trials = Trials(tmp_path, HEADER, resume=True)
    trials.close()
    assert trials.failures().keys() == {"does_not_compile"}
    assert all(row["use"]["num_stages"] != 4 for row in table(tmp_path))


def test_no_choice_is_tried_that_analysis_rules_out(tmp_path):
    searched(tmp_path, 40)
    trials = Trials(tmp_path, HEADER, resume=True)
    trials.close()
    by_id = {problem_key(p): p for p in PROBLEMS}
    for result in trials.results.values():
        assert SPACE.why_not(by_id[result.problem], SPACE.made(result.choice), MI300X.device()) is None


def test_of_choices_that_do_the_same_one_is_tried(tmp_path):
    def normal(problem, tile, device):
        return replace(tile, min_tokens=128, waves_per_eu=1)

    trials = Trials(tmp_path, HEADER, resume=False)
    go(Search(replace(SPACE, normal=normal), "mla", MI300X, PROBLEMS[:1], 0, trials, evaluate=fake), Budget(WALL_S, 25))
    trials.close()
    assert {(r.choice["min_tokens"], r.choice["waves_per_eu"]) for r in trials.results.values()} == {(128, 1)}
    assert len(trials.results) == 25


def test_a_space_that_is_nearly_all_ruled_out_is_still_searched(tmp_path):
    """One choice in thousands is left: the estimator alone would hardly find any."""

    def why_not(problem, choice, device):
        return (
            None if (choice.block_h, choice.block_n, choice.num_warps, choice.min_tokens) == (16, 16, 2, 64) else "no"
        )

    narrow = replace(SPACE, why_not=why_not)
    trials = Trials(tmp_path, HEADER, resume=False)
    go(Search(narrow, "mla", MI300X, PROBLEMS[:1], 0, trials, evaluate=fake), Budget(WALL_S, 12))
    trials.close()
    assert len(trials.results) == 12


def test_problems_of_a_kind_that_was_not_searched_keep_the_choice_by_hand(tmp_path):
    known = [p for p in load_problems("mla")[0][Tier.CI] if p.task in SPACE.tasks]
    fp8 = next(p for p in known if SPACE.facts(p)["is_fp8"])
    searched_for = [p for p in known if not SPACE.facts(p)["is_fp8"]][:2]
    trials = Trials(tmp_path, HEADER, resume=False)
    go(Search(SPACE, "mla", MI300X, searched_for, 0, trials, evaluate=fake), Budget(WALL_S, 20))
    trials.close()
    rows = rows_of(Subject(tmp_path, "mla", SPACE, MI300X, searched_for, [*searched_for, fp8], 0), trials)
    assert look_up(rows, SPACE.facts(fp8)) == SPACE.by_hand(fp8, MI300X.device())


def test_a_lost_worker_costs_its_own_trial_only(tmp_path):
    searched(tmp_path, 20, on=Here(lost=(3, 4)))
    trials = Trials(tmp_path, HEADER, resume=True)
    trials.close()
    assert trials.failures()["lost_worker"] == 2
    assert len(trials.results) == 20


def test_ctrl_c_keeps_the_best(tmp_path):
    searched(tmp_path, 40, on=Here(interrupt_at=AHEAD + 1))
    assert table(tmp_path)


def test_a_search_ends_when_nothing_is_left(tmp_path):
    small = replace(SPACE, values=lambda device: {n: v[:1] for n, v in SPACE.values(device).items()})
    trials = Trials(tmp_path, HEADER, resume=False)
    ended = go(Search(small, "mla", MI300X, PROBLEMS, 0, trials, evaluate=fake), Budget(WALL_S))
    trials.close()
    assert ended == "Nothing is left to try."
    assert len(trials.results) <= 2 * len(PROBLEMS)


def test_a_log_is_not_mixed_with_another_search(tmp_path):
    searched(tmp_path, 4)
    with pytest.raises(RecordError, match="differs in seed"):
        Trials(tmp_path, {"seed": 1}, resume=True)
    with pytest.raises(RecordError, match="--resume goes on"):
        Trials(tmp_path, HEADER, resume=False)
    with pytest.raises(RecordError, match="no search to resume"):
        Trials(tmp_path / "none", HEADER, resume=True)


def test_a_type_without_a_peak_is_ranked_by_memory():
    """B200's sheet has no float32 peak; copies were all estimated at infinity, so none was ranked."""
    b200, cost = spec_by_key("b200"), Cost(**{**COST, "compute_dtype": "float32"})
    assert b200.peak_for("float32") is None
    estimates = [estimate_us(cost, Work(), [launch(grid=(n, 1, 1))], b200) for n in (10, 148)]
    assert math.inf > estimates[0] > estimates[1] > 0


def test_an_estimate_follows_what_is_known_of_hardware():
    cost, base = Cost(**COST), launch()
    least = estimate_us(cost, Work(), [base], MI300X)
    assert least > COST["flops"] / (MI300X.peak_for("bfloat16") or 0) * 1e6
    slower = [launch(spilled=64), launch(kinds={}), launch(grid=(305, 1, 1), registers=512), launch(grid=(30, 1, 1))]
    for other in slower:
        assert estimate_us(cost, Work(), [other], MI300X) > least
    assert estimate_us(cost, Work(flops_factor=4), [base], MI300X) > least
    assert estimate_us(cost, Work(reread_factor=32), [base], MI300X) > least
    assert estimate_us(cost, Work(extra_bytes=10**9), [base], MI300X) > least
    wgmma, mma = (estimate_us(cost, Work(), [launch(kinds={kind: 8})], H200) for kind in ("wgmma", "mma"))
    assert mma > wgmma


@pytest.mark.parametrize(
    ("spec", "figures", "blocks"),
    [
        (H200, {"registers": 255, "warps": 8, "shared": 1024}, 1),  # 256 registers x 256 threads of 65536
        (H200, {"registers": 128, "warps": 4, "shared": 100 << 10}, 2),  # two of 101 KiB in 228
        (H200, {"registers": 32, "warps": 4, "shared": 0}, 16),  # 64 warps
        (MI300X, {"registers": 256, "warps": 4, "shared": 1024}, 2),  # two waves of 256 registers a SIMD
        (MI300X, {"registers": 64, "warps": 4, "shared": 40 << 10}, 1),  # 64 KiB of LDS
    ],
)
def test_blocks_that_an_sm_holds(spec, figures, blocks):
    assert resident_blocks(launch(**figures), spec.device()) == blocks


def test_a_problem_may_narrow_what_is_drawn(tmp_path):
    narrow = replace(SPACE, narrowed=lambda problem, device: {"num_warps": (8,), "block_h": (16, 64)})
    trials = Trials(tmp_path, HEADER, resume=False)
    go(Search(narrow, "mla", MI300X, PROBLEMS, 0, trials, evaluate=fake), Budget(WALL_S, 24))
    trials.close()
    by_hand = [SPACE.by_hand(problem, MI300X.device()) for problem in PROBLEMS]
    drawn = [result.choice for result in trials.results.values() if result.choice not in by_hand]
    assert {choice["num_warps"] for choice in drawn} == {8}
    assert {choice["block_h"] for choice in drawn} <= {16, 64}
    assert len({choice["block_n"] for choice in drawn}) > 1


def test_a_space_is_of_functions_that_a_file_can_hold():
    with pytest.raises(ValueError, match="must be a function of a module"):
        replace(SPACE, facts=lambda problem: {})
    assert isinstance(SPACE, Space)
    assert SPACE.sha256(H200.device()) != SPACE.sha256(MI300X.device())
