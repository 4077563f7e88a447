"""In the worker: run one kernel on a random problem, and on every case that the family's properties derive from it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from kernels import discover
from kernels.device import Device
from kernels.property import derive

from .execute import Place, run_once, why_not
from .tampering import load_watched


def run_property(
    kernels: list[str],
    case: dict[str, Any],
    properties: list[str],
    device: dict[str, Any],
    library: bool,
    output_dir: str,
    budget_s: float,
) -> dict[str, Any]:
    """The problem itself, then `properties` in this order until `budget_s` has passed; outputs go to `output_dir`.

    `case` holds family, task, fields, tensors_on, seed, distribution; the rest as `execute.run_case` takes it, with one
    kernel. Returns {status, kept: [{kernel, property, outputs}]}, one entry a call, the first with the property "". A
    property that says nothing of the problem, or derives one that the kernel does not support, is left out.
    """
    (kernel,), started = kernels, time.monotonic()
    suite = discover.load_properties(case["family"])[case["task"]]
    place = Place(kernel, Device(**device), case["tensors_on"], library, Path(output_dir))
    implementation, problem, kept = load_watched(kernel, library), suite.problem_class(**case["fields"]), []
    inputs = problem.make_inputs(case["seed"], case["tensors_on"], case["distribution"])
    for name in ("", *properties):
        if name and time.monotonic() - started > budget_s:
            break
        derived = derive(suite, name, problem, inputs, case["seed"]) if name else None
        calls = derived.cases if derived else () if name else ((problem, inputs),)
        if name and any(why_not(implementation, each, place.device) for each, _ in calls):
            continue
        for number, (each, tensors) in enumerate(calls):
            reply = run_once(place, each, each, tensors, f"{name}-{number}-")
            if reply["status"] != "ran":
                return reply | ({"sentence": f"{reply['sentence']} ({name}, {each.id})"} if name else {})
            kept.append({"kernel": kernel, "property": name, "outputs": reply["outputs"]})
    return {"status": "ran", "kept": kept}
