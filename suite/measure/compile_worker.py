"""In a worker: compile one kernel for one problem and one device, which need not be here.

The kernel plans and runs on inputs of device `meta`, so it decides as it would on the device itself, from shapes
alone, and each of its Triton launches compiles instead.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kernels import discover
from kernels.device import Device
from kernels.kernel import Kernel
from kernels.problem import Problem

from .execute import plan_inputs, why_not
from .intercept import Launch, compile_instead_of_launch, excess

DETAIL_CHARS = 4000


def compile_case(kernel: str, problem: str, device: dict[str, Any], base_root: str | None = None) -> dict[str, Any]:
    """Answer to the operation `compile`: the fields of a `CompileResult` beyond its kernel and problem.

    `base_root` is the tree that ids beginning with `base:` are loaded from. Whatever goes wrong in the kernel, from
    its import on, is the kernel's failure and `does_not_compile`.
    """
    target = Device(**device)
    try:
        if base_root and discover.BASE_PACKAGE not in sys.modules:
            discover.load_tree(Path(base_root), discover.BASE_PACKAGE)
        # A base kernel gets its own tree's problem: kernels may test for their family's class.
        package = discover.BASE_PACKAGE if kernel.startswith(discover.BASE_PREFIX) else discover.PACKAGE
        case, implementation = discover.load_problem(problem, package), discover.load_kernel(kernel)
        reason = why_not(implementation, case, target)
        if reason:
            return {"status": "skipped", "reason": "unsupported", "sentence": reason}
        launches = _compile(implementation, case, target)
    except Exception as error:  # noqa: BLE001 - a kernel may raise anything
        return _failed(error)
    return _fitting(launches, target)


def compile_choice(
    family: str, template: str, problem: str, choice: dict[str, Any], device: dict[str, Any]
) -> dict[str, Any]:
    """Answer to `compile_choice`: as `compile_case`, of a template with another choice than its own.

    Beyond that "cost", the fields of the problem's `Cost`.
    """
    target = Device(**device)
    try:
        space = next(s for s in discover.load_spaces(family) if s.template == template)
        case, kernel = discover.load_problem(problem), discover.load_kernel(f"{family}/{template}")
        planned = replace(kernel, plan=lambda p, inputs, d: space.planned(p, choice, inputs, d))
        launches = _compile(planned, case, target)
        cost = case.cost(case.make_inputs(0, "meta") | space.drawn(case))
    except Exception as error:  # noqa: BLE001 - a choice may make a kernel raise anything
        return _failed(error)
    return {**_fitting(launches, target), "cost": asdict(cost)}


def _failed(error: Exception) -> dict[str, Any]:
    detail = "".join(traceback.format_exception(error))[-DETAIL_CHARS:]
    full = next((e for e in _chain(error) if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)), None)
    if full is not None:  # no kernel is to blame
        return {"status": "failed", "reason": "disk_full", "sentence": f"The disk is full: {full}", "detail": detail}
    return {"status": "failed", "reason": "does_not_compile", "sentence": sentence_of(error), "detail": detail}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _fitting(launches: list[Launch], target: Device) -> dict[str, Any]:
    too_large = next((s for s in (excess(launch, target) for launch in launches) if s), None)
    if too_large:
        return {"status": "failed", "reason": "exceeds_shared_memory", "sentence": too_large, "launches": launches}
    return {"status": "compiled", "launches": launches}


def _compile(kernel: Kernel, problem: Problem, device: Device) -> list[Launch]:
    import torch

    inputs = problem.make_inputs(0, "meta")
    with compile_instead_of_launch(device) as launches, torch.inference_mode():
        kernel.run(inputs, kernel.plan(problem, plan_inputs(problem, inputs), device))
    return launches


def sentence_of(error: BaseException) -> str:
    """What went wrong in one line; for errors within a Triton function with the source line."""
    place, innermost = "", error
    while True:
        place = _source_line(innermost) or place
        if innermost.__cause__ is None:
            break
        innermost = innermost.__cause__
    said = getattr(innermost, "error_message", None) or str(innermost)
    lines = [line.strip() for line in str(said).splitlines() if line.strip(" \t^")]
    where = f" at `{place}`" if place else ""
    return f"{type(innermost).__name__}{where}: {lines[-1] if lines else 'no message'}"


def _source_line(error: BaseException) -> str:
    """The line of a Triton function that a `CompilationError` points at, or nothing."""
    source, node = getattr(error, "src", None), getattr(error, "node", None)
    lines = source.splitlines() if isinstance(source, str) else []
    number = getattr(node, "lineno", 0)
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""
