"""`kernelgate doctor`: what is here, which kernels can run, and why others cannot."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import typer

from kernels.device import Device
from kernels.discover import PACKAGE, KernelInfo, discover, families, load_problems, problem_key
from kernels.problem import Tier

from ..bench import INTERPRETED_DEVICES
from ..device.clocks import snapshot
from ..device.detect import ChosenDevice, Detected, DeviceError, choose, choose_all, detect
from ..device.doctor import KernelStatus, report
from ..device.specs import spec_by_key
from ..measure.campaign import CASE_TIMEOUT_S
from ..measure.crew import Crew
from ..measure.fence import what_is_possible

INTERPRETED = "there is no GPU to time it on; it is checked in the interpreter"


def run(root: Path) -> int:
    """Print the page. Returns 0 where some device can be used, else 1."""
    detected = detect()
    problems, kernels = list(_foreign_kernels(root)), list[KernelStatus]()
    try:
        chosen = choose("auto", detected)
    except DeviceError as error:
        status = 1
        problems.append(str(error))
    else:
        status = 0
        kernels, trouble = _kernel_statuses(root, chosen)
        problems += [*trouble, *what_is_possible(root, chosen.device.kind == "cpu")]
    typer.echo(_page(detected, kernels, problems), nl=False)
    return status


def _page(detected: Detected, kernels: list[KernelStatus], problems: list[str]) -> str:
    devices = [(chosen, snapshot(chosen)) for chosen in choose_all(detected)]
    return report(detected, devices, kernels, problems)


def _foreign_kernels(root: Path) -> Iterator[str]:
    """A sentence where another package called `kernels` is installed, which this project's hides."""
    elsewhere = [folder for folder in sys.path if Path(folder).resolve() != root]
    found = PathFinder.find_spec(PACKAGE, elsewhere)
    if found is not None and found.origin is not None:
        yield (
            f"Another package called {PACKAGE} is installed ({found.origin}); this project's own hides it, so a "
            "library that needs it does not work in this environment. Uninstall it where nothing needs it."
        )


def _kernel_statuses(root: Path, chosen: ChosenDevice) -> tuple[list[KernelStatus], list[str]]:
    """What a worker says of every kernel, and a sentence where it could not be asked."""
    known = discover(root)
    with tempfile.TemporaryDirectory(prefix="kernelgate-") as folder:
        crew = Crew(root, chosen, Path(folder) / "workers.log")
        try:
            reasons = _reasons(crew, known, list(_smoke_problems(root)))
        except _NoAnswerError as error:
            return [], [f"The kernels could not be asked what they can run. {error}"]
        finally:
            crew.close()
    return [KernelStatus(kernel.id, kernel.origin, reasons[kernel.id]) for kernel in known.values()], []


def _smoke_problems(root: Path) -> Iterator[str]:
    for family in families(root):
        tiers, _ = load_problems(family)
        yield from map(problem_key, tiers[Tier.SMOKE])


def _reasons(crew: Crew, known: Mapping[str, KernelInfo], problems: list[str]) -> dict[str, str | None]:
    """Kernel id -> why it cannot run any of `problems` here; None: it can."""
    sound = [kernel for kernel in known.values() if not kernel.broken]
    interpreted = {k.id for k in sound if k.uses_triton and crew.chosen.device.kind == "cpu"}
    found = {kernel.id: kernel.broken for kernel in known.values()}
    found |= _ask(crew, [kernel for kernel in sound if kernel.id not in interpreted], problems, crew.chosen.device)
    for key in INTERPRETED_DEVICES:
        undecided = [known[kernel] for kernel in interpreted if found[kernel] != INTERPRETED]
        answers = _ask(crew, undecided, problems, spec_by_key(key).device())
        found |= {kernel: reason or INTERPRETED for kernel, reason in answers.items()}
    return found


class _NoAnswerError(Exception):
    """The worker that was asked is gone; the text says why."""


def _ask(crew: Crew, kernels: Iterable[KernelInfo], problems: list[str], device: Device) -> dict[str, str | None]:
    """Kernel id -> why it runs none of its tasks' problems on `device`. Raises _NoAnswerError."""
    asked = {kernel.id: kernel for kernel in kernels}
    if not asked:
        return {}
    reply = crew.describe(sorted(asked), problems, device, CASE_TIMEOUT_S)
    if reply["status"] != "ran":
        raise _NoAnswerError(reply["sentence"])
    return {name: _why_not(kernel, problems, reply) for name, kernel in asked.items()}


def _why_not(kernel: KernelInfo, problems: list[str], reply: Mapping[str, Any]) -> str | None:
    broken: str | None = reply["broken"].get(kernel.id)
    if broken:
        return broken
    tasks = {f"{kernel.family}/{task}" for task in kernel.tasks}
    own = [problem for problem in problems if problem.partition("-")[0] in tasks]
    unsupported = reply["unsupported"].get(kernel.id, {})
    reasons = list(dict.fromkeys(unsupported[problem] for problem in own if problem in unsupported))
    return "; ".join(reasons) if own and all(problem in unsupported for problem in own) else None
