"""Verdicts: what each status takes, their sentences, and the gate's error rates by simulation."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from suite.judge.bands import MOST_LAUNCHES
from suite.judge.gate import (
    UNCLAIMED_LAUNCHES,
    Bands,
    Reason,
    Status,
    Verdict,
    bands_for,
    drift,
    is_decided,
    judge_base,
    judge_claim,
    judge_unclaimed,
    mark_stale,
    rival_improved,
    stale,
)
from suite.record.refusals import MIN_LAUNCHES, MIN_RUNS

pytestmark = pytest.mark.side_by_side

GPU = bands_for("cuda", 150.0)
CPU = bands_for("cpu", 5000.0)
PAIR = {"kernel": "mla/triton_split_kv", "rival": "mla/vllm_triton"}


def around(factor: float, launches: int = 6, sd: float = 0.001) -> list[float]:
    """Scores spread evenly, with exactly this mean."""
    return [math.log(factor) + sd * (2 * launch / (launches - 1) - 1) for launch in range(launches)]


def simulate(loss: float, sd: float, bands: Bands, runs: int, num_claims: int = 50) -> tuple[Counter[Status], float]:
    """Statuses of gate runs that stop at the first decision, and their mean launches, for a claim of 1.4x."""
    rng = random.Random(f"{loss} {sd}")
    truth = math.log(1.4) + math.log1p(-loss)
    statuses: Counter[Status] = Counter()
    launches = 0
    for _ in range(runs):
        scores = [rng.gauss(truth, sd) for _ in range(bands.k_min)]
        verdict = judge_claim(scores, 1.4, num_claims, bands)
        while not is_decided(verdict):
            scores.append(rng.gauss(truth, sd))
            verdict = judge_claim(scores, 1.4, num_claims, bands)
        statuses[verdict.status] += 1
        launches += len(scores)
    return statuses, launches / runs


def test_two_percent_lost_is_caught_and_never_holds() -> None:
    statuses, launches = simulate(0.02, 0.005, GPU, runs=1000)
    assert statuses[Status.REGRESSED] >= 990
    assert statuses[Status.HOLDS] == 0
    assert launches < 10


def test_noise_makes_a_loss_inconclusive_not_held() -> None:
    statuses, _ = simulate(0.02, 0.01, GPU, runs=300)
    assert statuses[Status.REGRESSED] >= 0.85 * 300
    assert statuses[Status.HOLDS] == 0


def test_an_unchanged_kernel_holds() -> None:
    statuses, launches = simulate(0.0, 0.003, GPU, runs=500)
    assert statuses[Status.HOLDS] >= 495
    assert statuses[Status.REGRESSED] == 0
    assert launches < 7


def test_a_loss_of_exactly_d0_is_called_regressed_at_most_at_alpha() -> None:
    statuses, _ = simulate(-math.expm1(-GPU.d0), 0.005, GPU, runs=400, num_claims=1)
    assert statuses[Status.REGRESSED] <= 0.05 * 400
    assert statuses[Status.HOLDS] > 0


def test_a_loss_of_exactly_d1_holds_at_most_at_beta() -> None:
    statuses, _ = simulate(-math.expm1(-GPU.d1), 0.003, GPU, runs=400)
    assert statuses[Status.HOLDS] <= 0.05 * 400


def test_cpu_bands_catch_fifteen_percent_at_two_percent_noise() -> None:
    statuses, launches = simulate(0.15, 0.02, CPU, runs=500)
    assert statuses[Status.REGRESSED] >= 495
    assert launches < 8
    unchanged, _ = simulate(0.0, 0.02, CPU, runs=500)
    assert unchanged[Status.HOLDS] >= 495
    assert unchanged[Status.REGRESSED] == 0


def test_regressed_names_claim_factor_and_interval() -> None:
    verdict = judge_claim(around(1.22, sd=0.01), 1.40, 50, GPU, **PAIR)
    assert (verdict.status, verdict.reason) == (Status.REGRESSED, Reason.SLOWER_THAN_CLAIM)
    assert verdict.interval is not None
    low, high = verdict.interval
    assert verdict.sentence == (
        f"mla/triton_split_kv is 1.220x as fast as mla/vllm_triton (95% interval {low:.3f}x to {high:.3f}x, "
        "6 launches); the claim is 1.400x: regressed by 12.9%."
    )
    assert verdict.e_regressed is not None
    assert verdict.e_regressed >= 50 / 0.05
    assert verdict.launches_needed is None


def test_holds_at_the_claim_and_above_it() -> None:
    for factor in (1.4, 1.6):
        verdict = judge_claim(around(factor), 1.4, 50, GPU, **PAIR)
        assert (verdict.status, verdict.reason) == (Status.HOLDS, Reason.MEETS_CLAIM)
        assert verdict.sentence.endswith("the claim is 1.400x: holds.")
        assert verdict.factor == pytest.approx(factor)


def test_more_claims_ask_for_more_evidence() -> None:
    scores = around(1.40 * 0.97, launches=5, sd=0.004)
    assert judge_claim(scores, 1.4, 1, GPU).status is Status.REGRESSED
    many = judge_claim(scores, 1.4, 5000, GPU)
    assert (many.status, many.reason) == (Status.INCONCLUSIVE, Reason.UNDECIDED)


@pytest.mark.parametrize("launches", [0, 1, 2, 4])
def test_below_k_min_nothing_is_judged(launches: int) -> None:
    scores = [math.log(0.5)] * launches
    for verdict in (judge_claim(scores, 1.4, 1, GPU, **PAIR), judge_base(scores, 1, GPU, **PAIR)):
        assert (verdict.status, verdict.reason) == (Status.INCONCLUSIVE, Reason.TOO_FEW_LAUNCHES)
        assert verdict.launches_needed == 5 - launches
        assert not is_decided(verdict)
        json.dumps(verdict.to_json(), allow_nan=False)


def test_undecided_then_given_up_with_launches_needed() -> None:
    noisy = around(1.39, launches=8, sd=0.05)
    verdict = judge_claim(noisy, 1.4, 50, GPU)
    assert (verdict.status, verdict.reason, is_decided(verdict)) == (Status.INCONCLUSIVE, Reason.UNDECIDED, False)
    given_up = judge_claim(noisy, 1.4, 50, replace(GPU, k_max=8))
    assert (given_up.reason, is_decided(given_up)) == (Reason.NOT_ENOUGH_EVIDENCE, True)
    assert given_up.launches_needed is not None
    assert f"inconclusive, {given_up.launches_needed} more launches would decide" in given_up.sentence


def bimodal(low: float, high: float) -> list[float]:
    return [math.log(mode) + 0.001 * launch for launch in range(6) for mode in (low, high)]


def test_two_modes_astride_the_claim_are_inconclusive() -> None:
    verdict = judge_claim(bimodal(1.31, 1.52), 1.4, 50, GPU, **PAIR)
    assert (verdict.status, verdict.reason) == (Status.INCONCLUSIVE, Reason.TWO_MODES)
    assert "(two modes, 1.31" in verdict.sentence
    assert "and 1.52" in verdict.sentence
    assert is_decided(verdict)


def test_two_modes_on_one_side_are_judged_and_named() -> None:
    for claimed, status in ((2.0, Status.REGRESSED), (1.1, Status.HOLDS)):
        verdict = judge_claim(bimodal(1.31, 1.52), claimed, 50, GPU)
        assert verdict.status is status
        assert "(two modes, 1.31" in verdict.sentence


def test_base_slower_same_faster() -> None:
    slower = judge_base(around(0.97), 50, GPU, kernel="mla/a", rival="base:mla/a")
    assert (slower.status, slower.reason) == (Status.REGRESSED, Reason.SLOWER_THAN_BASE)
    assert slower.sentence.startswith("mla/a is 0.970x as fast as base:mla/a")
    assert slower.sentence.endswith("regressed by 3.0%.")
    assert slower.factor_claimed is None
    same = judge_base(around(1.0), 50, GPU)
    assert (same.status, same.reason) == (Status.HOLDS, Reason.NOT_SLOWER_THAN_BASE)
    faster = judge_base(around(1.2), 50, GPU)
    assert (faster.status, faster.reason) == (Status.HOLDS, Reason.FASTER_THAN_BASE)
    assert faster.sentence.endswith("it is not slower than the base, and is faster.")


def test_unclaimed_reports_and_is_decided_when_two_such_runs_would_make_a_claim() -> None:
    verdict = judge_unclaimed(around(1.3, launches=5), GPU, **PAIR)
    assert (verdict.status, verdict.reason, is_decided(verdict)) == (Status.UNCLAIMED, Reason.NO_CLAIM, True)
    assert verdict.interval is not None
    assert verdict.interval[0] < 1.3 < verdict.interval[1]
    early = judge_unclaimed(around(1.3, launches=UNCLAIMED_LAUNCHES - 1), GPU)
    assert (early.status, is_decided(early), early.launches_needed) == (Status.UNCLAIMED, False, 1)
    assert is_decided(judge_unclaimed(around(1.3, launches=UNCLAIMED_LAUNCHES), GPU))
    assert MIN_RUNS * UNCLAIMED_LAUNCHES >= MIN_LAUNCHES
    assert not is_decided(judge_unclaimed([], GPU)), "nothing measured is not done"


def test_unusable_questions_are_refused() -> None:
    for factor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="factor"):
            judge_claim(around(1.0), factor, 1, GPU)
    with pytest.raises(ValueError, match="counted"):
        judge_claim(around(1.0), 1.4, 0, GPU)
    with pytest.raises(ValueError, match="not the logarithm"):
        judge_unclaimed([math.nan], GPU)


def test_json_is_finite_even_for_overwhelming_evidence() -> None:
    verdict = judge_claim([5.0] * 2000, 1.4, 50, GPU)
    document = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert document["status"] == "holds"
    assert document["interval"][0] <= document["factor"] <= document["interval"][1]


def test_bands_follow_device_and_size() -> None:
    assert (GPU.d0, GPU.d1, GPU.k_min, GPU.k_max) == (0.005, 0.01, 5, 24)
    assert bands_for("hip", 150.0) == GPU
    assert (CPU.d0, CPU.d1) == (0.025, 0.05)
    assert bands_for("cuda", 2.5).d1 * 2.5 == pytest.approx(bands_for("cuda", 5.0).d1 * 5.0), "absolute when tiny"
    for kind, sizes in (("cuda", (0.5, 5, 20, 100, 1e4)), ("cpu", (10, 300, 700, 4000, 1e6))):
        d1 = [bands_for(kind, float(size)).d1 for size in sizes]
        assert d1 == sorted(d1, reverse=True)
        assert all(bands_for(kind, float(size)).k_max <= MOST_LAUNCHES for size in sizes), "no run ends before that"
    for kind, size in (("tpu", 1.0), ("cuda", 0.0), ("cpu", math.nan)):
        with pytest.raises(ValueError, match=r"\.$"):
            bands_for(kind, size)


def test_bands_refuse_nonsense() -> None:
    for fields in ({"d0": 0.01, "d1": 0.01}, {"k_min": 1}, {"k_max": 4}, {"alpha": 1.0}, {"sd_floor": 0.0}):
        with pytest.raises(ValueError, match="Bands need"):
            replace(GPU, **fields)


def regressed() -> Verdict:
    return judge_claim(around(1.22), 1.40, 50, GPU, **PAIR)


ENVIRONMENT = {"torch": "2.11", "driver": "580.1"}


def test_a_rival_that_got_faster_is_named() -> None:
    moved = drift(100.0, 140.0, 100.4, 122.0, ENVIRONMENT, ENVIRONMENT | {"host": "other"})
    verdict = rival_improved(regressed(), moved, GPU)
    assert (verdict.status, verdict.reason) == (Status.REGRESSED, Reason.RIVAL_IMPROVED)
    assert verdict.sentence.endswith("The rival's own time changed by -12.9%, the kernel's by +0.4%.")
    assert verdict.to_json()["drift"] == {"kernel": pytest.approx(0.004), "rival": pytest.approx(-0.12857, abs=1e-4)}


@pytest.mark.parametrize(("kernel_us", "rival_us"), [(115.0, 140.0), (103.0, 122.0), (100.0, 139.9)])
def test_a_kernel_that_got_slower_keeps_the_blame(kernel_us: float, rival_us: float) -> None:
    moved = drift(100.0, 140.0, kernel_us, rival_us, ENVIRONMENT, ENVIRONMENT)
    assert rival_improved(regressed(), moved, GPU).reason is Reason.SLOWER_THAN_CLAIM


def test_drift_needs_the_same_environment() -> None:
    assert drift(100.0, 140.0, 100.0, 122.0, ENVIRONMENT, ENVIRONMENT | {"torch": "2.12"}) is None
    assert drift(100.0, 140.0, 100.0, 122.0, ENVIRONMENT, {}) is None
    assert rival_improved(regressed(), None, GPU) == regressed()
    with pytest.raises(ValueError, match="positive"):
        drift(0.0, 1.0, 1.0, 1.0, {}, {})


def test_drift_never_excuses_a_verdict_that_is_not_a_lost_claim() -> None:
    moved = drift(100.0, 140.0, 100.0, 122.0, ENVIRONMENT, ENVIRONMENT)
    base = judge_base(around(0.9), 50, GPU)
    assert rival_improved(base, moved, GPU).reason is Reason.SLOWER_THAN_BASE


def test_old_claims_are_stale_but_hold() -> None:
    now = datetime(2026, 11, 22, tzinfo=timezone.utc)
    assert stale("2026-10-01T00:00:00Z", now) is None
    verdict = mark_stale(judge_claim(around(1.4), 1.4, 50, GPU), "2026-01-01T00:00:00Z", now)
    assert (verdict.status, verdict.reason) == (Status.HOLDS, Reason.STALE)
    assert "last proven 325 days ago (180 are allowed)" in verdict.sentence
    assert mark_stale(regressed(), "2020-01-01", now) == regressed(), "age excuses nothing"
    with pytest.raises(ValueError, match="format"):
        stale("yesterday", now)
