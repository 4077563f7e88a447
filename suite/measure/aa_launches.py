"""Launches of unchanged and of slowed kernels, side by side: the samples that the gate's error rates are taken from.

A launch is a launch of the gate: a fresh process, all variants of a problem in randomised blocks, outputs checked. A
pilot launch comes first and is thrown away; it finds problems of the wanted sizes, the rival of each (the vendor's
kernel that is fastest here, or else a third copy), and how many steps of a chain take a microsecond.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..device.detect import PROJECT_ROOT, ChosenDevice
from .aa_kernels import (
    BASE,
    BASE_STEPS,
    CPU_FAMILY,
    CPU_ROWS,
    GPU_FAMILY,
    PLANTED_PERCENT,
    PROBE,
    RIVAL,
    SLOWED,
    TWIN,
    cpu_files,
    cpu_problem,
    gpu_files,
)
from .compile import compile_all
from .crew import RunError
from .trial import Trial, trial

GPU_PROBLEMS = (
    "mla/decode-b1-q1-s21-h16-equal-p1-bfloat16-kvbfloat16-scale0.072169",
    "mla/decode-b1-q1-s4096-h128-equal-p64-bfloat16-kvbfloat16-scale0.072169",
    "mla/decode-b1-q1-s32768-h16-equal-p64-bfloat16-kvbfloat16-scale0.072169",
    "mla/decode-b64-q1-s4096-h16-equal-p64-bfloat16-kvbfloat16-scale0.072169",
    "mla/decode-b64-q1-s4096-h64-equal-p64-bfloat16-kvbfloat16-scale0.072169",
    "mla/decode-b128-q1-s4096-h128-equal-p64-bfloat16-kvbfloat16-scale0.072169",
)
"""From the smallest up; the last five took 15, 20, 87, 100 and 343 us on an H200, without the chain."""
CPU_TIMES_US = (4500.0, 18000.0)
"""The smallest products that take at least this long are measured."""
PROBE_STEPS = 5000
"""Further steps of the pilot's probe: 10 us, were a step 4 cycles at 2 GHz."""
COMPILE_TIMEOUT_S = 300.0
MAX_LOST_LAUNCHES = 3
"""Launches that may lack a variant of a problem before the problem is given up."""

Say = Callable[[str], None]
Launch = dict[str, list[float]]
"""Variant (`base`, `twin`, `rival`, or the percent planted: `5`) -> one time a block, in us."""


@dataclass
class SizeClass:
    """One problem's samples."""

    problem: str
    rival: str
    """Kernel id; a `planted_rival` is a copy, not a vendor's."""
    timer: str = ""
    launches: list[Launch] = field(default_factory=list)


@dataclass(frozen=True)
class Samples:
    """What `measure` brings back."""

    classes: list[SizeClass]
    failures: list[str]
    """Sentences; a launch that any variant failed in is not in its class."""


@dataclass(frozen=True)
class _Plan:
    """What the pilot found out."""

    files: Mapping[str, str]
    rivals: Mapping[str, str]
    """Problem -> rival's kernel id."""

    def variants(self, problem: str) -> dict[str, str]:
        """Variant -> kernel id."""
        family = problem.partition("/")[0]
        names = {"base": BASE, "twin": TWIN} | {str(percent): name for percent, name in SLOWED.items()}
        return {name: f"{family}/{kernel}" for name, kernel in names.items()} | {"rival": self.rivals[problem]}


def measure(chosen: ChosenDevice, launches: int, say: Say = lambda text: None) -> Samples:
    """A pilot and then `launches` launches. Raises RunError where the pilot gave no times to plan with."""
    say("pilot launch")
    plan = _cpu_plan(chosen) if chosen.device.kind == "cpu" else _gpu_plan(chosen, say)
    classes = {problem: SizeClass(problem, rival) for problem, rival in plan.rivals.items()}
    failures: list[str] = []
    lost = dict.fromkeys(classes, 0)
    with trial(chosen, plan.files) as tried:
        _compile(tried, chosen, plan, say)
        tried.campaign.crew.warmed_kernels = sorted({k for p in classes for k in plan.variants(p).values()})
        for index in range(1, launches + 1):
            say(f"launch {index} of {launches}")
            work = {p: list(plan.variants(p).values()) for p in classes if lost[p] < MAX_LOST_LAUNCHES}
            measured, failed = tried.launch(work)
            failures += [f"{f['kernel']} on {f['problem']}: {f['sentence']}" for f in failed]
            for problem in work:
                if not _keep(classes[problem], plan.variants(problem), measured):
                    lost[problem] += 1
    return Samples([one for one in classes.values() if one.launches], failures)


def _keep(size_class: SizeClass, variants: Mapping[str, str], measured: Sequence[Mapping[str, Any]]) -> bool:
    """Add the launch's measurement that has all variants, by the timer of the launches before it."""
    for measurement in measured:
        times = measurement["times_us"]
        if measurement["problem"] != size_class.problem or not all(times.get(k) for k in variants.values()):
            continue
        if size_class.timer in ("", measurement["timer"]):
            size_class.timer = measurement["timer"]
            size_class.launches.append({name: list(times[kernel]) for name, kernel in variants.items()})
            return True
    return False


def _compile(tried: Trial, chosen: ChosenDevice, plan: _Plan, say: Say) -> None:
    """Fill Triton's disk cache, so that no launch compiles."""
    if chosen.device.kind == "cpu":
        return
    ours = {name for name, info in tried.kernels.items() if info.uses_triton}
    cases = [(k, p) for p in plan.rivals for k in plan.variants(p).values() if k in ours]
    for number, _ in enumerate(compile_all(cases, chosen.device, 4, COMPILE_TIMEOUT_S, root=tried.root), 1):
        say(f"compiled {number} of {len(cases)} cases")


def _cpu_plan(chosen: ChosenDevice) -> _Plan:
    files = cpu_files(PLANTED_PERCENT)
    with trial(chosen, files) as pilot:
        measured, failed = pilot.launch({cpu_problem(rows): [f"{CPU_FAMILY}/{BASE}"] for rows in CPU_ROWS})
    medians_us = _medians_us(measured, f"{CPU_FAMILY}/{BASE}")
    if not medians_us:
        raise RunError(f"The pilot launch timed nothing. {_told(failed)}")
    ascending = sorted(medians_us, key=lambda problem: medians_us[problem])
    problems = [next((p for p in ascending if medians_us[p] >= us), ascending[-1]) for us in CPU_TIMES_US]
    return _Plan(files, dict.fromkeys(problems, f"{CPU_FAMILY}/{RIVAL}"))


def _gpu_plan(chosen: ChosenDevice, say: Say) -> _Plan:
    base, probe = f"{GPU_FAMILY}/{BASE}", f"{GPU_FAMILY}/{PROBE}"
    names = [problem.partition("/")[2] for problem in GPU_PROBLEMS]
    files = gpu_files(
        PROJECT_ROOT / "kernels",
        {BASE: dict.fromkeys(names, BASE_STEPS), PROBE: dict.fromkeys(names, BASE_STEPS + PROBE_STEPS)},
    )
    with trial(chosen, files) as pilot:
        vendors = [k.id for k in pilot.kernels.values() if k.family == GPU_FAMILY and k.origin == "vendor"]
        reply = pilot.campaign.describe(vendors, list(GPU_PROBLEMS))
        unsupported, broken = reply.get("unsupported", {}), reply.get("broken", {})
        able = {p: [k for k in vendors if k not in broken and p not in unsupported.get(k, {})] for p in GPU_PROBLEMS}
        say("pilot launch: every vendor's kernel, and how long a step takes")
        measured, failed = pilot.launch({p: [base, probe, *able[p]] for p in GPU_PROBLEMS})
    base_us, probe_us = _medians_us(measured, base), _medians_us(measured, probe)
    if not base_us or not probe_us:
        raise RunError(f"The pilot launch timed nothing. {_told(failed)}")
    step_us = statistics.median((probe_us[p] - base_us[p]) / PROBE_STEPS for p in base_us if p in probe_us)
    if step_us <= 0:
        raise RunError("The pilot's probe, with more work, was no slower: this device cannot be measured now.")
    return _Plan(_slowed_files(base_us, step_us), {p: _rival(p, able[p], measured) for p in base_us})


def _slowed_files(base_us: Mapping[str, float], step_us: float) -> dict[str, str]:
    def steps(percent: float) -> dict[str, int]:
        return {p.partition("/")[2]: BASE_STEPS + round(percent / 100 * us / step_us) for p, us in base_us.items()}

    variants = {BASE: steps(0), TWIN: steps(0), RIVAL: steps(0)}
    variants |= {name: steps(percent) for percent, name in SLOWED.items()}
    return gpu_files(PROJECT_ROOT / "kernels", variants)


def _rival(problem: str, vendors: Sequence[str], measured: Sequence[Mapping[str, Any]]) -> str:
    """The vendor's kernel that the pilot found fastest by its first timer, which times what can be captured."""
    times_us: Launch = next((m["times_us"] for m in measured if m["problem"] == problem), {})
    timed = {kernel: statistics.median(times_us[kernel]) for kernel in vendors if times_us.get(kernel)}
    return min(timed, key=lambda kernel: timed[kernel]) if timed else f"{GPU_FAMILY}/{RIVAL}"


def _medians_us(measured: Sequence[Mapping[str, Any]], kernel: str) -> dict[str, float]:
    """Problem -> median time by the first timer that has the kernel."""
    medians: dict[str, float] = {}
    for measurement in measured:
        times = measurement["times_us"].get(kernel)
        if times:
            medians.setdefault(measurement["problem"], statistics.median(times))
    return medians


def _told(failed: Sequence[Mapping[str, Any]]) -> str:
    return f"{failed[0]['kernel']}: {failed[0]['sentence']}" if failed else "No kernel was blamed."
