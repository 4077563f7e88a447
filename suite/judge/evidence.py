"""What the launches of one pair of kernels say: an anytime-valid t-test on launch scores.

The sampling unit is the launch (one fresh process). Block b of launch k gives x = ln(t_rival / t_kernel); the
launch's score is y_k = median_b x. Samples within a launch are not independent evidence and never enlarge K.

With K scores of mean ybar and standard deviation s, t = sqrt(K) (ybar - mu0) / s and nu = K - 1, the e-value
against "the true log-speedup is mu0" mixes the effect size over N(0, g):

    E(mu0) = (1 + K g)^(-1/2) * [ (1 + t^2 / nu) / (1 + t^2 / ((1 + K g) nu)) ]^(K / 2)

Under mu0 the chance that E ever reaches 1/alpha is at most alpha, however often one looks (Ville's inequality;
Wang and Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance",
arXiv 2310.03722). Crossing with ybar *below* mu0 is at most as likely for every truth above mu0: adding a constant
to all scores can only undo such a crossing. So a boundary serves the one-sided question, too.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MIXTURE_G = 25.0
"""Variance of the mixture over effect sizes (gaps in launch sds). About 25 suits gaps of several sds."""

SD_FLOOR = 1e-4
"""Least launch sd believed, in log units. Twins of 5 us on an H200 vary by less than 0.01% from launch to launch, and
quantised timers repeat a score exactly. A floor above the truth only lowers E, so the error rates stay."""

MAX_ABS_SCORE = 100.0
"""|ln ratio| beyond this is no measurement."""

MODES_LOG_RATIO = 8.5
"""Least log likelihood ratio at which two modes are believed: Gaussian scores exceed it in 1% of sequences of 20
looks, at 5 to 24 launches (50,000 simulated; 11.8 would be 0.1%)."""

MAX_PLANNED_LAUNCHES = 10_000
"""Where `launches_needed` gives up."""


@dataclass(frozen=True)
class Summary:
    """The sufficient statistics of one pair's launch scores."""

    launches: int
    """K, at least 2."""
    mean: float
    """ybar: mean log-speedup."""
    sd: float
    """s: launch standard deviation in log units, never below the floor."""


@dataclass(frozen=True)
class Boundary:
    """One hypothesis to refute: `crossed_by` evidence that lies on `side` of mu0 with E(mu0) >= threshold."""

    mu0: float
    """Log-speedup."""
    side: Literal["below", "above"]
    """Where the mean has to be for a crossing to count."""
    threshold: float
    """N / alpha or 1 / beta."""

    def crossed_by(self, summary: Summary, g: float = MIXTURE_G) -> bool:
        """Whether the evidence refutes mu0 in this boundary's direction."""
        on_its_side = summary.mean < self.mu0 if self.side == "below" else summary.mean > self.mu0
        return on_its_side and log_e(summary, self.mu0, g) >= math.log(self.threshold)


def launch_score(times_kernel: Sequence[float], times_rival: Sequence[float]) -> float:
    """Median over blocks of ln(t_rival / t_kernel); positive where the kernel is faster.

    Both in the same unit, one entry a block. Raises ValueError where they are empty, unequal in number, or hold a
    time that is not positive and finite.
    """
    if not times_kernel or len(times_kernel) != len(times_rival):
        raise ValueError(
            f"A launch score needs one time per block of both kernels, got {len(times_kernel)} and {len(times_rival)}."
        )
    for value in (*times_kernel, *times_rival):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"A block's time must be positive and finite, got {value}.")
    pairs = zip(times_kernel, times_rival, strict=True)
    return statistics.median(math.log(rival) - math.log(kernel) for kernel, rival in pairs)


def check_scores(scores: Sequence[float]) -> None:
    """Raises ValueError where a score is NaN, infinite, or too large to be a log ratio of times."""
    for position, score in enumerate(scores):
        if not math.isfinite(score) or abs(score) > MAX_ABS_SCORE:
            raise ValueError(f"Launch score {position} is {score}, which is not the logarithm of a ratio of two times.")


def summarize(scores: Sequence[float], sd_floor: float = SD_FLOOR) -> Summary:
    """K, mean and floored sd of launch scores. Raises ValueError for fewer than two or unusable ones."""
    check_scores(scores)
    if len(scores) < 2:
        raise ValueError(f"A spread between launches needs at least two of them, got {len(scores)}.")
    if not (math.isfinite(sd_floor) and sd_floor > 0):
        raise ValueError(f"sd_floor must be positive, got {sd_floor}: identical scores would be infinite evidence.")
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    return Summary(launches=len(scores), mean=mean, sd=max(math.sqrt(variance), sd_floor))


def log_e(summary: Summary, mu0: float, g: float = MIXTURE_G) -> float:
    """ln E(mu0); the formula is the module's."""
    if not (math.isfinite(g) and g > 0):
        raise ValueError(f"The mixture variance g must be positive, got {g}.")
    num = summary.launches
    spread = 1.0 + num * g
    t_squared_over_nu = num / (num - 1) * ((summary.mean - mu0) / summary.sd) ** 2
    gain = math.log1p(t_squared_over_nu) - math.log1p(t_squared_over_nu / spread)
    return -0.5 * math.log(spread) + 0.5 * num * gain


def log_e_value(scores: Sequence[float], mu0: float, g: float = MIXTURE_G, sd_floor: float = SD_FLOOR) -> float:
    """ln E(mu0) of launch scores. Raises ValueError as `summarize`."""
    return log_e(summarize(scores, sd_floor), mu0, g)


def interval(
    scores: Sequence[float], alpha: float = 0.05, g: float = MIXTURE_G, sd_floor: float = SD_FLOOR
) -> tuple[float, float]:
    """The log-speedups that E does not refute at 1/alpha: a (1 - alpha) confidence sequence, valid at every look.

    With A = 1 + K g and B = (sqrt(A) / alpha)^(2/K), E = 1/alpha solves to t^2 / nu = (B - 1) / (1 - B / A).
    Where B >= A no mu0 can be refuted with so few launches: (-inf, inf). Raises ValueError as `summarize`.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}.")
    summary = summarize(scores, sd_floor)
    num = summary.launches
    log_spread = math.log(1.0 + num * g)
    log_b = 2.0 / num * (0.5 * log_spread - math.log(alpha))
    if log_b >= log_spread:
        return (-math.inf, math.inf)
    t_squared_over_nu = math.expm1(log_b) / -math.expm1(log_b - log_spread)
    half_width = summary.sd * math.sqrt((num - 1) / num * t_squared_over_nu)
    return (summary.mean - half_width, summary.mean + half_width)


def launches_needed(summary: Summary, boundaries: Sequence[Boundary], g: float = MIXTURE_G) -> int | None:
    """How many *further* launches of today's mean and variance would cross one of the boundaries.

    0 where one is crossed already, None where more than `MAX_PLANNED_LAUNCHES` would be needed. For a given gap ln E
    first falls and then rises for good, and thresholds exceed 1, so that bisection finds the crossing.
    """

    def decides(total: int) -> bool:
        planned = Summary(total, summary.mean, summary.sd)
        return any(boundary.crossed_by(planned, g) for boundary in boundaries)

    low, high = summary.launches, max(MAX_PLANNED_LAUNCHES, summary.launches)
    if decides(low):
        return 0
    if not decides(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high - summary.launches


def two_modes(scores: Sequence[float], sd_floor: float = SD_FLOOR) -> tuple[float, float] | None:
    """The centres (log units, lower first) of two separated modes of at least two launches each, or None.

    Compares one Gaussian with two of equal variance by the classification likelihood (Symons, Biometrics 1981): over
    all cuts of the sorted scores into n_1 + n_2 = K, the greatest

        K/2 ln(SS_total / SS_within) + n_1 ln(n_1 / K) + n_2 ln(n_2 / K).

    One Gaussian, cut at its middle, gives 0.51 K - 0.69 K: it does not pass for two as K grows.
    """
    check_scores(scores)
    num = len(scores)
    mean = math.fsum(scores) / max(num, 1)
    ordered = sorted(scores)
    least = num * sd_floor**2
    total = math.fsum((score - mean) ** 2 for score in ordered)
    best_ratio, best_cut = MODES_LOG_RATIO, 0
    # Deviations of the lower mode sum to -d where the upper's sum to d, so between modes lies d^2 / n_1 + d^2 / n_2.
    lower_sums = list(itertools.accumulate(score - mean for score in ordered))
    for cut in range(2, num - 1):
        within = max(total - lower_sums[cut - 1] ** 2 * (1 / cut + 1 / (num - cut)), least)
        entropy = cut * math.log(cut / num) + (num - cut) * math.log((num - cut) / num)
        ratio = 0.5 * num * math.log(max(total, least) / within) + entropy
        if ratio > best_ratio:
            best_ratio, best_cut = ratio, cut
    if not best_cut:
        return None
    return (statistics.median(ordered[:best_cut]), statistics.median(ordered[best_cut:]))
