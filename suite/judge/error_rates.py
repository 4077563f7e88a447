"""How often the gate errs on launches that were really measured: claims and gate runs simulated by resampling them.

A simulated claim is made as `promote` makes it: the lower bound of `interval` over PROMOTE_LAUNCHES launches, rounded
down; where that is too uncertain, over twice as many, as `promote` says. Then a gate run judges it: after each launch
the rules of `gate._judge`, vectorised here over many runs at once, until they decide or `k_max` launches are spent. The
selftest holds the vectorised rules against the gate itself.

Launches are resampled by the stationary bootstrap (Politis and Romano, "The Stationary Bootstrap", JASA 1994): pieces
of consecutive launches, MEAN_PIECE long on average. What drifts from minute to minute stays together in a piece, and
so claims are made on one stretch of time and judged on another, as in reality. It cannot show what no measured launch
showed: modes that appear from day to day, another card, another driver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from ..record.pairs import FACTOR_DIGITS
from .bands import Bands
from .evidence import MIXTURE_G, MODES_LOG_RATIO, SD_FLOOR

Floats: TypeAlias = Any
"""An array of float64. numpy's own stubs need a newer grammar than 3.10's, so mypy skips them."""
Integers: TypeAlias = Any
"""An array of int64."""

PROMOTE_LAUNCHES, MOST_PROMOTE_LAUNCHES = 15, 60
"""Launches that a claim is made from: three runs of five, the gate's fewest. `promote` takes two runs where they are
certain enough, and asks for more launches where they are not: here for twice as many, and twice as many again."""
PROMOTE_ALPHA = 0.05
"""Of `interval`, by default."""
MEAN_PIECE = 5
"""Mean length of a resampled piece: the launches of a short run."""
CHUNK = 50_000
"""Simulated runs at a time; bounds memory at some 100 MB."""

UNDECIDED, HOLDS, REGRESSED, INCONCLUSIVE = 0, 1, 2, 3


@dataclass(frozen=True)
class Rates:
    """How simulated gate runs of one claim ended, as fractions of all runs."""

    runs: int
    regressed: float
    holds: float
    inconclusive: float
    mean_launches: float
    refused: float
    """Claims that `promote` would have refused to the last, of all that were tried; they are in no other figure."""

    def to_json(self) -> dict[str, Any]:
        """The fields as the stored file holds them."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


def simulate(
    claimed: Sequence[float], judged: Sequence[float], bands: Bands, num_claims: int, runs: int, seed: int
) -> Rates:
    """Claims from resampled launch scores `claimed`, judged on resampled launch scores `judged`.

    Scores are ln(t_rival / t_kernel), one a launch, in the order of measuring; num_claims: N of the gate's N / alpha.
    Raises ValueError for fewer than two launches.
    """
    if min(len(claimed), len(judged)) < 2:
        raise ValueError(f"Resampling needs at least two launches, got {len(claimed)} and {len(judged)}.")
    rng = np.random.default_rng(seed)
    ends, launches, refused = [], [], 0
    for start in range(0, runs, CHUNK):
        size = min(CHUNK, runs - start)
        log_factor, is_refused = claim_at_last(resample(np.asarray(claimed), (size, MOST_PROMOTE_LAUNCHES), rng), bands)
        refused += int(is_refused.sum())
        sequences = resample(np.asarray(judged), (size, bands.k_max), rng)[~is_refused]
        ended, spent = gate_runs(sequences, log_factor[~is_refused], bands, num_claims)
        ends.append(ended)
        launches.append(spent)
    ended, spent = np.concatenate(ends), np.concatenate(launches)
    judged_runs = max(1, len(ended))
    return Rates(
        runs=len(ended),
        regressed=int((ended == REGRESSED).sum()) / judged_runs,
        holds=int((ended == HOLDS).sum()) / judged_runs,
        inconclusive=int((ended == INCONCLUSIVE).sum()) / judged_runs,
        mean_launches=int(spent.sum()) / judged_runs,
        refused=refused / runs,
    )


def resample(scores: Floats, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """`shape` = (runs, launches) scores: pieces of consecutive launches; the last is followed by the first."""
    launches = shape[1]
    position = rng.integers(len(scores), size=shape)
    begins = rng.random(shape) < 1 / MEAN_PIECE
    begins[:, 0] = True
    column = np.broadcast_to(np.arange(launches), shape)
    latest = np.maximum.accumulate(np.where(begins, column, 0), axis=1)
    index = np.take_along_axis(position, latest, axis=1) + column - latest
    return scores[index % len(scores)]


def claim_at_last(scores: Floats, bands: Bands) -> tuple[Floats, Any]:
    """`claim` of the first PROMOTE_LAUNCHES of each row of launch scores; of twice as many where that is refused, and
    so on up to all."""
    launches = PROMOTE_LAUNCHES
    log_factor, is_refused = claim(scores[:, :launches], bands)
    while launches < scores.shape[1] and is_refused.any():
        launches *= 2
        again = np.flatnonzero(is_refused)
        log_factor[again], is_refused[again] = claim(scores[again, :launches], bands)
    return log_factor, is_refused


def claim(scores: Floats, bands: Bands) -> tuple[Floats, Any]:
    """ln of the factor that `promote` stores for each row of launch scores, and whether it refuses as too uncertain.

    That it refuses two modes as well is left out here: an unchanged kernel with two modes counts.
    """
    num = scores.shape[1]
    mean, sd = scores.mean(axis=1), np.maximum(scores.std(axis=1, ddof=1), SD_FLOOR)
    log_spread = math.log(1.0 + num * MIXTURE_G)
    log_b = 2.0 / num * (0.5 * log_spread - math.log(PROMOTE_ALPHA))
    if log_b >= log_spread:
        return np.full(len(scores), -np.inf), np.ones(len(scores), dtype=bool)
    t_squared_over_nu = math.expm1(log_b) / -math.expm1(log_b - log_spread)
    bound = mean - sd * math.sqrt((num - 1) / num * t_squared_over_nu)
    scale = 10.0 ** (FACTOR_DIGITS - 1 - np.floor(np.log10(np.exp(bound))))
    return np.log(np.floor(np.exp(bound) * scale) / scale), mean - bound > bands.d0


def gate_runs(scores: Floats, log_factor: Floats, bands: Bands, num_claims: int) -> tuple[Integers, Integers]:
    """How each row's gate run ends (HOLDS, REGRESSED or INCONCLUSIVE), and after how many launches.

    scores: [runs, k_max]; log_factor: [runs], ln c.
    """
    ended = np.full(len(scores), UNDECIDED)
    spent = np.full(len(scores), bands.k_max)
    for launches in range(bands.k_min, bands.k_max + 1):
        open_rows = np.flatnonzero(ended == UNDECIDED)
        if not len(open_rows):
            break
        status = decide(scores[open_rows, :launches], log_factor[open_rows], bands, num_claims)
        decided = status != UNDECIDED
        ended[open_rows[decided]] = status[decided]
        spent[open_rows[decided]] = launches
    ended[ended == UNDECIDED] = INCONCLUSIVE
    return ended, spent


def decide(scores: Floats, log_factor: Floats, bands: Bands, num_claims: int) -> Integers:
    """`gate._decide` for every row of `scores` [runs, K], K >= k_min: what the rules say after K launches."""
    num = scores.shape[1]
    mean = scores.mean(axis=1)
    sd = np.maximum(scores.std(axis=1, ddof=1), bands.sd_floor)
    fine, bad = log_factor - bands.d0, log_factor - bands.d1
    regressed = (mean < fine) & (_log_e(num, mean, sd, fine) >= math.log(num_claims / bands.alpha))
    holds = (mean > bad) & (_log_e(num, mean, sd, bad) >= math.log(1 / bands.beta))
    status = np.where(regressed, REGRESSED, np.where(holds, HOLDS, UNDECIDED))
    lower, upper = _two_modes(scores, bands.sd_floor)
    return np.where((lower <= bad) & (upper >= fine), INCONCLUSIVE, status)  # False where they are NaN


def _log_e(num: int, mean: Floats, sd: Floats, mu0: Floats) -> Floats:
    """`evidence.log_e`."""
    spread = 1.0 + num * MIXTURE_G
    t_squared_over_nu = num / (num - 1) * ((mean - mu0) / sd) ** 2
    gain = np.log1p(t_squared_over_nu) - np.log1p(t_squared_over_nu / spread)
    return -0.5 * math.log(spread) + 0.5 * num * gain


def _two_modes(scores: Floats, sd_floor: float) -> tuple[Floats, Floats]:
    """`evidence.two_modes` of every row: both centres, NaN where there is one mode."""
    runs, num = scores.shape
    lower, upper = np.full(runs, np.nan), np.full(runs, np.nan)
    if num < 4:
        return lower, upper
    ordered = np.sort(scores, axis=1)
    centred = ordered - scores.mean(axis=1, keepdims=True)
    least = num * sd_floor**2
    total = (centred**2).sum(axis=1, keepdims=True)
    cut = np.arange(2, num - 1)
    lower_sums = np.cumsum(centred, axis=1)[:, cut - 1]
    within = np.maximum(total - lower_sums**2 * (1 / cut + 1 / (num - cut)), least)
    entropy = cut * np.log(cut / num) + (num - cut) * np.log((num - cut) / num)
    ratio = 0.5 * num * np.log(np.maximum(total, least) / within) + entropy
    best = ratio.argmax(axis=1)
    for row in np.flatnonzero(ratio.max(axis=1) > MODES_LOG_RATIO):
        lower[row] = np.median(ordered[row, : cut[best[row]]])
        upper[row] = np.median(ordered[row, cut[best[row]] :])
    return lower, upper


def family_rate(rate: float, num_claims: int) -> float:
    """The chance that a gate run of `num_claims` claims has a false alarm, where one claim has it with `rate`."""
    return -math.expm1(num_claims * math.log1p(-rate)) if rate < 1 else 1.0


def upper_limit(events: int, runs: int) -> float:
    """The 95% upper limit of a rate of which `events` were seen in `runs`: Wilson's, and 3 / runs for none at all."""
    if not events:
        return min(1.0, 3 / runs)
    z, rate = 1.645, events / runs
    centre = rate + z * z / (2 * runs)
    spread = z * math.sqrt(rate * (1 - rate) / runs + z * z / (4 * runs * runs))
    return min(1.0, (centre + spread) / (1 + z * z / runs))
