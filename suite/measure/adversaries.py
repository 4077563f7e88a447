"""Kernels that cheat and honest ones that look odd, judged as any candidate is: who is caught, for which reason?

An adversary is a kernel file in a folder `cheats/<class>/` or `honest/`. Constants at its top, read without importing
it, say what must come of it:

    CLASS = "stale outputs"              the class of cheats, or of oddities
    REASONS = ("wrong_output",)          the reasons that may be given; a cheat needs one, an honest kernel has none
    RUNS_ON = ("cpu", "cuda")            where it can be tried
    FAMILY = "mla"                       whose problems it answers; by default mla
    TASK = "gather"                      which of them, where a course is for one task of a family
"""

from __future__ import annotations

import ast
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from kernels.discover import load_problems, problem_key
from kernels.mla.problem import MLADecode
from kernels.problem import Tier

from ..device.detect import PROJECT_ROOT, ChosenDevice
from .audition import PASSED, Outcome, audition, check, fresh_workers, time_beside
from .crew import RunError
from .sittings import Sittings
from .trial import Trial, trial
from .turns import Turns

FOLDER = Path("suite", "selftest", "adversaries")
FAMILY_OF_MOST = "mla"
HONEST_IN_A_LAUNCH = 12
CHEATS_LAUNCHES = 3
"""Unless an earlier one shows it: outputs are drawn at random for the referee, and a gate has five launches or more."""
LEAVES_NOTHING = frozenset({"precision lowered", "special cased to the sweep", "outputs of the wrong form"})
"""Classes whose cheats are wrong and nothing else: those of a class are checked in one process."""
WRITES_FILES = "files of the project"
"""The class whose cheats may hide what they wrote among compiled files: no tree of theirs is used again."""
TASKS = {
    **{("kv", task): "kv/torch_index" for task in ("rope_append", "append", "mla_append", "gather")},
    **{("mlp", task): "mlp/torch_eager" for task in ("block", "qk_append", "rmsnorm", "swiglu")},
    **{("moe", task): "moe/torch_eager" for task in ("permute", "grouped_gemm", "layer")},
}
"""(family, task) that has a course of its own -> the rival there."""
NO_GAIN = "no_gain"
"""Expected of a cheat that the harness makes useless: it passes, no faster than `GAIN` times its honest twin."""
GAIN = 1.15


@dataclass(frozen=True)
class Adversary:
    """One file."""

    path: Path
    name: str
    honest: bool
    cheat_class: str
    reasons: tuple[str, ...]
    runs_on: tuple[str, ...]
    family: str
    task: str
    """Empty where its family has one course."""
    summary: str
    """The first sentence of its docstring."""

    @property
    def kernel(self) -> str:
        """Its id in a trial's tree."""
        return f"{self.family}/{self.name}"

    @property
    def course(self) -> str:
        """What it is tried on: see `courses_for`."""
        return f"{self.family}/{self.task}" if self.task else self.family


@dataclass(frozen=True)
class Course:
    """What the adversaries of one family, or of one of its tasks, are tried on."""

    timed: tuple[str, ...]
    check_only: tuple[str, ...]
    rival: str
    additions: Mapping[str, str | Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """One adversary and what came of it."""

    adversary: Adversary
    outcome: Outcome

    @property
    def as_expected(self) -> bool:
        """Whether a cheat was caught for a right reason, or an honest kernel passed."""
        if self.adversary.honest:
            return self.outcome.status == PASSED
        if self.outcome.reason in self.adversary.reasons:
            return True
        gained = self.outcome.ratio is None or self.outcome.ratio > GAIN
        return NO_GAIN in self.adversary.reasons and self.outcome.status == PASSED and not gained


def read_adversaries(folder: Path = PROJECT_ROOT / FOLDER) -> list[Adversary]:
    """All adversaries, cheats first, in order of class and name. ValueError where a file lacks what it must say."""
    cheats = [_read(path, honest=False) for path in sorted(folder.glob("cheats/*/*.py"))]
    honest = [_read(path, honest=True) for path in sorted(folder.glob("honest/*.py"))]
    found = [a for a in (*cheats, *honest) if not a.name.startswith("_")]
    names = [a.name for a in found]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Two adversaries in {folder} share the name {doubled[0]}: rename one.")
    return found


def _read(path: Path, honest: bool) -> Adversary:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("CLASS", "REASONS", "RUNS_ON", "FAMILY", "TASK")
    }
    summary = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    needed = ("CLASS", "RUNS_ON") if honest else ("CLASS", "RUNS_ON", "REASONS")
    if missing := [name for name in needed if not said.get(name)]:
        raise ValueError(f"{path} does not say its {', '.join(missing)}.")
    if not summary:
        raise ValueError(f"{path} has no docstring that says what it does.")
    return Adversary(path, path.stem, honest, said["CLASS"], tuple(said.get("REASONS", ())), tuple(said["RUNS_ON"]),
                     said.get("FAMILY", FAMILY_OF_MOST), said.get("TASK", ""), summary)  # fmt: skip


def judge(
    chosen: ChosenDevice,
    adversaries: Sequence[Adversary],
    courses: Mapping[str, Course],
    jobs: int = 1,
    told: Callable[[Judged], None] = lambda judged: None,
) -> list[Judged]:
    """Try every adversary, `jobs` at a time; `told` hears of each as it ends. Returns them in the given order.

    Ctrl-C ends it early: what was judged by then is returned.

    A cheat gets workers of its own, unless its class leaves nothing behind. Honest ones share workers and launches:
    there they have to get along. Where several at a time keep the machine busy, times are held to coarser limits: what
    did not end as expected is judged once more, with nothing beside it.
    """
    turns = None if chosen.device.kind == "cpu" else Turns()

    def sit(group: Sequence[Adversary], lanes: int, tell: Callable[[Judged], None]) -> dict[str, Judged]:
        held = Sittings([_Lane(chosen, group, courses, turns) for _ in range(lanes)], _groups(group), tell).hold()
        return {judged.adversary.name: judged for judged in held}

    def tell_what_is_settled(judged: Judged) -> None:
        if jobs == 1 or judged.as_expected:
            told(judged)

    done = sit(adversaries, jobs, tell_what_is_settled)
    doubted = [] if jobs == 1 else [judged for judged in done.values() if not judged.as_expected]
    if doubted and len(done) == len(adversaries):
        done |= sit([judged.adversary for judged in doubted], 1, told)
    else:
        for judged in doubted:
            told(judged)
    return [done[a.name] for a in adversaries if a.name in done]


def _groups(adversaries: Sequence[Adversary]) -> Iterator[list[Adversary]]:
    """Honest kernels of one course by the dozen, cheats of a class that leaves nothing behind, then cheats alone."""
    honest = [a for a in adversaries if a.honest]
    for course in sorted({a.course for a in honest}):
        kin = [a for a in honest if a.course == course]
        for first in range(0, len(kin), HONEST_IN_A_LAUNCH):
            yield kin[first : first + HONEST_IN_A_LAUNCH]
    cheats = [a for a in adversaries if not a.honest]
    for shared in sorted(LEAVES_NOTHING):
        for course in sorted({a.course for a in cheats}):
            if kin := [a for a in cheats if a.cheat_class == shared and a.course == course]:
                yield kin
    yield from ([a] for a in cheats if a.cheat_class not in LEAVES_NOTHING)


class _Lane:
    """One trial after the other: a tree that a cheat has written to is thrown away."""

    def __init__(
        self,
        chosen: ChosenDevice,
        adversaries: Sequence[Adversary],
        courses: Mapping[str, Course],
        turns: Turns | None,
    ) -> None:
        self.chosen, self.courses, self.turns = chosen, courses, turns
        self.additions: dict[str, str | Path] = {}
        for course in courses.values():
            self.additions |= course.additions
        self.additions |= {f"kernels/{a.kernel}.py": a.path for a in adversaries}
        self.stack, self.tree = ExitStack(), ""
        self.trial: Trial | None = None
        self._is_stopped = False

    def __enter__(self) -> _Lane:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def stop(self) -> None:
        """From another thread: end what is being judged, and judge nothing more."""
        self._is_stopped = True
        if self.trial is not None:
            self.trial.campaign.crew.stop()

    def judge(self, group: list[Adversary]) -> Iterator[Judged]:
        """One cheat, or several that share workers, or several honest kernels; all of one course."""
        course = self.courses[group[0].course]
        if group[0].honest:
            yield from self._honest(self._clean_trial(), group, course)
            return
        for place, cheat in enumerate(group):
            fresh = place == 0 or self.tree == ""
            outcome = audition(
                self._clean_trial(), cheat.kernel, course.timed, course.rival, CHEATS_LAUNCHES, course.check_only, fresh
            )
            judged = Judged(cheat, outcome)
            if not judged.as_expected or cheat.cheat_class == WRITES_FILES:  # who knows what it left behind
                self.tree = ""
            yield judged

    def _honest(self, trial: Trial, group: list[Adversary], course: Course) -> list[Judged]:
        fresh_workers(trial)
        outcomes = {a.kernel: check(trial, a.kernel, [*course.timed, *course.check_only]) for a in group}
        right = [kernel for kernel, outcome in outcomes.items() if outcome is None]
        beside = time_beside(trial, right, course.timed, course.rival, launches=1)
        return [Judged(a, outcomes[a.kernel] or beside[a.kernel]) for a in group]

    def _clean_trial(self) -> Trial:
        if self.trial is None or fingerprint(self.trial.root) != self.tree:
            self.stack.close()
            self.trial = self.stack.enter_context(trial(self.chosen, self.additions, turns=self.turns))
            self.tree = fingerprint(self.trial.root)
        if self._is_stopped:  # `stop` did not see a trial that began meanwhile
            raise RunError("The run was ended.")
        return self.trial


def fingerprint(root: Path) -> str:
    """Of all files of a tree by name and content, without compiled ones."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def courses_for(kind: str, folder: Path = PROJECT_ROOT / FOLDER) -> dict[str, Course]:
    """By family, or family and task: a small problem that is timed; hard cases, and for MLA decode sizes that no sweep
    holds, that are only checked.

    The odd sizes are drawn anew in every call: what answers only sizes that it knows must not know these.
    """
    timed = MLADecode(4, 1, 1024, 16) if kind == "cpu" else MLADecode(8, 1, 2048, 16)
    odd = _odd_sizes(random.SystemRandom())
    source = (PROJECT_ROOT / "kernels/mla/problem.py").read_text(encoding="utf-8")
    mla: dict[str, str | Path] = {
        "kernels/mla/problem.py": f"{source}\nHARD_CASES = (*HARD_CASES, {timed!r}, {', '.join(map(repr, odd))})\n",
        **_helpers("mla", folder),
    }
    toy = {f"kernels/toy/{name}.py": folder / "toy" / f"{name}.py" for name in ("problem", "reference", "plain")}
    return {
        "mla": Course((problem_key(timed),), tuple(map(problem_key, odd)), "mla/torch_sdpa_math", mla),
        "toy": Course(
            ("toy/product-n512",), ("toy/product-n1", "toy/product-n77"), "toy/plain",
            {"kernels/toy/__init__.py": "", **toy},
        ),
        **{f"{family}/{task}": _course_of_task(family, task, kind, folder) for family, task in TASKS},
    }  # fmt: skip


def _course_of_task(family: str, task: str, kind: str, folder: Path) -> Course:
    """The first problem of smoke on a CPU, of ci on a GPU, and all hard cases."""
    tiers, hard_cases = load_problems(family)
    first = next(p for p in tiers[Tier.SMOKE if kind == "cpu" else Tier.CI] if p.task == task)
    hard = [problem_key(p) for p in hard_cases if p.task == task]
    return Course((problem_key(first),), tuple(hard), TASKS[family, task], _helpers(family, folder))


def _helpers(family: str, folder: Path) -> dict[str, str | Path]:
    """What several adversaries share, beside a family's kernels."""
    return {f"kernels/{family}/{path.name}": path for path in folder.glob("_*.py")}


def _odd_sizes(rng: random.Random) -> tuple[MLADecode, ...]:
    """Empty and unequal sequences, several queries, pages of other sizes, another scale."""
    return (
        MLADecode(3, rng.randint(2, 4), rng.randint(50, 150), rng.randint(17, 31), "empties", rng.choice((16, 32))),
        MLADecode(rng.randint(5, 7), 1, rng.randint(100, 300), rng.randint(3, 15), "uniform", rng.choice((1, 8)),
                  softmax_scale=rng.uniform(0.02, 0.06)),
    )  # fmt: skip
