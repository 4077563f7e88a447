"""From the launches of unchanged and slowed kernels to error rates: the gate's own, and those of other tools' rules.

Pure: times in, one JSON object out, in the form of schemas/error_rates.schema.json.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .bands import bands_for
from .error_rates import MEAN_PIECE, MOST_PROMOTE_LAUNCHES, PROMOTE_LAUNCHES, family_rate, simulate, upper_limit
from .evidence import launch_score
from .rival_rules import RULES, red_rate

NUM_CLAIMS = 50
"""Claims that share alpha, and claims of the gate run whose false alarms are counted."""
RUNS_UNCHANGED, RUNS_SLOWED = 200_000, 20_000
"""Simulated gate runs of one claim: of unchanged code, and at each planted slowdown."""
SEED = 20_261_122
CAUGHT = 0.99
"""The share of runs in which a slowdown must be called regressed to count as caught."""
MIN_LAUNCHES = 2

Launch = Mapping[str, Sequence[float]]
"""Variant (`base`, `twin`, `rival`, or the planted percent) -> one time a block, in us."""


def curve(problem: str, rival: str, timer: str, launches: Sequence[Launch], device_kind: str) -> dict[str, Any]:
    """The error rates of one problem. Raises ValueError for fewer than MIN_LAUNCHES launches."""
    if len(launches) < MIN_LAUNCHES:
        raise ValueError(f"{problem} was measured in {len(launches)} launches; at least {MIN_LAUNCHES} are needed.")
    percents = sorted(int(name) for name in launches[0] if name.isdigit())
    judged = ("base", "twin", *map(str, percents))
    scores = {name: [round(launch_score(launch[name], launch["rival"]), 7) for launch in launches] for name in judged}
    measured = {
        "problem": problem, "rival": rival, "timer": timer, "launches": len(launches),
        "kernel_us": _short(_median_us(launches, "base")), "rival_us": _short(_median_us(launches, "rival")),
        "launch_sd": _short(statistics.stdev(scores["base"])),
        "unchanged": {"others": _others(launches, "base")},
        "twin": {"others": _others(launches, "twin"), "measured_percent": _measured_percent(launches, "twin")},
        "planted": [
            {"percent": percent, "measured_percent": _measured_percent(launches, str(percent)),
             "others": _others(launches, str(percent))}
            for percent in percents
        ],
        "scores": scores,
    }  # fmt: skip
    return judged_by_gate(measured, device_kind)


def judged_by_gate(size_class: Mapping[str, Any], device_kind: str) -> dict[str, Any]:
    """What was measured of one problem, and how often the gate, by the rules that are now in force, errs on it."""
    bands = bands_for(device_kind, min(size_class["kernel_us"], size_class["rival_us"]))
    scores = size_class["scores"]

    def gate(name: str, runs: int) -> dict[str, Any]:
        return {"gate": simulate(scores["base"], scores[name], bands, NUM_CLAIMS, runs, SEED).to_json()}

    return {
        **size_class,
        "bands": {name: getattr(bands, name) for name in ("d0", "d1", "k_min", "k_max")},
        "unchanged": {**size_class["unchanged"], **gate("base", RUNS_UNCHANGED)},
        "twin": {**size_class["twin"], **gate("twin", RUNS_SLOWED)},
        "planted": [{**point, **gate(str(point["percent"]), RUNS_SLOWED)} for point in size_class["planted"]],
    }


def conditions() -> dict[str, Any]:
    """What the simulation assumed; see `error_rates`."""
    return {
        "num_claims": NUM_CLAIMS, "mean_piece": MEAN_PIECE,
        "promote_launches": PROMOTE_LAUNCHES, "most_promote_launches": MOST_PROMOTE_LAUNCHES,
        "runs_unchanged": RUNS_UNCHANGED, "runs_slowed": RUNS_SLOWED, "seed": SEED,
    }  # fmt: skip


def false_alarms(classes: Sequence[Mapping[str, Any]], num_claims: int) -> tuple[float, float]:
    """(seen, 95% upper limit): the share of gate runs of `num_claims` unchanged claims, spread evenly over the classes,
    in which any is called regressed."""
    ended = [one["unchanged"]["gate"] for one in classes]
    runs = sum(rates["runs"] for rates in ended)
    if not runs:
        return 0.0, 1.0  # every claim was refused: nothing is known
    events = round(sum(rates["regressed"] * rates["runs"] for rates in ended))
    return family_rate(events / runs, num_claims), family_rate(upper_limit(events, runs), num_claims)


def smallest_caught(size_class: Mapping[str, Any], share: float = CAUGHT) -> int | None:
    """The smallest planted slowdown, in percent, that is caught in `share` of runs, as is every larger one."""
    smallest = None
    for point in sorted(size_class["planted"], key=lambda point: -point["percent"]):
        if point["gate"]["regressed"] < share:
            break
        smallest = int(point["percent"])
    return smallest


def _others(launches: Sequence[Launch], variant: str) -> dict[str, float | None]:
    earlier, now = [launch["base"] for launch in launches], [launch[variant] for launch in launches]
    rates = {rule.name: red_rate(rule, earlier, now) for rule in RULES}
    return {name: None if rate is None else _short(rate) for name, rate in rates.items()}


def _median_us(launches: Sequence[Launch], variant: str) -> float:
    return statistics.median(statistics.median(launch[variant]) for launch in launches)


def _measured_percent(launches: Sequence[Launch], variant: str) -> float:
    """How much slower than the base the variant was, by the blocks that both were in: the check on what was planted."""
    slower = statistics.median(-launch_score(launch[variant], launch["base"]) for launch in launches)
    return _short(100 * math.expm1(slower))


def _short(value: float) -> float:
    return float(f"{value:.6g}")
