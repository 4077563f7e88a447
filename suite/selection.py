"""What a run is about: the kernels and problems of the tree, the device's claims, and the questions that they raise."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernels.discover import (
    BASE_PACKAGE,
    BASE_PREFIX,
    KernelInfo,
    discover,
    families,
    load_problems,
    load_properties,
    load_tree,
    problem_key,
)
from kernels.problem import Problem, Tier

from .judge.comparisons import Comparison
from .record.baseline import Claim, read_baselines

CLAIMING_ORIGINS = ("hand", "generated", "unknown")
"""Kernels whose speed is ours to defend; `unknown` is a file that cannot be read, which must not go unnoticed."""


def kernels_root() -> Path:
    """The project's root; RuntimeError where another package called `kernels` stands before ours."""
    import kernels

    root = Path(__file__).resolve().parents[1]
    found = Path(kernels.__file__ or "").resolve().parent
    if found != root / "kernels":
        raise RuntimeError(
            f"`import kernels` gives {found}, not this project's {root / 'kernels'}: another package of that name "
            f"(Hugging Face's, for one) was imported first. Uninstall it, or put {root} first on PYTHONPATH."
        )
    return root


@dataclass(frozen=True)
class Case:
    """One kernel on one problem."""

    kernel: KernelInfo
    problem: str


class Selection:
    """All that could be asked of one tree on one device at one tier; pytest then selects among it."""

    def __init__(self, root: Path, device_key: str, tier: Tier, base_root: Path | None = None) -> None:
        self.kernels = discover(root)
        self.base_kernels = discover(base_root, BASE_PREFIX) if base_root else {}
        self.base_problems = _problem_keys(base_root) if base_root else frozenset()
        self.problems: dict[str, Problem] = {}
        self.hard_cases: dict[str, Problem] = {}
        self._known: set[str] = set()
        for family in families(root):
            tiers, hard_cases = load_problems(family)
            self.problems |= {problem_key(p): p for p in tiers[tier]}
            self.hard_cases |= {problem_key(p): p for p in hard_cases}
            self._known |= {problem_key(p) for ps in tiers.values() for p in ps}
        # A change is judged by the claims of its base: lowering or deleting one is for reviewers to see.
        self.claims = read_baselines(base_root or root, device_key)

    def narrow(self, wanted: Collection[str]) -> None:
        """Forget the kernels and problems of other families: nobody will ask, and to ask them takes seconds.

        All claims stay: an error rate is shared by all that stand on the device.
        """
        self.kernels = {i: kernel for i, kernel in self.kernels.items() if kernel.family in wanted}
        self.base_kernels = {i: kernel for i, kernel in self.base_kernels.items() if kernel.family in wanted}
        self.problems = {key: problem for key, problem in self.problems.items() if problem.family in wanted}
        self.hard_cases = {key: problem for key, problem in self.hard_cases.items() if problem.family in wanted}

    def correctness_cases(self) -> Iterator[Case]:
        """Every kernel but the reference on every problem of its family that it may solve."""
        for key, problem in (self.problems | self.hard_cases).items():  # the referee computes each reference once
            for kernel in self.kernels.values():
                if kernel.origin != "reference" and _may_solve(kernel, problem):
                    yield Case(kernel, key)

    def property_kernels(self) -> Iterator[KernelInfo]:
        """Every kernel but the reference whose family declares properties of a task that it may solve."""
        for kernel in self.kernels.values():
            declared = load_properties(kernel.family)
            if kernel.origin != "reference" and (set(kernel.tasks) & declared.keys() or (declared and kernel.broken)):
                yield kernel

    def compile_cases(self) -> Iterator[Case]:
        """Every Triton kernel on every problem; a broken file may be one."""
        return (case for case in self.correctness_cases() if case.kernel.uses_triton or case.kernel.broken)

    def comparisons(self) -> Iterator[Comparison]:
        """Claims on this tier's problems (or on ones that are gone), bases, and kernels that claim nothing."""
        claims = [c for c in self.claims if c.problem in self.problems or c.problem not in self._known]
        yield from map(_claimed, claims)
        claimed = {(c.kernel, c.problem) for c in claims}
        for kernel in self.kernels.values():
            for key, problem in self.problems.items():
                if not _may_solve(kernel, problem):
                    continue
                base = BASE_PREFIX + kernel.id
                if base in self.base_kernels and key in self.base_problems and kernel.origin in CLAIMING_ORIGINS:
                    yield Comparison("base", kernel.id, key, rival=base, factor=1.0)
                if kernel.origin != "reference" and (kernel.id, key) not in claimed:
                    yield Comparison("unclaimed", kernel.id, key)

    def missing(self, comparison: Comparison) -> str | None:
        """Why a claim cannot be asked about at all: its kernel, rival or problem is no longer in the tree."""
        for what, name in (("kernel", comparison.kernel), ("rival", comparison.rival)):
            if name and not name.startswith(BASE_PREFIX) and name not in self.kernels:
                return (
                    f"The claim's {what} {name} no longer exists in kernels/: restore it, or remove the claim from "
                    "its file in baselines/ where reviewers can see it."
                )
        if comparison.problem not in self.problems:
            return (
                f"The claim's problem {comparison.problem} is no longer in the sweep of its family: restore it there."
            )
        return None

    def contestants(self, comparison: Comparison) -> list[str]:
        """Kernels that must be timed to answer: a pair, or an unclaimed kernel and all it may compare with."""
        if comparison.rival:
            return [comparison.kernel, comparison.rival]
        problem = self.problems[comparison.problem]
        rivals = [k.id for k in self.kernels.values() if k.origin in ("vendor", "reference") and _may_solve(k, problem)]
        return [comparison.kernel, *(r for r in rivals if r != comparison.kernel)]

    def info(self, kernel_id: str) -> KernelInfo:
        """A kernel of either tree by id."""
        return (self.kernels | self.base_kernels)[kernel_id]


def _problem_keys(base_root: Path) -> frozenset[str]:
    """Problems that the base commit's tree knows."""
    load_tree(base_root, BASE_PACKAGE)
    found: set[str] = set()
    for family in families(base_root):
        tiers, hard_cases = load_problems(family, BASE_PACKAGE)
        found |= {problem_key(p) for p in (*hard_cases, *(p for tier in tiers.values() for p in tier))}
    return frozenset(found)


def _may_solve(kernel: KernelInfo, problem: Problem) -> bool:
    return kernel.family == problem.family and (not kernel.tasks or problem.task in kernel.tasks)


def _claimed(claim: Claim) -> Comparison:
    return Comparison(
        "claim",
        claim.kernel,
        claim.problem,
        rival=claim.rival,
        factor=claim.factor,
        proven_utc=claim.proven_utc,
        kernel_sha256=claim.kernel_sha256,
        stored_us=(claim.evidence["kernel_us"], claim.evidence["rival_us"]),
        stored_environment=tuple(sorted(claim.evidence["environment"].items())),
    )
