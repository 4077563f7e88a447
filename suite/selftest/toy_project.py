"""A whole project in a folder: this one's suite, and one toy family that is measured in seconds on any CPU.

Its conftest.py shortens timeouts and budgets; all else is the product, run as a user runs it: `python -m pytest`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kernels.discover import discover
from suite.device.cpu import find_cpu
from suite.device.detect import detect
from suite.record.baseline import Baseline, Claim, write_baseline
from suite.record.journal import read_journal
from suite.record.run import read_run
from suite.record.schema import now_utc

PROJECT = Path(__file__).resolve().parents[2]
RUN_TIMEOUT_S = 900
MOST_CACHE_BYTES = 32 << 20
"""A rented machine may report 480 MiB, of which each timed call would have twice as much read before it."""

CONFTEST = """
import json
from dataclasses import replace
from pathlib import Path

from suite import progress, side_by_side, summary
from suite.device.detect import Detected
from suite.judge import comparisons
from suite.measure import campaign, launch

pytest_plugins = ["suite.pytest_plugin"]
campaign.CASE_TIMEOUT_S = 3.0
launch.LAUNCH_TIMEOUT_S = 30.0
launch.CPU_BUDGET_S = 0.2
launch.CPU_BLOCKS = 10
campaign.Campaign.ceilings = lambda self: {}
summary.write_report = lambda runs, claims, folder: [folder / "left out"]
progress.LOG_EVERY_S = 0.0
side_by_side.MAX_LANES = 1  # its faults are told one by one


def pytest_configure(config):
    from suite import pytest_plugin

    detected = json.loads(Path(__file__).with_name("detected.json").read_text())
    pytest_plugin.detect = lambda: Detected.from_json(detected)


bands_for = comparisons.bands_for
comparisons.bands_for = lambda *args: replace(bands_for(*args), k_min=K_MIN)
"""

PROBLEM = '''
"""out = x . w with x [rows, 256] and w [256, 512], all float32. One call takes about a millisecond."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..problem import Cost, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged


@dataclass(frozen=True)
class Product(Problem):
    rows: int = tagged("n")
    family: ClassVar[str] = "toy"
    task: ClassVar[str] = "product"
    residency: ClassVar[Mapping[str, Residency]] = {"x": Residency.WARM, "w": Residency.COLD}
    activations: ClassVar[tuple[str, ...]] = ("x",)
    plan_inputs: ClassVar[tuple[str, ...]] = ()

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        generator = torch.Generator().manual_seed(seed)
        drawn = {"x": torch.randn(self.rows, 256, generator=generator), "w": torch.randn(256, 512, generator=generator)}
        return {name: tensor.to(device) for name, tensor in drawn.items()}

    def redraw(self, inputs, generator) -> None:
        inputs["x"].normal_(generator=generator)

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"out": TensorSpec((self.rows, 512), "float32")}

    def tolerances(self) -> dict[str, Tolerance]:
        return {"out": Tolerance(rtol=1e-3, relative_rms=1e-3, atol_rms=1e-3)}

    def cost(self, inputs: Inputs) -> Cost:
        return Cost(2 * self.rows * 256 * 512, 4 * 256 * 512, 4 * self.rows * 512, "float32")

    def memory_bytes(self) -> int:
        return 4 * (self.rows * 256 + 256 * 512 + self.rows * 512)

    def null_kernels(self) -> Mapping[str, NullKernel]:
        return {}


PROBLEMS = {Tier.SMOKE: (Product(512),), Tier.CI: (Product(512), Product(640)), Tier.FULL: (Product(512),)}
HARD_CASES = ()
'''

KERNEL = '''
"""x . w, {repeats} times over."""
from ..kernel import Kernel, Origin


def run(inputs, state):
    for _ in range({repeats}):
        out = inputs["x"] @ inputs["w"]
    return {{"out": out}}


KERNEL = Kernel(origin=Origin.{origin}, tasks=("product",), run=run)
'''


def kernel(origin: str, repeats: int = 1) -> str:
    """Source of a right kernel; its time grows with `repeats`."""
    return KERNEL.format(origin=origin, repeats=repeats)


def faulty(body: str, before: str = "", arguments: str = "") -> str:
    """Source of a hand kernel whose `run` has this body (lines), with lines before it at module level."""
    lines = "\n    ".join(body.strip().splitlines())
    return (
        f"import ctypes, os, sys, time\nimport torch\nfrom ..kernel import Kernel, Origin\n{before}\n\n"
        f"def run(inputs, state):\n    {lines}\n\n"
        f'KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run{arguments})\n'
    )


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    status: int
    text: str
    """Both streams."""


@dataclass(frozen=True)
class ToyProject:
    """The project at `root`: family toy, with the kernels reference, vendor, hand (2x the vendor's speed) and gen."""

    root: Path
    gpu: str = "cpu"
    """What its runs take as --gpu."""

    @staticmethod
    def make(root: Path, kernels: Mapping[str, str] | None = None, k_min: int = 2, gpu: str = "cpu") -> ToyProject:
        """Copy the suite, write the family, and `kernels` (name -> source) beside its own; `k_min`: see Bands."""
        ignore = shutil.ignore_patterns("__pycache__", "selftest")
        shutil.copytree(PROJECT / "suite", root / "suite", ignore=ignore)
        (root / "kernels" / "toy").mkdir(parents=True)
        for path in (PROJECT / "kernels").glob("*.py"):
            shutil.copy(path, root / "kernels")
        shutil.copy(PROJECT / "pyproject.toml", root)
        (root / "conftest.py").write_text(CONFTEST.replace("K_MIN", str(k_min)))
        (root / "detected.json").write_text(_detected())
        (root / "kernels/toy/__init__.py").write_text("")
        (root / "kernels/toy/problem.py").write_text(PROBLEM)
        project = ToyProject(root, gpu)
        own = {"reference": kernel("REFERENCE"), "vendor": kernel("VENDOR", 4), "hand": kernel("HAND", 2),
               "gen": kernel("GENERATED", 3)}  # fmt: skip
        for name, source in (own | dict(kernels or {})).items():
            project.write_kernel(name, source)
        return project

    def write_kernel(self, name: str, source: str) -> None:
        """Add or replace kernels/toy/<name>.py."""
        (self.root / "kernels" / "toy" / f"{name}.py").write_text(source)

    def pytest(self, *arguments: str) -> Outcome:
        """Run the gate to its end."""
        process = self.start(*arguments)
        try:
            text, _ = process.communicate(timeout=RUN_TIMEOUT_S)
        finally:
            process.kill()
        return Outcome(process.returncode, text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the gate."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHONPATH", "COV", "OMP_"))}
        environment = kept | {"OMP_NUM_THREADS": "1"}  # steadier where other tests run beside this one
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--gpu", self.gpu, *arguments]
        return subprocess.Popen(
            command, cwd=self.root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def write_claims(self, *claims: tuple[str, str, str, float]) -> Path:
        """baselines/ of this CPU: (kernel, rival, problem, factor). All of one family; returns its file."""
        cpu, family = find_cpu(), claims[0][2].partition("/")[0]
        device = {"key": cpu.key, "name": cpu.model, "arch": cpu.arch, "num_sms": cpu.cores}
        written = tuple(_claim(cpu.key, *claim, self._sha256(claim[0])) for claim in claims)
        return write_baseline(self.root, Baseline(device, family, written))

    def _sha256(self, kernel_id: str) -> str:
        known = discover(self.root).get(kernel_id)
        return known.sha256 if known else "0" * 64

    def run(self, name: str) -> dict[str, Any]:
        """The record of runs/<name>."""
        return read_run(self.root / "runs" / name)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The journal of runs/<name>; empty where there is none yet."""
        path = self.root / "runs" / name / "journal.jsonl"
        return read_journal(path) if path.exists() else []

    def add_to_conftest(self, lines: str) -> str:
        """Append to conftest.py, which no run's hash covers; returns what it was."""
        path = self.root / "conftest.py"
        before = path.read_text()
        path.write_text(before + lines)
        return before

    def git(self, *arguments: str) -> None:
        """Run git here, as somebody."""
        who = ["-c", "user.name=toy", "-c", "user.email=toy@example.org"]
        subprocess.run(["git", "-C", str(self.root), *who, *arguments], check=True, capture_output=True)

    def worker_pids(self) -> list[int]:
        """Workers of this project, and whatever they started, that still run: they write to the log of a run."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if (folder / "fd" / "1").resolve().is_relative_to(self.root) and (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found


@functools.cache
def _detected() -> str:
    """What is here, looked for once; with a cache that is flushed in no time, as its times are nobody's figures."""
    found = detect()
    cpu = replace(found.cpu, last_level_cache_bytes=min(found.cpu.last_level_cache_bytes, MOST_CACHE_BYTES))
    return json.dumps(asdict(replace(found, cpu=cpu)))


def _claim(device: str, kernel: str, rival: str, problem: str, factor: float, sha256: str) -> Claim:
    now = now_utc()
    evidence = {"scores": [{"launch": "earlier/1", "score": 0.1}], "kernel_us": 3000.0, "rival_us": 6000.0,
                "environment": {"torch": "0"}}  # fmt: skip
    return Claim(
        device=device, kernel=kernel, rival=rival, problem=problem, problem_fields={}, factor=factor, owner="toy",
        made_utc=now, proven_utc=now, git_sha="0" * 40, kernel_sha256=sha256, rival_version="", gpu_uuids=(),
        runs=("earlier",), evidence=evidence,
    )  # fmt: skip
