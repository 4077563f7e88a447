"""Which timer to trust on this GPU: all of them on planted delays and a real pair, over several launches.

A planted delay is a kernel that spins for a known number of clock cycles; its twin is the same kernel again. Run as
`python -m suite.measure.timer_comparison` this module is one launch: it reads the chosen device from stdin and prints
one JSON object. `compare_timers` starts the launches and, where ncu is installed, adds its durations.
"""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from ..device.clocks import snapshot
from ..device.detect import PROJECT_ROOT, ChosenDevice
from .process import scrubbed_environment

PLANTED_US = (2.0, 5.0, 20.0, 200.0, 1000.0)
PAIR = "64 x 4096 x 4096 product, bf16 / fp16"
CALLS = 60
LAUNCH_TIMEOUT_S = 300
NCU_CALLS = 5
TIMERS = ("events", "queued_events", "graph_events", "records", "graph_records")


def compare_timers(chosen: ChosenDevice, launches: int) -> dict[str, Any]:
    """{device, launches: [one launch's report], ncu_us: {planted us: us} or why there is none}."""
    reports = [json.loads(_child([], json.dumps(chosen.to_json()))) for _ in range(launches)]
    return {"device": chosen.record(), "launches": reports, "ncu": _ncu(reports[0]["sm_mhz"])}


def as_text(result: dict[str, Any]) -> str:
    """A table of planted delays by timer, then agreement with ncu."""
    lines = [f"{result['device']['name']}, {len(result['launches'])} launches, {CALLS} calls of each twin", ""]
    head = (
        f"{'planted us':>12} {'timer':15} {'median us':>10} {'offset us':>10} {'IQR us':>8} {'twins, sd of ratio':>19}"
    )
    lines += [head, "-" * len(head)]
    for row in summarize(result["launches"]):
        offset = "" if row["offset_us"] is None else f"{row['offset_us']:.3f}"
        spread = "" if row["ratio_sd"] is None else f"{row['ratio_sd']:.3%}"
        figures = f"{row['median_us']:10.3f} {offset:>10} {row['iqr_us']:8.3f} {spread:>19}"
        lines.append(f"{row['name']:>12} {row['timer']:15} {figures}")
    return "\n".join([*lines, "", *_ncu_lines(result)])


def summarize(launches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each planted delay or pair, and timer: medians over launches, and the sd of the launches' ratios."""
    rows = []
    for name in launches[0]["times_us"]:
        for timer in TIMERS:
            twins = [launch["times_us"][name].get(timer) for launch in launches]
            complete = [pair for pair in twins if pair]
            if not complete:
                continue
            medians = [statistics.median(pair[0]) for pair in complete]
            scores = [math.log(statistics.median(b) / statistics.median(a)) for a, b in complete]
            planted = float(name) if name != PAIR else None
            rows.append({
                "name": name if planted is None else f"{planted:g}",
                "timer": timer,
                "median_us": statistics.median(medians),
                "offset_us": None if planted is None else statistics.median(medians) - planted,
                "iqr_us": statistics.median(_iqr(pair[0]) for pair in complete),
                "ratio_sd": statistics.stdev(scores) if len(scores) > 1 else None,
            })  # fmt: skip
    return rows


def _iqr(times_us: Sequence[float]) -> float:
    low, _, high = statistics.quantiles(times_us, n=4)
    return high - low


def _child(arguments: list[str], stdin: str = "") -> str:
    command = [sys.executable, "-m", "suite.measure.timer_comparison", *arguments]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=scrubbed_environment(PROJECT_ROOT), input=stdin, text=True,
                          capture_output=True, timeout=LAUNCH_TIMEOUT_S, check=False)  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"A launch of the timer comparison failed with exit status {done.returncode}: {last}")
    return done.stdout.splitlines()[-1]


# ncu


def _ncu(sm_mhz: float) -> dict[str, Any]:
    """ncu's own durations of the planted kernels, or the sentence why there are none."""
    ncu = shutil.which("ncu")
    if ncu is None:
        return {"why_not": "ncu is not on the PATH"}
    spin = [sys.executable, "-m", "suite.measure.timer_comparison", "--spin", str(sm_mhz)]
    command = [ncu, "--clock-control", "none", "--metrics", "gpu__time_duration.sum", "--csv", *spin]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=scrubbed_environment(PROJECT_ROOT), text=True,
                          capture_output=True, timeout=LAUNCH_TIMEOUT_S, check=False)  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    durations_us = [
        _microseconds(row) for row in csv.DictReader(lines) if row.get("Metric Name") == "gpu__time_duration.sum"
    ]
    if len(durations_us) != NCU_CALLS * len(PLANTED_US):
        last = ([*done.stdout.splitlines(), *done.stderr.splitlines()] or ["it said nothing"])[-1]
        return {"why_not": f"ncu gave {len(durations_us)} durations of {NCU_CALLS * len(PLANTED_US)}: {last}"}
    groups = [durations_us[i * NCU_CALLS : (i + 1) * NCU_CALLS] for i in range(len(PLANTED_US))]
    return {"us": {str(us): statistics.median(group) for us, group in zip(PLANTED_US, groups, strict=True)}}


def _microseconds(row: dict[str, str]) -> float:
    scale = {"nsecond": 1e-3, "ns": 1e-3, "usecond": 1.0, "us": 1.0, "msecond": 1e3, "ms": 1e3}[row["Metric Unit"]]
    return float(row["Metric Value"].replace(",", "")) * scale


def _ncu_lines(result: dict[str, Any]) -> list[str]:
    if "why_not" in result["ncu"]:
        return [f"Agreement with ncu was not measured: {result['ncu']['why_not']}."]
    measured = {r["name"]: r["median_us"] for r in summarize(result["launches"]) if r["timer"] == "graph_records"}
    lines = ["graph_records against ncu's gpu__time_duration:"]
    for us, ncu_us in result["ncu"]["us"].items():
        ours = measured.get(f"{float(us):g}")
        if ours is not None:
            difference = f"{ours - ncu_us:+.3f} us, {ours / ncu_us - 1:+.2%}"
            lines.append(f"  planted {float(us):6g} us: {ours:9.3f} us, ncu {ncu_us:9.3f} us, {difference}")
    return lines


# One launch, in its own process


def _launch(chosen: ChosenDevice) -> dict[str, Any]:
    """Times of both twins of every delay and of the pair, in us, by timer."""
    import torch

    from ..device.device_records import TimerError
    from ..device.timer import CaptureError, Events, GraphEvents, GraphRecords, QueuedEvents, Records

    torch.cuda.set_device(chosen.index)
    sm_mhz = _warm_clock(chosen)
    makers = (Events, lambda: QueuedEvents(subtract_floor=False), GraphEvents, Records, GraphRecords)
    times_us: dict[str, dict[str, Any]] = {}
    for name, twins in _subjects(sm_mhz):
        times_us[name] = {}
        for maker in makers:
            timer = maker()
            try:
                times_us[name][timer.name] = _time_twins(timer, twins, chosen.last_level_cache_bytes)
            except (TimerError, CaptureError) as error:
                print(f"{timer.name} on {name}: {error}", file=sys.stderr)  # noqa: T201 - a log for people
    return {"sm_mhz": sm_mhz, "times_us": times_us}


def _warm_clock(chosen: ChosenDevice) -> float:
    """Spin until the clock is up; the clock in MHz, which turns cycles into microseconds."""
    import torch

    from ..device.device_records import spin

    for _ in range(20):
        spin(50_000_000)
    sm_mhz = float(snapshot(chosen)["sm_mhz"])
    torch.cuda.synchronize()
    return sm_mhz


def _subjects(sm_mhz: float) -> list[tuple[str, tuple[Any, Any]]]:
    import torch

    from .planted import spin

    cycles_taken = torch.zeros(1, dtype=torch.int64, device="cuda")

    def planted(us: float) -> Any:
        def run() -> dict[str, Any]:
            spin(cycles_taken, round(us * sm_mhz))
            return {}

        return run

    def product(dtype: torch.dtype) -> Any:
        a, b = torch.randn(64, 4096, device="cuda", dtype=dtype), torch.randn(4096, 4096, device="cuda", dtype=dtype)
        return lambda: {"out": a @ b}

    twins = [(str(us), (planted(us), planted(us))) for us in PLANTED_US]
    return [*twins, (PAIR, (product(torch.bfloat16), product(torch.float16)))]


def _time_twins(timer: Any, twins: tuple[Any, Any], cache_bytes: int) -> list[list[float]]:
    """Both twins, CALLS times each, in random order, each call behind a flush."""
    import torch

    from ..device.timer import Step, TimedCall
    from .caches import GPU_FLUSH_FACTOR

    buffer = torch.ones(GPU_FLUSH_FACTOR * cache_bytes // 4, dtype=torch.int32, device="cuda")

    def flush() -> None:
        buffer.amax()

    calls = [TimedCall(run, flush) for run in twins]
    for call in calls:
        timer.prepare(call)
    order = random.sample([0, 1] * CALLS, 2 * CALLS)
    times_us = timer.measure([Step(calls[i]) for i in order])
    return [[t for t, i in zip(times_us, order, strict=True) if i == twin] for twin in (0, 1)]


def _spin_for_ncu(sm_mhz: float) -> None:
    """Launch every planted kernel a few times, and nothing else."""
    import torch

    from .planted import spin

    cycles_taken = torch.empty(1, dtype=torch.int64, device="cuda")  # not zeros: filling would be a kernel too
    for us in PLANTED_US:
        for _ in range(NCU_CALLS):
            spin(cycles_taken, round(us * sm_mhz))
    torch.cuda.synchronize()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--spin"]:
        _spin_for_ncu(float(sys.argv[2]))
    else:
        print(json.dumps(_launch(ChosenDevice.from_json(json.load(sys.stdin)))))  # noqa: T201 - it is the reply
