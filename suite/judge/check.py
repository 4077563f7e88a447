"""Correctness: a kernel's outputs against the fp32 reference, in a process that the kernel never ran in.

The referee draws the inputs again from their seed, runs the family's reference and compares. It reads outputs as bytes
and believes nothing that the kernel's process said of them beyond what it can verify by their size.
"""

from __future__ import annotations

import functools
import math
import os
import stat
from pathlib import Path
from typing import Any

import torch

from kernels import discover
from kernels.kernel import Origin
from kernels.problem import Inputs, Outputs, Problem, TensorSpec, Tolerance
from kernels.updates import taken_updates

from .digest import read_digested
from .renewal import Renewal

ELEMENTS_PER_STRAY = 1 << 18
"""One element of so many may lie up to twice as far from the reference as others. On an H200, 1 to 4 of 33.5 million
elements of liger's MLP, and 1 of 0.9 million of an fp8 MoE layer, did so in some timed calls, and were no mistake."""


def referee(
    problem: str,
    tensors_on: str,
    seed: int,
    distribution: str,
    outputs: dict[str, dict[str, Any]],
    factors: dict[str, float],
    redraw_seeds: list[int] | None = None,
) -> dict[str, Any]:
    """Judge the outputs that lie in files. Returns {status, reason, sentence, errors}.

    `redraw_seeds`: of a timed call, what its activations and replaced rows, and its block's signs, were drawn from.
    """
    expected = _expected(problem, tensors_on, seed, distribution, tuple(redraw_seeds or ()))
    return judge_outputs(discover.load_problem(problem), expected, outputs, factors, tensors_on)[1]


def judge_outputs(
    problem: Problem,
    expected: Outputs,
    described: dict[str, dict[str, Any]],
    factors: dict[str, float],
    tensors_on: str,
) -> tuple[Outputs, dict[str, Any]]:
    """The outputs in float32, as far as they were read, and {status, reason, sentence, errors}."""
    actual: Outputs = {}
    errors: dict[str, dict[str, float]] = {}
    for name, spec in problem.output_specs().items():
        fault = _form_fault(name, spec, described)
        if fault:
            return actual, {"status": "incorrect", "reason": "wrong_form", "sentence": fault, "errors": errors}
        actual[name] = _read_output(spec, described[name], tensors_on).float() * factors.get(name, 1.0)
        errors[name], fault = compare(actual[name], expected[name], problem.tolerances()[name])
        if fault:
            return actual, wrong_output(f"Output {name} is wrong: {fault}.", errors)
    return actual, {"status": "correct", "reason": "correct", "sentence": "", "errors": errors}


def wrong_output(sentence: str, errors: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The verdict on outputs that are not those of the problem."""
    return {"status": "incorrect", "reason": "wrong_output", "sentence": sentence, "errors": errors}


def expected_outputs(problem: Problem, inputs: Inputs) -> Outputs:
    """The reference's outputs, in float32."""
    with torch.inference_mode():
        outputs = reference_of(problem)(inputs, problem) | taken_updates(problem, inputs)
        return {name: value.float() for name, value in outputs.items()}


def compare(actual: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance) -> tuple[dict[str, float], str | None]:
    """Errors of `actual` against `expected` (fp32, same shape), and the fault in words or None. See `Tolerance`."""
    if not actual.numel():  # a batch without a query
        return {"max_error": 0.0, "relative_rms": 0.0}, None
    finite = torch.isfinite(expected)
    difference = torch.where(finite, actual - expected, 0.0)
    rms = _rms(torch.where(finite, expected, 0.0))
    size = f"{actual.numel()} elements"
    if bool(actual.isnan().any()):
        return {}, f"{int(actual.isnan().sum())} of {size} are NaN or were never written"
    if not torch.equal(actual[~finite], expected[~finite]) or not bool(torch.isfinite(actual[finite]).all()):
        return {}, "infinities stand where the reference has none, or are missing where it has them"
    allowed = tolerance.atol + tolerance.atol_rms * rms + tolerance.rtol * expected.abs()
    allowed = torch.where(finite, allowed, float("inf"))
    excess = difference.abs() - allowed
    errors = {"max_error": float(difference.abs().max()), "relative_rms": _rms(difference) / rms if rms else 0.0}
    if bool((excess > allowed).any()) or int((excess > 0).sum()) > actual.numel() // ELEMENTS_PER_STRAY:
        worst = int(excess.argmax())
        at = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape))
        got, want = float(actual.flatten()[worst]), float(expected.flatten()[worst])
        return (
            errors,
            f"{int((excess > 0).sum())} of {size} are out of tolerance, worst at {at}: {got:.6g} for {want:.6g}",
        )
    if _rms(difference) > tolerance.relative_rms * rms:
        return (
            errors,
            f"its relative RMS error is {errors['relative_rms']:.2e}; {tolerance.relative_rms:.2e} is allowed",
        )
    return errors, None


def _rms(values: torch.Tensor) -> float:
    return math.sqrt(float(values.double().square().mean())) if values.numel() else 0.0


def _form_fault(name: str, spec: TensorSpec, outputs: dict[str, dict[str, Any]]) -> str | None:
    """What is wrong with the form of an output before its values are looked at, as a sentence, or None."""
    if name not in outputs:
        return f"It returned no output {name}; it returned {', '.join(sorted(outputs)) or 'nothing'}."
    got = outputs[name]
    if tuple(got["shape"]) != spec.shape or got["dtype"] != spec.dtype:
        return f"Output {name} is {got['dtype']}{got['shape']}; it must be {spec.dtype}{list(spec.shape)}."
    if not got["dense"]:
        return f"Output {name} has gaps, or elements that share memory (an expanded tensor)."
    if not _holds(spec, got["file"]):
        return f"Output {name} does not hold the {_num_bytes(spec)} bytes that its shape needs."
    return None


def _read_output(spec: TensorSpec, described: dict[str, Any], tensors_on: str) -> torch.Tensor:
    """The output in a file whose form was right; all NaN where the file has changed since."""
    data = torch.empty(_num_bytes(spec), dtype=torch.uint8, pin_memory=tensors_on != "cpu")
    if read_digested(described["file"], data.numpy()) != described["sha256"]:
        return torch.full(spec.shape, float("nan"), device=tensors_on)
    return data.view(getattr(torch, spec.dtype)).view(spec.shape).to(tensors_on)


def _num_bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * int(getattr(torch, spec.dtype).itemsize)


def _holds(spec: TensorSpec, path: str) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == _num_bytes(spec)


@functools.lru_cache(maxsize=3)  # kernels of one problem come one after the other, each with all distributions
def _expected(problem_id: str, tensors_on: str, seed: int, distribution: str, redraw_seeds: tuple[int, ...]) -> Outputs:
    problem = discover.load_problem(problem_id)
    inputs = _inputs(problem_id, tensors_on, seed, distribution)
    with torch.inference_mode():
        if not redraw_seeds:
            return expected_outputs(problem, inputs)
        call_seed, block_seed = redraw_seeds
        renewal, generator = Renewal(problem, inputs), torch.Generator(tensors_on).manual_seed(call_seed)
        renewal.renew(block_seed)
        problem.redraw(inputs, generator)
        undo = [edit.apply(inputs) for edit in problem.edits(inputs, generator)]
        expected = expected_outputs(problem, inputs)
        for edit in undo:
            edit.apply(inputs)
        renewal.restore()
    return expected


@functools.lru_cache(maxsize=1)  # a KV cache can be large: keep one
def _inputs(problem_id: str, tensors_on: str, seed: int, distribution: str) -> Inputs:
    return discover.load_problem(problem_id).make_inputs(seed, tensors_on, distribution)


def reference_of(problem: Problem) -> Any:
    """`run` of the kernel of origin reference that solves the task of a problem."""
    kernel = _references().get((problem.family, problem.task))
    if kernel is None:
        raise LookupError(f"kernels/{problem.family}/ has no kernel of origin reference for the task {problem.task}.")
    return discover.load_kernel(kernel).run


@functools.cache  # to find them, every kernel's file is read
def _references() -> dict[tuple[str, str], str]:
    """(family, task) -> kernel."""
    root = Path(discover.__file__).parents[1]
    references = (info for info in discover.discover(root).values() if info.origin == Origin.REFERENCE.value)
    return {(info.family, task): info.id for info in references for task in info.tasks}
