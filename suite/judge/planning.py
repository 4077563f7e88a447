"""How many blocks a launch should hold (Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013).

A score of m blocks costs c_launch + m c_block seconds and has the variance sigma_L^2 + sigma_W^2 / m. For a given
time the mean over launches is most precise where (c_launch + m c_block) (sigma_L^2 + sigma_W^2 / m) is least:

    m* = sqrt((c_launch / c_block) * (sigma_W^2 / sigma_L^2))
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

MIN_BLOCKS = 5
"""A median of fewer follows a single disturbed block."""
MAX_BLOCKS = 1000
"""Where launches do not differ at all, the formula would put everything into one."""


def blocks_per_launch(sigma_w: float, sigma_l: float, c_launch_s: float, c_block_s: float) -> int:
    """m*, rounded up, within `MIN_BLOCKS` and `MAX_BLOCKS`.

    sigma_w: sd of blocks within a launch; sigma_l: sd between launches beyond it, both in log units. Raises ValueError
    where an sd is negative or a cost not positive.
    """
    if not (sigma_w >= 0 and sigma_l >= 0 and math.isfinite(sigma_w) and math.isfinite(sigma_l)):
        raise ValueError(f"Standard deviations must be finite and not negative, got {sigma_w} and {sigma_l}.")
    if not (c_launch_s > 0 and c_block_s > 0 and math.isfinite(c_launch_s) and math.isfinite(c_block_s)):
        raise ValueError(f"Costs must be positive seconds, got {c_launch_s} and {c_block_s}.")
    if sigma_w == 0:
        return MIN_BLOCKS
    best = math.inf if sigma_l == 0 else math.sqrt(c_launch_s / c_block_s) * sigma_w / sigma_l
    return max(MIN_BLOCKS, math.ceil(min(best, MAX_BLOCKS)))


def split_variance(blocks_by_launch: Sequence[Sequence[float]]) -> tuple[float, float]:
    """(sigma_w, sigma_l) of a pilot: block scores of at least two launches, at least two blocks each.

    sigma_l^2 is the variance of launch means less what blocks alone explain (the paper's T^2), never below zero.
    """
    if len(blocks_by_launch) < 2 or min(map(len, blocks_by_launch)) < 2:
        raise ValueError("A pilot needs at least two launches of at least two blocks each.")
    within = statistics.fmean(statistics.variance(blocks) for blocks in blocks_by_launch)
    between = statistics.variance(statistics.fmean(blocks) for blocks in blocks_by_launch)
    explained = within * statistics.fmean(1 / len(blocks) for blocks in blocks_by_launch)
    return (math.sqrt(within), math.sqrt(max(0.0, between - explained)))
