"""What tests of the generator share: small sources, files with the choices by hand, and how these are tried."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.device import Device
from kernels.discover import load_problems, load_spaces, problem_key
from kernels.problem import Problem, Tier
from kernels.space import Space
from suite.device.specs import spec_by_key
from suite.generate.source import Pass, Source
from suite.generate.specialise import specialised
from suite.generate.table import Point, Row, table_of
from suite.measure.compile import COMPILING, PROJECT_ROOT
from suite.measure.process import scrubbed_environment

GPUS = ("h200", "mi300x")
SAME_BITS = """
# Every script takes its work off the command line, so that one process can run several.
import json, sys, torch
from kernels.device import Device
from kernels.discover import load_kernel, load_problem
from suite.measure.interpreter import mend
mend()
for first, second, key, gpu, cut in json.loads(sys.argv.pop(1)):
    device, problem = Device(**gpu), load_problem(key)
    problem = problem.cut() if cut else problem
    inputs = problem.make_inputs(3, "cpu")
    results = []
    for kernel in (load_kernel(first), load_kernel(second)):
        results.append(kernel.run(inputs, kernel.plan(problem, {}, device)))
    one, other = results
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one), (second, key)
    named = {name: value.float() for name, value in one.items() if name != "lse"}  # of nothing that is infinite
    assert all(value.isfinite().all() and value.abs().sum() > 0 for value in named.values()), (first, key)
"""


@dataclass(frozen=True)
class Written:
    """A template with the choices by hand for one kind of GPU."""

    family: str
    name: str
    """Its module in the family's folder of generated kernels."""
    template: str
    device: Device
    rows: list[Row]
    text: str

    @property
    def code(self) -> str:
        """Without the header and the docstring."""
        return self.text.partition('"""\n\n')[2]

    @property
    def files(self) -> dict[str, str]:
        """Path in a tree -> text, of the kernel and its manifest."""
        path = f"kernels/{self.family}/generated/{self.name}"
        return {f"{path}.py": self.text, f"{path}.json": json.dumps({"dispatch": self.rows})}

    def beside_the_hand(self, problem: Problem, num_sms: int, cut: bool = False) -> list[Any]:
        """Work for SAME_BITS: a problem, or that cut to what a CPU computes, on a device of few cores."""
        device = vars(self.device) | {"num_sms": num_sms}
        kernels = (f"{self.family}/{self.template}", f"{self.family}/generated/{self.name}")
        return [*kernels, problem_key(problem), device, cut]


def settled(text: str, *passes: Pass) -> str:
    """A small source after passes, again and again, until nothing changes."""
    source, before = Source(textwrap.dedent(text)), ""
    while source.text != before:
        before = source.text
        for one in passes:
            source = source.edited(one(source))
    return source.text


def spaces(*families: str) -> dict[str, Space]:
    """By family and template: `mla/triton_split_kv`."""
    return {f"{family}/{space.template}": space for family in families for space in load_spaces(family)}


def able(space: Space, device: Device, problems: Iterable[Problem]) -> list[Problem]:
    """Those that the template solves on the device."""
    return [p for p in problems if p.task in space.tasks and not p.unsupported_by(device)]


def by_hand(space: Space, device: Device, problems: Iterable[Problem]) -> list[Row]:
    """The table of the choices by hand."""
    points = [Point(space.facts(p), space.by_hand(p, device), 1.0) for p in able(space, device, problems)]
    return table_of(points, points[0].use)


@functools.cache
def written(name: str, gpu: str, hard_cases: bool = False) -> Written:
    """`mla/triton_split_kv` with the choices by hand for the problems of the middle tier, or for all there are."""
    family, _, template = name.partition("/")
    space, device = spaces(family)[name], spec_by_key(gpu).device()
    tiers, hard = load_problems(family)
    problems = [*hard, *(p for tier in tiers.values() for p in tier)] if hard_cases else tiers[Tier.CI]
    rows = by_hand(space, device, problems)
    text = specialised(PROJECT_ROOT / "kernels" / family, space, rows, device, "written.json")
    return Written(family, f"written_{template}_{gpu}", template, device, rows, text)


def check_layout(text: str, family: str, *options: Sequence[str]) -> None:
    """Ruff finds nothing in it, as a file of the project."""
    name = str(PROJECT_ROOT / f"kernels/{family}/generated/written.py")
    for option in options or (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *option, "--stdin-filename", name, "-"]
        done = subprocess.run(command, input=text, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def check_imports(text: str, *more: str) -> None:
    """It stands by itself: of the project it imports what all kernels know, its family's problem and `more`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.module in {"kernel", "problem", "device", *more}
            assert node.level == 3 or node.module in {"problem", *more}


def interpreted(scripts: Mapping[str, Any], folder: Path, root: Path) -> None:
    """Run scripts, each on its work, with the tree at `root` and in Triton's interpreter: in one process, whose start
    takes longer than most of them do."""
    environment = scrubbed_environment(root) | COMPILING | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", "".join(scripts), *map(json.dumps, scripts.values())]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
