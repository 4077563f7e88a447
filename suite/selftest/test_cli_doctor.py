"""What `kernelgate doctor` says of kernels, and of another package called `kernels`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from kernels.discover import KernelInfo
from suite.commands import doctor
from suite.device.detect import choose
from suite.device.doctor import KernelStatus
from suite.measure.crew import Crew
from suite.record.schema import Document
from suite.selftest.machines import EPYC, machine
from suite.selftest.toy_project import ToyProject, kernel

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def test_a_kernel_runs_where_it_runs_one_problem_of_its_tasks():
    problems = ["mla/decode-a", "mla/decode-b", "mla/prefill-a", "moe/decode-a"]
    no_task, no_gpu = "it does not solve the task", "no GPU"
    answer = {"status": "ran", "broken": {"mla/bad": "It cannot be loaded."}, "unsupported": {
        "mla/some": {"mla/decode-a": "too long", "mla/prefill-a": no_task},
        "mla/none": {"mla/decode-a": no_gpu, "mla/decode-b": no_gpu, "mla/prefill-a": no_task}}}  # fmt: skip
    names = ("mla/some", "mla/none", "mla/all", "mla/bad")
    known = (KernelInfo(name, "mla", "hand", ("decode",), False, "0" * 64) for name in names)
    found = {kernel.id: doctor._why_not(kernel, problems, answer) for kernel in known}
    assert found == {"mla/some": None, "mla/none": no_gpu, "mla/all": None, "mla/bad": "It cannot be loaded."}


class FakeCrew(Crew):
    """Answers like a worker on a CPU: only what is named runs, each on the device that is named."""

    def __init__(self, runs_on: dict[str, str]) -> None:
        super().__init__(PROJECT_ROOT, choose("cpu", machine()), PROJECT_ROOT / "no.log")
        self.runs_on = runs_on

    def request(self, role: str, message: Document, timeout_s: float, answer: object = None) -> Document:
        arch = message["device"]["arch"]
        why = {k: dict.fromkeys(message["problems"], f"not on {arch}") for k in message["kernels"]}
        return {"status": "ran", "broken": {}, "unsupported": {k: why[k] for k in why if self.runs_on.get(k) != arch}}


def test_triton_kernels_without_a_gpu_are_checked_in_the_interpreter_where_it_can():
    names = {"mla/torch": False, "mla/hopper": True, "mla/cdna": True, "mla/blackwell": True}
    known = {k: KernelInfo(k, "mla", "hand", ("decode",), triton, "0" * 64) for k, triton in names.items()}
    known["mla/bad"] = replace(known["mla/torch"], id="mla/bad", broken="It declares no usable KERNEL.")
    crew = FakeCrew({"mla/torch": "x86_64", "mla/hopper": "sm_90", "mla/cdna": "gfx942"})
    assert doctor._reasons(crew, known, ["mla/decode-a"]) == {
        "mla/torch": None,
        "mla/hopper": doctor.INTERPRETED,
        "mla/cdna": doctor.INTERPRETED,
        "mla/blackwell": "not on gfx942",
        "mla/bad": "It declares no usable KERNEL.",
    }


def test_a_worker_says_of_every_kernel_whether_it_can_run(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_smoke_problems", lambda root: ["toy/product-n512"])  # another tree's than this one
    missing = kernel("HAND").replace("run=run)", 'run=run, requires=("no_such_library",))')
    project = ToyProject.make(tmp_path / "toy", {"missing": missing})
    statuses, troubles = doctor._kernel_statuses(project.root, choose("cpu", machine()))
    assert troubles == []
    reasons = {status.kernel: status.reason for status in statuses}
    assert "no_such_library" in str(reasons.pop("toy/missing"))
    assert reasons == dict.fromkeys(("toy/reference", "toy/vendor", "toy/hand", "toy/gen"))


def test_doctor_says_where_the_kernels_could_not_be_asked(monkeypatch):
    dead = {"status": "failed", "reason": "crashed", "sentence": "Its process died of SIGSEGV."}
    monkeypatch.setattr(Crew, "request", lambda *args: dead)
    statuses, (sentence,) = doctor._kernel_statuses(PROJECT_ROOT, choose("cpu", machine()))
    assert statuses == []
    assert sentence.endswith("could not be asked what they can run. Its process died of SIGSEGV.")


def test_doctor_prints_the_page_of_what_a_worker_says(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "detect", machine)
    monkeypatch.setattr(
        doctor, "_kernel_statuses", lambda root, chosen: ([KernelStatus("mla/x", "hand", chosen.key)], ["So and so."])
    )
    assert doctor.run(PROJECT_ROOT) == 0
    out = capsys.readouterr().out
    assert f"mla/x  hand       cannot run: {EPYC.key}" in out
    assert "So and so." in out


def test_doctor_fails_where_nothing_can_be_used(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "detect", lambda: machine(torch=None))
    assert doctor.run(PROJECT_ROOT) == 1
    assert "No device can be used without PyTorch" in capsys.readouterr().out


def test_doctor_reports_a_foreign_package_called_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(PROJECT_ROOT)])
    assert list(doctor._foreign_kernels(PROJECT_ROOT)) == []
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(PROJECT_ROOT), str(tmp_path)])
    (sentence,) = doctor._foreign_kernels(PROJECT_ROOT)
    assert str(tmp_path / "kernels") in sentence


def test_another_package_called_kernels_ends_every_command(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(PROJECT_ROOT)!r}]\nimport kernels\n"
    code += "from suite.cli import main\nmain(['claims'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "finds another package of that name" in done.stderr
    assert "Traceback" not in done.stderr
