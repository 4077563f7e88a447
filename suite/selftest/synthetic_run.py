"""A run record for tests of what reads records. Every number in it is made up."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

# batch, seq_len_q, seq_len_kv, num_heads, lengths; us of a made-up flash_mla; factors of triton_split_kv and inductor
SHAPES: list[tuple[int, int, int, int, str, float, float, float]] = [
    (64, 1, 4096, 16, "equal", 96.0, 1.12, 0.71),
    (64, 1, 4096, 64, "equal", 100.5, 1.04, 0.66),
    (128, 1, 4096, 128, "equal", 235.4, 0.91, 0.35),
    (16, 2, 4096, 128, "normal", 61.2, 0.97, 0.42),
    (64, 1, 8192, 128, "uniform", 151.2, 1.21, 0.44),
    (1, 1, 32768, 16, "equal", 49.8, 1.62, 0.58),
    (1, 1, 4096, 128, "equal", 24.0, 1.003, 0.63),
    (4, 1, 131072, 16, "equal", 203.0, 1.33, 0.80),
]
ORIGINS = {
    "mla/flash_mla": "vendor", "mla/torch_sdpa": "vendor", "mla/triton_split_kv": "hand",
    "mla/generated/inductor": "generated", "mla/reference": "reference", "mla/aiter": "vendor",
}  # fmt: skip
HOSTILE = "a|b `c` <script>alert(1)</script>\n# heading [x](http://evil.example) @everyone $x$ \u202edcba *b* _i_"


@dataclass(frozen=True)
class Claim:
    kernel: str
    rival: str
    problem: str
    factor: float
    reason: str | None = None


def make_problems() -> dict[str, dict[str, Any]]:
    problems = {}
    for batch, seq_len_q, seq_len_kv, num_heads, lengths, *_ in SHAPES:
        fields = {
            "batch": batch, "seq_len_q": seq_len_q, "seq_len_kv": seq_len_kv, "num_heads": num_heads,
            "lengths": lengths, "page_size": 64, "dtype": "bfloat16", "kv_dtype": "bfloat16", "softmax_scale": 0.072169,
        }  # fmt: skip
        name = f"mla/decode-b{batch}-q{seq_len_q}-s{seq_len_kv}-h{num_heads}-{lengths}-p64-bfloat16-kvbfloat16"
        mean_length = seq_len_kv * 9 // 16 if lengths == "uniform" else seq_len_kv
        flops = 2 * batch * seq_len_q * mean_length * num_heads * 1088
        read = batch * mean_length * 1152
        problems[name] = {
            "family": "mla", "fields": fields, "flops": flops, "cold_read_bytes": read,
            "write_bytes": batch * seq_len_q * num_heads * 1028, "compute_dtype": "bfloat16",
            "light_speed_us": max(flops / 989e12, read / 4.8e12) * 1e6,
        }  # fmt: skip
    return problems


def make_measurement(problem: str, shape: tuple[Any, ...], random_: random.Random) -> dict[str, Any]:
    vendor_us, hand, generated = shape[5:]
    launch_us = vendor_us * random_.gauss(1, 0.01)
    levels = {
        "mla/flash_mla": launch_us, "mla/torch_sdpa": launch_us * 1.9, "mla/reference": launch_us * 30,
        "mla/triton_split_kv": launch_us / hand * random_.gauss(1, 0.002),
        "mla/generated/inductor": launch_us / generated * random_.gauss(1, 0.004),
    }  # fmt: skip
    return {
        "problem": problem, "timer": "graph_records", "notes": [],
        "times_us": {name: [us * random_.gauss(1, 0.004) for _ in range(9)] for name, us in levels.items()},
        "host_us": dict.fromkeys(levels, 31.5), "plan_us": {"mla/triton_split_kv": 4.2},
        "graph_safe": {name: name != "mla/reference" for name in levels},
    }  # fmt: skip


def make_launch(run_id: str, index: int, random_: random.Random) -> dict[str, Any]:
    snapshot = {
        "sm_mhz": 1980 - 15 * (index % 2),
        "power_w": 410.5,
        "throttle_reasons": [],
        "processes": [],
        "errors": [],
    }
    return {
        "launch": f"{run_id}/{index}", "index": index, "started_utc": "2026-11-22T18:01:02Z", "complete": True,
        "environment": {"before": snapshot, "after": snapshot},
        "phases_s": {"startup": 4.1, "inputs": 2.0, "prepare": 0.3, "check": 3.2, "kernels": 7.5, "other": 0.6},
        "measurements": [
            make_measurement(name, shape, random_) for name, shape in zip(make_problems(), SHAPES, strict=True)
        ],
        "failures": [],
    }  # fmt: skip


def make_verdict(problem: str, status: str, **changes: Any) -> dict[str, Any]:
    return {
        "kernel": "mla/triton_split_kv", "rival": "mla/flash_mla", "problem": problem, "kind": "claim",
        "status": status, "reason": "meets_claim", "sentence": "It holds.", "factor_claimed": 1.1, "factor": 1.12,
        "interval": [1.115, 1.126], "launches": 6,
        "e_regressed": 0.1, "e_holds": 400.0, "launches_needed": None, "drift": None, **changes,
    }  # fmt: skip


def make_run(number: int = 0, launches: int = 6) -> dict[str, Any]:
    run_id, random_ = f"20261122T18000{number}Z-h200-1a2b3c", random.Random(number)
    problems = make_problems()
    names = list(problems)
    unsupported = "aiter needs a HIP device; this one is sm_90."
    return {
        "schema": "kernelgate.run/1", "run_id": run_id, "started_utc": f"2026-11-22T18:00:0{number}Z",
        "finished_utc": "2026-11-22T18:04:00Z", "tier": "ci", "families": ["mla"], "base": None,
        "command": ["/somewhere/bin/pytest", "-m", "mla", "--gpu", "h200", "-k", "b64 and not q2"],
        "source": {"git_sha": "f00d" * 10, "dirty": False, "tree_sha256": "ab" * 32},
        "device": {"key": "h200", "name": "NVIDIA H200", "kind": "cuda", "arch": "sm_90", "num_sms": 132, "index": 0,
                   "memory_bytes": 150_754_820_096, "last_level_cache_bytes": 62_914_560, "uuid": "GPU-5ca1ab1e"},
        "environment": {"python": "3.11.7", "torch": "2.13.0", "triton": "3.9.0", "os": "Linux", "driver": "580.1"},
        "ceilings": {"copy_bytes_per_s": 4.27e12, "matmul_bf16_flops_per_s": 7.7e14},
        "problems": problems,
        "kernels": {name: {"family": "mla", "origin": origin, "version": "1", "source_sha256": "cd" * 32}
                    for name, origin in ORIGINS.items()},
        "checks": [{"kernel": "mla/aiter", "problem": name, "distribution": "normal", "seed": 0, "status": "skipped",
                    "reason": "not_supported", "sentence": unsupported, "errors": {}, "stage": "correctness"}
                   for name in names],
        "launches": [make_launch(run_id, index, random_) for index in range(launches)],
        "verdicts": [
            make_verdict(names[0], "holds"),
            make_verdict(names[3], "inconclusive", reason="not_enough_evidence", factor=0.97, interval=None,
                         sentence="24 launches did not decide; about 9 more would.", factor_claimed=0.98),
            make_verdict(names[2], "regressed", reason="slower_than_claim", factor=0.91, interval=[0.905, 0.915],
                         factor_claimed=0.94, drift={"kernel": 0.031, "rival": -0.002},
                         sentence="mla/triton_split_kv is 0.910x as fast as mla/flash_mla; 0.940x was claimed."),
            make_verdict(names[1], "unclaimed", kind="unclaimed", factor_claimed=None, factor=1.04,
                         kernel="mla/generated/inductor"),
        ],
        "phases_s": {"collect": 0.8, "compile": 11.0, "check": 30.0, "launches": 112.0},
        "exit_status": 1, "unfit": None,
    }  # fmt: skip


def make_claims(run: dict[str, Any]) -> list[Claim]:
    return [
        Claim("mla/triton_split_kv", "mla/flash_mla", name, factor)
        for name, factor in zip(run["problems"], (1.1, 1.03, 0.94, 0.98, 1.2, 1.55, 0.99, 1.3), strict=True)
    ]


def tables_of(markdown: str) -> list[list[str]]:
    """Runs of consecutive lines that begin with a pipe."""
    return [block.strip().split("\n") for block in re.findall(r"(?:^\|.*\n?)+", markdown, re.MULTILINE)]


def num_cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1
