"""The pytest glue: options, collection, fixtures, and the summary. What it drives is `bench.Bench`.

Nothing is measured before the first test that needs it, so `--collect-only`, `-k`, `-m` and `-x` mean what they mean.
Device seconds are handed to pytest-benchmark as its samples.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from kernels.device import Device
from kernels.discover import KernelInfo, families
from kernels.kernel import Origin
from kernels.problem import Tier

from .bench import Bench
from .compile_run import CompileRun
from .device.detect import ChosenDevice, DeviceError, choose, detect
from .device.fitness import why_unfit
from .device.specs import spec_by_key
from .interrupts import end_in_order, held_off
from .judge.bands import MOST_LAUNCHES
from .judge.comparisons import Comparison
from .measure.base_tree import BaseError, checked_out
from .measure.crew import RunError, UnfitError
from .progress import Progress
from .record.schema import RecordError
from .refused_options import why_refused
from .replay_clock import ReplayClock
from .run_journal import Options
from .selection import Case, Selection, kernels_root
from .summary import print_compiled, print_run, speed_test_name, why_it_ended

GATE_FILES = ("test_correctness.py", "test_properties.py", "test_speedup.py")
COMPILE_FILE = "test_compile.py"
UNFIT = 6
"""Exit status of a runner that cannot judge."""
STATUS_LETTERS = {"holds": ".", "unclaimed": "u", "inconclusive": "i", "skipped": "s"}
compiled_key = pytest.StashKey[CompileRun]()
bench_key = pytest.StashKey[Bench]()
gate_key = pytest.StashKey["Gate"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line of the gate."""
    group = parser.getgroup("kernelgate", "kernelgate: prove or refute speedup claims about kernels")
    tiers = "problems to take; default: ci on a GPU, smoke on the CPU"
    devices = "auto (default), cpu, or a device: h100, h200, b200, mi300x, mi355x ..."
    group.addoption("--gpu", default="auto", metavar="DEVICE", help=devices)
    group.addoption("--tier", choices=[t.value for t in Tier], help=tiers)
    group.addoption("--compile-only", action="store_true", help="compile every Triton kernel for --gpu, on any machine")
    group.addoption("--base", metavar="REF", help="measure this tree against the kernels of a git revision")
    group.addoption("--run-dir", metavar="DIR", help="where the run is recorded; default: runs/<time>-<device>")
    group.addoption("--resume", metavar="DIR", help="go on with a run that was cut off; measures nothing twice")
    group.addoption("--input-seed", type=int, metavar="N", help="draw a run's inputs again: its environment.seed")
    most = f"measure in N launches at most, even if undecided; default: {MOST_LAUNCHES}"
    group.addoption("--launches", type=int, default=MOST_LAUNCHES, metavar="N", help=most)
    # --strict is pytest's own, dest "strict"; for the gate it also means that inconclusive is red.
    group.addoption("--no-gate", action="store_true", help="measure and report; verdicts never fail")


def _is_strict(config: pytest.Config) -> bool:
    """pytest 8 has --strict as an option of its own, pytest 9 as one that sets a configuration value."""
    try:
        return bool(config.getini("strict"))
    except (KeyError, ValueError):
        return bool(config.getoption("strict", False))


class Gate:
    """One session's choices: the device, what may be selected, and the bench once something is measured."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.root = kernels_root()
        self.compile_only = bool(config.getoption("compile_only"))
        self.chosen: ChosenDevice | None = None
        self.base = self._base()
        self.device = self._device()
        default_tier = Tier.SMOKE if self.device.kind == "cpu" else Tier.CI
        self.tier = Tier(config.getoption("tier") or default_tier)
        key = self.chosen.key if self.chosen else config.getoption("gpu")
        self.selection = Selection(self.root, key, self.tier, self.base[2] if self.base else None)
        for family in {claim.problem.partition("/")[0] for claim in self.selection.claims} - {*families(self.root)}:
            config.addinivalue_line("markers", f"{family}: family: claimed, but no longer in kernels/")

    def _device(self) -> Device:
        gpu = self.config.getoption("gpu")
        if self.compile_only and gpu not in ("auto", "cpu"):
            return spec_by_key(gpu).device()
        self.chosen = choose(gpu, detect())
        if self.compile_only and self.chosen.device.kind == "cpu":
            raise DeviceError("--compile-only needs a GPU to compile for: add --gpu h200, --gpu mi300x or another.")
        if self.config.getoption("benchmark_storage", "").startswith("file://./.benchmarks"):
            self.config.option.benchmark_storage = f"file://./.benchmarks/{self.chosen.key}"
        return self.chosen.device

    def _base(self) -> tuple[str, str, Path] | None:
        ref = self.config.getoption("base")
        return None if ref is None else checked_out(self.root, ref)  # an empty one is a mistake

    def bench(self) -> Bench:
        """The run of this session."""
        if bench_key not in self.config.stash:
            assert self.chosen is not None  # compile-only collects no test that asks for it
            self.config.stash[bench_key] = Bench(self._options(), self.chosen, self.selection)
        return self.config.stash[bench_key]

    def _options(self) -> Options:
        assert self.chosen is not None
        resume, launches = self.config.getoption("resume"), self.config.getoption("launches")
        stamp = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{self.chosen.key}-{secrets.token_hex(2)}"
        folder = resume or self.config.getoption("run_dir") or self.root / "runs" / stamp
        if resume and not Path(resume).is_dir():
            raise pytest.UsageError(f"--resume {resume}: there is no such folder.")
        if launches < 1:
            raise pytest.UsageError(f"--launches {launches}: name 1 or more.")
        return Options(
            root=self.root,
            tier=self.tier.value,
            run_dir=Path(folder).resolve(),
            command=("pytest", *self.config.invocation_params.args),
            resume=bool(resume),
            strict=_is_strict(self.config),
            base=self.base,
            input_seed=self.config.getoption("input_seed"),
            max_launches=launches,
        )


def pytest_configure(config: pytest.Config) -> None:
    """Markers of families and origins; refuse what would leave claims unjudged in silence."""
    for family in families(kernels_root()):
        config.addinivalue_line("markers", f"{family}: family: kernels/{family}/")
    for origin in Origin:
        config.addinivalue_line("markers", f"{origin.value}: origin")
    # Nothing is handed over for a kernel that cannot run, is wrong, or is unchanged since the base. Not a mark of the
    # test: after Ctrl-C its fixtures end outside of it.
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used")
    why = None if _only_selftests(config) else why_refused(config.getoption, config.pluginmanager.hasplugin)
    if why:
        raise pytest.UsageError(why)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Choose the device before anything is collected: a wrong one is a usage error (exit 4)."""
    if _only_selftests(session.config):
        return
    end_in_order()
    try:
        session.config.stash[gate_key] = Gate(session.config)
    except (DeviceError, RecordError, BaseError, RuntimeError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error


def _only_selftests(config: pytest.Config) -> bool:
    """Whether the command line names files, none of which is one of ours: they need no device."""
    named = [Path(str(arg).partition("::")[0]) for arg in config.args]
    ours = Path(__file__).parent
    return not any((config.invocation_params.dir / p).resolve() in (ours, *ours.parents) or
                   p.name in (*GATE_FILES, COMPILE_FILE) for p in named)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Compile-only keeps the compile tests and nothing else; otherwise they are left out."""
    gate = config.stash.get(gate_key, None)
    if gate is not None:
        unwanted, ours = GATE_FILES if gate.compile_only else (COMPILE_FILE,), Path(__file__).parent
        items[:] = [item for item in items if item.path.name not in unwanted or item.path.parent != ours]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case, comparison, or compile case."""
    gate = metafunc.config.stash.get(gate_key, None)
    if gate is None:
        return
    selection, gpu = gate.selection, metafunc.config.getoption("gpu")
    parameters: dict[str, Iterator[Any]] = {
        "correctness_case": map(_case_param, selection.correctness_cases()),
        "property_kernel": map(_kernel_param, selection.property_kernels()),
        "comparison": (_comparison_param(c, selection) for c in selection.comparisons()),
        "compile_case": (_case_param(c, gpu) for c in selection.compile_cases()),
    }
    for name in parameters.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(name, list(parameters[name]))


def _kernel_param(kernel: KernelInfo) -> Any:
    return pytest.param(kernel, id=kernel.id, marks=_marks(kernel.family, kernel.origin))


def _case_param(case: Case, device: str | None = None) -> Any:
    name = "-".join(filter(None, [case.kernel.id, device, case.problem.partition("/")[2]]))
    return pytest.param(case, id=name, marks=_marks(case.kernel.family, case.kernel.origin))


def _comparison_param(comparison: Comparison, selection: Selection) -> Any:
    known = selection.kernels.get(comparison.kernel)
    family = comparison.problem.partition("/")[0]
    clock = ReplayClock()
    marks = [*_marks(family, known.origin if known else "unknown"),
             pytest.mark.benchmark(timer=clock, group=comparison.problem)]  # fmt: skip
    name = speed_test_name(comparison.kind, comparison.kernel, comparison.rival, comparison.problem)
    return pytest.param((comparison, clock), id=name, marks=marks)


def _marks(family: str, origin: str) -> list[pytest.MarkDecorator]:
    return [getattr(pytest.mark, name) for name in (family, origin) if name != "unknown"]


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """All selected comparisons go to the bench at once: they are measured in the same launches."""
    gate = session.config.stash.get(gate_key, None)
    if gate is None or session.config.option.collectonly:
        return
    if gate.compile_only:
        cases = [(case.kernel.id, case.problem) for case in _selected(session, "compile_case")]
        session.config.stash[compiled_key] = CompileRun(gate.root, gate.device, cases, Progress(session.config))
        return
    gate.selection.narrow({mark.name for item in session.items for mark in item.iter_markers()})
    bench = gate.bench()
    bench.comparisons = tuple(comparison for comparison, _ in _selected(session, "comparison"))
    bench.cases = tuple(_selected(session, "correctness_case"))
    bench.property_kernels = tuple(_selected(session, "property_kernel"))
    bench.say = Progress(session.config)


def _selected(session: pytest.Session, name: str) -> list[Any]:
    """The values that a parameter has in the selected items."""
    calls = (item.callspec.params for item in session.items if hasattr(item, "callspec"))
    return [params[name] for params in calls if name in params]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """A device that cannot be judged on ends the session with a status of its own, before any kernel is blamed."""
    gate = session.config.stash.get(gate_key, None)
    if gate and gate.chosen and not gate.compile_only and session.items and not session.config.option.collectonly:
        reason = why_unfit(gate.chosen)
        if reason:
            pytest.exit(f"unfit runner: {reason}", returncode=UNFIT)


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """This session's run."""
    return pytestconfig.stash[gate_key].bench()


@pytest.fixture(scope="session")
def compile_results(pytestconfig: pytest.Config) -> Any:
    """(kernel, problem) -> what it compiled to; the first call compiles all selected cases in parallel."""
    return pytestconfig.stash[compiled_key]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """What no other test can get past (a full disk, a run that cannot be resumed) ends the session with a sentence."""
    try:
        return (yield)
    except (RecordError, RunError, OSError) as error:
        bench = item.config.stash.get(bench_key, None)
        if bench is None:
            raise
        if isinstance(error, UnfitError):
            bench.unfit = str(error)
            pytest.exit(f"unfit runner: {error}", returncode=UNFIT)
        status = pytest.ExitCode.INTERNAL_ERROR if bench.started else pytest.ExitCode.USAGE_ERROR
        pytest.exit(why_it_ended(error, bench), returncode=status)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """A passed speed test shows its verdict: `.` holds, `u` unclaimed, `i` inconclusive."""
    verdict = dict(getattr(report, "user_properties", ())).get("verdict")  # a report of collecting has none
    if verdict and report.when == "call" and report.passed and verdict in STATUS_LETTERS:
        return str(verdict), STATUS_LETTERS[str(verdict)], str(verdict).upper()
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Saved benchmarks name the device that their seconds were spent on."""
    gate = config.stash.get(gate_key, None)
    if gate and gate.chosen:
        machine_info["kernelgate_device"] = gate.chosen.record()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, None, None]:
    """End the run whatever happened, so that run.json is there and no worker outlives us."""
    bench = session.config.stash.get(bench_key, None)
    try:
        if bench is not None:
            if bench.started and bench.find_unfit():
                session.exitstatus = UNFIT
            with held_off():
                bench.close(int(session.exitstatus))
    except (RecordError, OSError) as error:
        session.config.stash[gate_key].record_error = str(error)  # type: ignore[attr-defined]
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
    return (yield)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Verdicts, regressed first, each with the command that reproduces it; where the run and its report lie."""
    gate = config.stash.get(gate_key, None)
    bench = config.stash.get(bench_key, None)
    compiled = config.stash.get(compiled_key, None)
    if compiled is not None and compiled.results:
        print_compiled(compiled, terminalreporter)
    if gate is not None and bench is not None and bench.started:
        print_run(bench, gate.selection, terminalreporter, getattr(gate, "record_error", None))
