"""A small run, event by event, for the tests of records. Every number in it is made up."""

from __future__ import annotations

import random
from typing import Any

from suite.record.run import fold
from suite.record.schema import Document

PROBLEM = "mla/decode-b64-q1-s4096-h16-equal-p64-bfloat16-kvbfloat16-scale0.072169"
OTHER_PROBLEM = "mla/decode-b1-q1-s4096-h128-equal-p64-bfloat16-kvbfloat16-scale0.072169"
ORIGINS = {
    "mla/reference": "reference",
    "mla/flash_mla": "vendor",
    "mla/torch_sdpa": "vendor",
    "mla/triton_split_kv": "hand",
    "mla/generated/inductor": "generated",
}
TIMES_US = {
    "mla/reference": 900.0,
    "mla/flash_mla": 130.0,
    "mla/torch_sdpa": 300.0,
    "mla/triton_split_kv": 100.0,
    "mla/generated/inductor": 110.0,
}
BLOCKS = 5


def make_events(
    day: int = 1,
    launches: int = 3,
    problems: tuple[str, ...] = (PROBLEM,),
    times_us: dict[str, float] | None = None,
    noise: float = 0.002,
) -> list[Document]:
    """The journal of a run on a day of November. `noise` is the sd of each time's logarithm."""
    run_id, rng = f"202611{day:02d}T180102Z-h200-{day:06x}", random.Random(day)
    times = TIMES_US if times_us is None else times_us
    events = [_start(run_id, day), {"event": "ceilings", "copy_bytes_per_s": 4.1e12}]
    events += [{"event": "problem", "id": problem, **_problem()} for problem in problems]
    events += [{"event": "kernel", "id": kernel, **_kernel(kernel)} for kernel in times]
    events += [{"event": "check", **_check(kernel, problem)} for kernel in times for problem in problems]
    for index in range(launches):
        launch = f"{run_id}/{index}"
        before = {"event": "launch_start", "launch": launch, "index": index, "started_utc": _utc(day, index)}
        events.append({**before, "environment": {"before": {"sm_mhz": 1980, "throttle_reasons": []}}})
        for problem in problems:
            samples = {name: [t * rng.lognormvariate(0, noise) for _ in range(BLOCKS)] for name, t in times.items()}
            events.append({"event": "measurement", "launch": launch, **_measurement(problem, samples)})
        after = {"environment": {"after": {"sm_mhz": 1980}}, "phases_s": {"kernels": 1.5, "waiting": 0.25}}
        events.append({"event": "launch_end", "launch": launch, **after})
    verdicts: list[Document] = []
    events += [{"event": "phases", "phases_s": {"launches": 9.0}}, {"event": "verdicts", "verdicts": verdicts}]
    return [*events, {"event": "end", "finished_utc": _utc(day, 59), "exit_status": 0, "unfit": None}]


def make_run(**options: Any) -> Document:
    """The same, folded."""
    return fold(make_events(**options))


def make_verdict(kernel: str, rival: str, factor: float, status: str = "holds") -> Document:
    """The gate's word on a claim."""
    unknown = dict.fromkeys(("e_regressed", "e_holds", "launches_needed", "drift"))
    said = {"kind": "claim", "status": status, "reason": None, "sentence": "Made up.", "launches": 6}
    factors = {"factor_claimed": factor, "factor": factor, "interval": [factor * 0.99, None]}
    return {"kernel": kernel, "rival": rival, "problem": PROBLEM, **said, **factors, **unknown}


def _utc(day: int, minute: int) -> str:
    return f"2026-11-{day:02d}T18:{minute:02d}:02Z"


def _start(run_id: str, day: int) -> Document:
    return {
        "event": "start",
        "schema": "kernelgate.run/1",
        "run_id": run_id,
        "started_utc": _utc(day, 0),
        "command": ["pytest", "-m", "mla", "--gpu", "h200"],
        "tier": "ci",
        "families": ["mla"],
        "source": {"git_sha": "a" * 40, "dirty": False, "tree_sha256": "b" * 64},
        "device": {
            "key": "h200",
            "name": "NVIDIA H200",
            "kind": "cuda",
            "arch": "sm_90",
            "num_sms": 132,
            "memory_bytes": 150_000_000_000,
            "last_level_cache_bytes": 62_914_560,
            "uuid": "GPU-0b0e",
            "index": 0,
            "partition_mode": None,
        },
        "environment": {"python": "3.12.1", "torch": "2.13.0", "triton": "3.9.0", "driver": "580.1"},
    }


def _problem() -> Document:
    work = {"flops": 9_126_805_504, "cold_read_bytes": 301_989_888, "write_bytes": 1_052_672}
    return {"family": "mla", "fields": {"batch": 64}, **work, "compute_dtype": "bfloat16", "light_speed_us": 62.9}


def _kernel(kernel: str) -> Document:
    version = "1.2.3" if ORIGINS[kernel] == "vendor" else ""
    return {"family": "mla", "origin": ORIGINS[kernel], "version": version, "source_sha256": "c" * 64}


def _check(kernel: str, problem: str) -> Document:
    errors = {"out": {"max_error": 0.001, "relative_rms": 0.002}}
    about = {"kernel": kernel, "problem": problem, "distribution": "normal", "seed": 7, "stage": "correctness"}
    return {**about, "status": "correct", "reason": None, "sentence": None, "errors": errors}


def _measurement(problem: str, times_us: dict[str, list[float]]) -> Document:
    per_kernel = {"host_us": dict.fromkeys(times_us, 12.5), "plan_us": dict.fromkeys(times_us, 3.0)}
    graph_safe = dict.fromkeys(times_us, True)
    return {
        "problem": problem,
        "timer": "graph_records",
        "times_us": times_us,
        **per_kernel,
        "graph_safe": graph_safe,
        "notes": [],
    }
