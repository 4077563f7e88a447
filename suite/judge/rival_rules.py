"""What other tools would have said of the same samples: their rules for "slower", on two launches of the same machine.

Each compares the absolute times of one process with those of an earlier one, as these tools do from run to run. Written
from their sources:

- pytest-benchmark 5.3.1, `--benchmark-compare-fail=FIELD:P%`: fails where `current / earlier * 100 - 100 > P`
  (utils.py, PercentageRegressionCheck; https://pytest-benchmark.readthedocs.io/en/stable/comparing.html)
- asv 0.6.6, `asv continuous` and `asv compare`: worse where the median is more than `--factor` (1.1) times the earlier
  one and a Mann-Whitney U test on the recorded samples finds them different at p < 0.002 (commands/compare.py,
  _is_result_better; _stats.py, is_different; https://asv.readthedocs.io/en/stable/commands.html)
- nvbench, `nvbench_compare.py`: SLOW where the median GPU time grew by more than the noise, the larger of both
  relative interquartile ranges (https://github.com/NVIDIA/nvbench, python/scripts/nvbench_compare.py at 00bcd49)
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Times = Sequence[float]
"""One time a block of one kernel in one launch, in us."""

ASV_P = 0.002


@dataclass(frozen=True)
class Rule:
    """One tool's rule."""

    name: str
    is_red: Callable[[Times, Times], bool]
    """(earlier times, times now) -> whether the tool calls it slower."""


def red_rate(rule: Rule, earlier: Sequence[Times], now: Sequence[Times]) -> float | None:
    """The fraction of all pairs of *different* launches (i of `earlier`, j of `now`) that the rule calls slower.

    Both are in the order of launches; None where there is no such pair.
    """
    pairs = [(before, after) for i, before in enumerate(earlier) for j, after in enumerate(now) if i != j]
    return sum(rule.is_red(before, after) for before, after in pairs) / len(pairs) if pairs else None


def _grown(statistic: Callable[[Times], float], percent: float) -> Callable[[Times, Times], bool]:
    return lambda earlier, now: statistic(now) / statistic(earlier) * 100 - 100 > percent


def asv_is_red(earlier: Times, now: Times, factor: float = 1.1) -> bool:
    """asv's rule for two sets of samples."""
    if not statistics.median(earlier) < statistics.median(now) / factor:
        return False
    return mann_whitney_p(earlier, now) < ASV_P


def mann_whitney_p(first: Times, second: Times) -> float:
    """Two-sided p of the Mann-Whitney U test by its normal approximation, ties broken towards no difference.

    asv takes the exact distribution up to 20 samples a side, where U <= 88 is then significant; here it is U <= 85.
    """
    m, n = len(first), len(second)
    ordered = sorted(second)
    below = sum(bisect.bisect_left(ordered, value) for value in first)
    ties = sum(bisect.bisect_right(ordered, value) for value in first) - below
    centre = m * n / 2
    nearest = min(max(centre, below), below + ties)
    spread = math.sqrt(m * n * (m + n + 1) / 12)
    return math.erfc(abs(nearest - centre) / spread / math.sqrt(2))


def nvbench_is_red(earlier: Times, now: Times) -> bool:
    """nvbench_compare's status SLOW."""
    before = statistics.median(earlier)
    noise = max(_relative_iqr(earlier), _relative_iqr(now))
    return (statistics.median(now) - before) / before > noise


def _relative_iqr(times: Times) -> float:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / middle


RULES = (
    Rule("pytest-benchmark median:5%", _grown(statistics.median, 5)),
    Rule("pytest-benchmark min:5%", _grown(min, 5)),
    Rule("pytest-benchmark mean:5%", _grown(statistics.fmean, 5)),
    Rule("asv, factor 1.1", asv_is_red),
    Rule("nvbench_compare", nvbench_is_red),
)
