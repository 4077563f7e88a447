"""All measuring of one run, seen from the parent: cases, launches, and the journal that they go into.

The pytest process never touches the device. It sends cases to a candidate's worker, hands the outputs to the referee's
worker, and appends each result to the journal before it goes on.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kernels.device import Device
from kernels.discover import KernelInfo, load_problem
from kernels.problem import Cost

from ..device.clocks import snapshot
from ..device.specs import light_speed_us
from ..record.schema import now_utc
from . import ground
from .blocks import BlockSource
from .crew import Crew, RunError, UnfitError
from .folders import new_folder, remove
from .launch import ProblemLaunch
from .plausible import below_light_speed, contradicted
from .stopwatch import Stopwatch

CASE_TIMEOUT_S = 300.0
"""Long, because a kernel may compile on its first call."""

CHANGED_LATER = {
    "reason": "tampered",
    "sentence": "The outputs of a timed call are not those that were handed over right behind it.",
}
Factors = dict[str, dict[str, float]]
"""Kernel id -> its `output_factors`."""


class Appends(Protocol):
    """A journal, as far as measuring needs one."""

    def append(self, event: dict[str, Any]) -> None:
        """Write one event."""


@dataclass
class Campaign:
    """What one run measures with. Close it at the end."""

    crew: Crew
    journal: Appends
    run_id: str
    seed: int
    interpreter_device: Callable[[str], Device | None] = lambda problem: None
    """On a machine without a GPU: the GPU whose plan Triton's interpreter executes, by problem."""
    factors: Factors = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)
    _witnesses: bool = False

    def __post_init__(self) -> None:
        self.scratch = new_folder(f"kernelgate-{self.run_id}-", _scratch_parent(self.crew.log_path.parent))
        self._ground = self._stamps()

    def close(self) -> None:
        """End all workers and remove the outputs that they left."""
        self.crew.close()
        remove(self.scratch)

    def describe(self, kernels: list[str], problems: list[str]) -> dict[str, Any]:
        """Which kernels run which problems, and why others do not. See `describe.describe`.

        Where that ends the worker, each is asked by itself: a file that crashes when it is imported is a broken kernel,
        and the reply's `reasons` (kernel -> reason code) says so. Whatever cannot be loaded is asked once more in a
        process of its own: what the import of another kernel did to the process is not its fault.
        """
        self.crew.expect("referee")
        with Stopwatch(self.phases_s, "startup"):
            reply = self._describe(kernels, problems)
            doubted = [kernel for kernel in kernels if kernel in reply.get("broken", {})]
            if reply["status"] != "ran":
                reply = self._describe([], problems)  # without any kernel it must answer
                doubted = kernels if reply["status"] == "ran" else []
            for kernel in doubted:
                self._describe_again(kernel, problems, reply)
        self.factors |= reply.get("factors", {})
        return reply

    def _describe_again(self, kernel: str, problems: list[str], reply: dict[str, Any]) -> None:
        """Put what becomes of one kernel by itself into the reply on all of them."""
        alone = {} if kernel in reply["broken"] else self._describe([kernel], problems)
        if alone.get("status") != "ran" or alone["broken"]:
            self.crew.retire("candidate")
            alone = self._describe([kernel], problems)
        reply["broken"].pop(kernel, None)
        reply.get("reasons", {}).pop(kernel, None)
        if alone["status"] != "ran":
            reasons = {kernel: alone["reason"]}
            alone = {"broken": {kernel: f"It cannot be loaded. {alone['sentence']}"}, "reasons": reasons}
        for table in ("unsupported", "versions", "factors", "broken", "reasons"):
            reply.setdefault(table, {}).update(alone.get(table, {}))

    def _describe(self, kernels: list[str], problems: list[str]) -> dict[str, Any]:
        return self.crew.describe(kernels, problems, self.crew.chosen.device, CASE_TIMEOUT_S)

    def ceilings(self) -> dict[str, float]:
        """Copy bandwidth and matrix rate of the device, now. Empty where they cannot be had."""
        with Stopwatch(self.phases_s, "ceilings"):
            reply = self.crew.request(
                "referee", {"op": "ceilings", "chosen": self.crew.chosen.to_json()}, CASE_TIMEOUT_S
            )
        return dict(reply.get("ceilings", {}))

    def canary(self) -> dict[str, Any]:
        """Whether this machine tells twins from a known slowdown; see canary.py. RunError where it cannot be asked."""
        message = {"op": "canary", "device": asdict(self.crew.chosen.device), "seed": self.draw_seed("canary"),
                   "cache_bytes": self.crew.chosen.last_level_cache_bytes}  # fmt: skip
        with Stopwatch(self.phases_s, "canary"):
            reply = self.crew.request("referee", message, CASE_TIMEOUT_S)
        if reply["status"] != "ran":  # no kernel of anyone's ran in it
            raise UnfitError(f"{self.crew.chosen.name} could not run the canary. {reply['sentence']}")
        return dict(reply["canary"])

    def _refuse_changed_tree(self, kernels: list[str]) -> None:
        """RunError where the code that measures and judges is not the code that the run began with."""
        if changed := self.changed_files():
            raise RunError(
                f"{', '.join(changed[:5])} changed on disk while {', '.join(kernels)} ran: by a kernel, or by somebody "
                "who works in this tree. What was measured before is recorded; measure again in a tree of its own."
            )

    def changed_files(self) -> list[str]:
        """Files that processes load, and that are not as they were when the run began."""
        return ground.changed(self._ground, self._stamps())

    def _stamps(self) -> ground.Stamps:
        return ground.stamps(self.crew.trees)

    # Correctness

    def check(self, kernel: KernelInfo, problem: str, distribution: str) -> dict[str, Any]:
        """Run one case, have the referee judge its outputs, and journal the result. Returns the check's record."""
        seed = self.draw_seed("check", problem, distribution)
        record = {"kernel": kernel.id, "problem": problem, "distribution": distribution, "seed": seed}
        role, device, tensors_on = self.place(kernel, problem)
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        with Stopwatch(self.phases_s, "check"):
            if device is None:
                reply = {"status": "skipped", "reason": "not_supported", "sentence": "no interpreter can run it"}
            else:
                library = kernel.id in self.crew.libraries([kernel.id])
                message = {"op": "check", "kernel": kernel.id, "library": library, "problem": problem,
                           "device": asdict(device),
                           "tensors_on": tensors_on, "seed": seed, "distribution": distribution,
                           "output_dir": str(folder)}  # fmt: skip
                reply = self.crew.request(role, message, CASE_TIMEOUT_S)
            if reply["status"] == "ran":
                reply = self._referee(record, tensors_on, reply["outputs"])
        remove(folder)
        entry = self._journal_check(record | reply, "correctness")
        self._refuse_changed_tree([kernel.id])
        return entry

    def place(self, kernel: KernelInfo, problem: str) -> tuple[str, Device | None, str]:
        """Which worker runs a case, what it plans for, and where its tensors lie."""
        device = self.crew.chosen.device
        if kernel.uses_triton and device.kind == "cpu":
            return "interpreter", self.interpreter_device(problem), "cpu"
        return "candidate", device, device.torch_name

    def _referee(
        self, record: dict[str, Any], tensors_on: str, outputs: Any, redraw_seeds: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        message = {"op": "referee", "problem": record["problem"], "tensors_on": tensors_on, "seed": record["seed"],
                   "distribution": record["distribution"], "outputs": outputs,
                   "factors": self.factors.get(record["kernel"], {}), "redraw_seeds": redraw_seeds}  # fmt: skip
        return ask_referee(self.crew, message, record["kernel"], record["problem"])

    def _journal_check(self, record: dict[str, Any], stage: str) -> dict[str, Any]:
        names = ("kernel", "problem", "distribution", "seed", "status", "reason", "sentence")
        entry = {name: record[name] for name in names} | {"errors": record.get("errors", {}), "stage": stage}
        self.journal.append({"event": "check"} | entry)
        return entry

    # Launches

    def launch(
        self,
        index: int,
        work: dict[str, list[str]],
        cut_off: bool,
        done: Collection[str],
        progress: Callable[[str], None],
    ) -> None:
        """One launch: a fresh process measures `work` (problem -> kernels).

        Where a launch was cut off, this goes on with it: `done` are the problems that it had measured.

        A kernel that fails in it is journaled as a failure and left out of the launch's further problems.
        """
        launch_id, started, phases_s = f"{self.run_id}/{index}", time.monotonic(), dict[str, float]()
        before = snapshot(self.crew.chosen, self.crew.pids())
        if not cut_off:
            self.journal.append({"event": "launch_start", "launch": launch_id, "index": index,
                                 "started_utc": now_utc(), "environment": {"before": before}})  # fmt: skip
        failed: set[str] = set()
        self._witnesses = index == 1
        for problem in (p for p in work if p not in done):
            progress(problem)
            kernels = [kernel for kernel in work[problem] if kernel not in failed]
            if kernels:
                failed |= self._measure(launch_id, problem, kernels, phases_s)
                self._refuse_changed_tree(kernels)
        self.crew.retire("launch")
        phases_s["other"] = max(0.0, time.monotonic() - started - sum(phases_s.values()))
        for name, value in phases_s.items():
            self.phases_s[name] = self.phases_s.get(name, 0.0) + value
        self.journal.append({"event": "launch_end", "launch": launch_id,
                             "environment": {"after": snapshot(self.crew.chosen, self.crew.pids())},
                             "phases_s": {name: round(value, 3) for name, value in phases_s.items()}})  # fmt: skip

    def _measure(self, launch_id: str, problem: str, kernels: list[str], phases_s: dict[str, float]) -> set[str]:
        """One problem in one launch. Kept outputs of timed calls are judged before the times count."""
        seed = self.draw_seed("launch", problem, launch_id)
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        reply, failures, source = ProblemLaunch(self.crew, problem, seed, folder, phases_s, self._witnesses).measure(
            kernels
        )
        with Stopwatch(phases_s, "check"):
            failures += self._check_kept(problem, seed, reply, source)
        remove(folder)
        if reply.get("measurements"):
            self._record_cost(problem, Cost(**reply["cost"]))
            failures += contradicted(reply["measurements"], source)
            failures += below_light_speed(reply["measurements"], self._light_us(Cost(**reply["cost"])) or 0.0)
        for failure in {f["kernel"]: f for f in reversed(failures)}.values():  # the first that was found of each
            self.journal.append({"event": "failure", "launch": launch_id, "problem": problem} | failure)
        wrong = {failure["kernel"] for failure in failures}
        for measurement in reply.get("measurements", []):
            measurement.pop("sequence")
            measurement["facts"] |= {f"witness_us {k}": round(v, 2) for k, v in source.witness_us().items()}
            for table in ("times_us", "host_us", "plan_us", "graph_safe"):
                measurement[table] = {k: v for k, v in measurement[table].items() if k not in wrong}
            self.journal.append({"event": "measurement", "launch": launch_id, "problem": problem} | measurement)
        return wrong

    def _record_cost(self, problem: str, cost: Cost) -> None:
        """Journal what this launch's inputs cost at least."""
        event = {"event": "problem", "id": problem, "light_speed_us": self._light_us(cost)}
        self.journal.append(event | problem_entry(problem) | asdict(cost))

    def _light_us(self, cost: Cost) -> float | None:
        spec = self.crew.chosen.spec
        return light_speed_us(cost, spec) if spec else None

    def _check_kept(self, problem: str, seed: int, reply: dict[str, Any], source: BlockSource) -> list[dict[str, str]]:
        """Judge the outputs of all kept blocks; a wrong or missing one voids the kernel in this launch."""
        outputs = {(k["sequence"], k["call"]): k["outputs"] for k in reply.get("kept", [])}
        wrong: dict[str, dict[str, str]] = {}
        for number in (m["sequence"] for m in reply.get("measurements", [])):
            for call, kernel, seeds in source.sequences[number].kept_calls():
                sequence, described = source.sequences[number], outputs.get((number, call))
                fault = None if sequence.has_kept(call, described) else CHANGED_LATER
                fault = fault or self._fault(problem, kernel, seed, described, seeds)
                if fault:
                    wrong.setdefault(kernel, fault)
        return [{"kernel": kernel} | fault for kernel, fault in wrong.items()]

    def _fault(
        self, problem: str, kernel: str, seed: int, outputs: dict[str, Any] | None, redraw_seeds: tuple[int, int]
    ) -> dict[str, str] | None:
        """What is wrong with one timed call's outputs."""
        if outputs is None:
            return {"reason": "tampered", "sentence": "The outputs of a timed call that were to be kept are missing."}
        record = {"kernel": kernel, "problem": problem, "distribution": "normal", "seed": seed}
        reply = self._referee(record, self.crew.chosen.device.torch_name, outputs, redraw_seeds)
        if reply["status"] != "correct":
            reply["sentence"] = f"In a timed call: {reply['sentence']}"
        self._journal_check(record | reply, "timed")
        return None if reply["status"] == "correct" else {"reason": reply["reason"], "sentence": reply["sentence"]}

    def draw_seed(self, *what: str) -> int:
        """The seed of whatever is named so in this run."""
        digest = hashlib.sha256("/".join([str(self.seed), *what]).encode()).digest()
        return int.from_bytes(digest[:6], "big")


def ask_referee(crew: Crew, message: dict[str, Any], kernel: str, problem: str) -> dict[str, Any]:
    """The referee's reply. RunError where it gives none: it ran no kernel of anyone's."""
    reply = crew.request("referee", message, CASE_TIMEOUT_S)
    if reply["status"] == "failed":
        raise RunError(f"The referee could not judge {kernel} on {problem}. {reply['sentence']}")
    return reply


def problem_entry(problem: str) -> dict[str, Any]:
    """What a record says of a problem before anything is measured."""
    case = load_problem(problem)
    return {"family": case.family, "fields": case.field_values()}


def _scratch_parent(run_dir: Path) -> Path:
    """Memory, where there is enough of it; else the run's own folder."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and shutil.disk_usage(shm).free > 8 << 30 else run_dir
