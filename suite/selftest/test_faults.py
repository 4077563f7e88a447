"""Every fault that a kernel can have costs its own case only, and is told in a sentence: one run of the toy project."""

from __future__ import annotations

from typing import Any

import pytest

from suite.judge.verdict import Reason
from suite.selftest.toy_project import Outcome, ToyProject, faulty, kernel

RIGHT = 'return {"out": inputs["x"] @ inputs["w"]}'
TIMED = "calls = [0]"
"""Checks call a kernel once in a process, launches many times."""
IF_TIMED = "calls[0] += 1\nif calls[0] > 9:\n    "

# Name -> source, status, reason, and words that its sentence must hold.
FAULTS: dict[str, tuple[str, str, str, str]] = {
    "raises": (faulty('raise ValueError("no such tile")'), "failed", "raised", "ValueError: no such tile"),
    "wrong_value": (faulty('return {"out": 1.1 * (inputs["x"] @ inputs["w"])}'),
                    "incorrect", "wrong_output", "out of tolerance, worst at"),
    "wrong_shape": (faulty('return {"out": (inputs["x"] @ inputs["w"])[:-1].clone()}'),
                    "incorrect", "wrong_form", "is float32[511, 512]; it must be float32[512, 512]"),
    "wrong_dtype": (faulty('return {"out": (inputs["x"] @ inputs["w"]).bfloat16()}'),
                    "incorrect", "wrong_form", "is bfloat16[512, 512]; it must be float32[512, 512]"),
    "other_output": (faulty('return {"result": inputs["x"] @ inputs["w"]}'),
                     "incorrect", "wrong_form", "returned no output out; it returned result"),
    "a_list": (faulty('return [inputs["x"] @ inputs["w"]]'), "failed", "raised", "must return a dict of tensors"),
    "view": (faulty('return {"out": inputs["x"].view(256, 512)}'),
             "incorrect", "wrong_form", "share memory: out with x"),
    "expanded": (faulty('return {"out": torch.zeros(1, 512).expand(512, 512)}'),
                 "incorrect", "wrong_form", "elements that share memory"),
    "writes_input": (faulty('out = inputs["x"] @ inputs["w"]\ninputs["w"].mul_(2)\nreturn {"out": out}'),
                     "incorrect", "inputs_changed", "It changed its inputs: w."),
    "unwritten": (faulty('return {"out": torch.empty(512, 512)}'),
                  "incorrect", "wrong_output", "262144 of 262144 elements are out of tolerance"),
    "segfault": (faulty("ctypes.string_at(0)"), "failed", "crashed", "died of SIGSEGV."),
    "os_exit": (faulty('os.write(2, b"bye\\x1b[31m\\n")\nos._exit(0)'),
                "failed", "crashed", "exited with status 0. Its last words: bye[31m"),
    "sys_exit": (faulty('sys.exit("done here")'), "failed", "raised", "SystemExit: done here"),
    "loops": (faulty("while True:\n    time.sleep(0.01)"), "failed", "hung", "did not finish within 3 s"),
    "memory": (faulty('return {"out": torch.empty(1 << 50)}'), "failed", "out_of_memory", "ran out of memory"),
    "syntax": ("def run(:\n", "failed", "raised", "kernels/toy/syntax.py declares no usable KERNEL: invalid syntax"),
    "no_kernel": ("import torch\n", "failed", "raised", "the module has no top-level `KERNEL = Kernel(...)`"),
    "import_error": (faulty(RIGHT, before="import not_there"), "failed", "raised", "No module named 'not_there'"),
    "import_exits": (faulty(RIGHT, before="os._exit(3)"), "failed", "crashed", "It cannot be loaded. Its process exi"),
    "import_loops": (faulty(RIGHT, before="time.sleep(1000)"), "failed", "hung", "did not finish within 3 s"),
    "requires": (faulty(RIGHT, arguments=', requires=("not_there",)'),
                 "skipped", "not_supported", "module not_there cannot be imported"),
    "late_wrong": (faulty('calls[0] += 1\nreturn {"out": (inputs["x"] @ inputs["w"]) * (1 + calls[0] // 8)}',
                          before=TIMED), "incorrect", "wrong_output", "In a timed call: Output out is wrong"),
    "late_raises": (faulty(f'{IF_TIMED}raise RuntimeError("tired")\n{RIGHT}', before=TIMED),
                    "failed", "raised", "RuntimeError: tired"),
    "late_crash": (faulty(f"{IF_TIMED}ctypes.string_at(0)\n{RIGHT}", before=TIMED),
                   "failed", "crashed", "died of SIGSEGV"),
    "late_writes": (faulty(f'{IF_TIMED}inputs["w"].zero_()\n{RIGHT}', before=TIMED),
                    "incorrect", "inputs_changed", "In timed calls its inputs were changed: w"),
    "vendor_wrong": (kernel("VENDOR").replace('inputs["x"] @', '0.5 * inputs["x"] @'),
                     "incorrect", "wrong_output", "out of tolerance"),
}  # fmt: skip
PRINTS = faulty(
    f'print(\'{{"status": "ran"}}\', flush=True)\nos.write(1, b"\\x00\\xff garbage\\n")\n{RIGHT}', before="print('[')"
)
SOUND = ("toy/gen", "toy/hand", "toy/prints", "toy/vendor")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    sources = {name: fault[0] for name, fault in FAULTS.items()} | {"prints": PRINTS}
    return ToyProject.make(tmp_path_factory.mktemp("faults"), sources)


@pytest.fixture(scope="module")
def outcome(project: ToyProject) -> Outcome:
    return project.pytest("-m", "toy", "--run-dir", "runs/all")


@pytest.fixture(scope="module")
def run(project: ToyProject, outcome: Outcome) -> dict[str, Any]:
    return project.run("all")


def test_the_run_ends_red_with_no_traceback_and_no_process_left(project: ToyProject, outcome: Outcome) -> None:
    assert outcome.status == 1, outcome.text
    assert "Traceback" not in outcome.text
    assert "INTERNALERROR" not in outcome.text
    assert "suite/bench.py" not in outcome.text
    assert project.worker_pids() == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_in_a_sentence(name: str, run: dict[str, Any], outcome: Outcome) -> None:
    _, status, reason, words = FAULTS[name]
    verdict = next(v for v in run["verdicts"] if v["kernel"] == f"toy/{name}")
    assert (verdict["status"], verdict["reason"]) == (status, reason), verdict
    assert Reason(reason)
    assert words in verdict["sentence"]
    assert verdict["sentence"].isprintable()
    if name not in ("requires", "vendor_wrong"):
        assert f"FAILED suite/test_speedup.py::test_speedup[toy/{name}-product-n512]" in outcome.text


@pytest.mark.parametrize("name", [name for name in FAULTS if not name.startswith("late")])
def test_what_is_wrong_is_never_timed(name: str, run: dict[str, Any]) -> None:
    assert not any(f"toy/{name}" in m["times_us"] for launch in run["launches"] for m in launch["measurements"])


@pytest.mark.parametrize("name", SOUND)
def test_the_other_kernels_are_measured_in_every_launch(name: str, run: dict[str, Any]) -> None:
    assert [check["status"] for check in run["checks"] if check["kernel"] == name and check["stage"] == "timed"]
    assert all(check["status"] == "correct" for check in run["checks"] if check["kernel"] == name)
    assert len(run["launches"]) == 2
    for launch in run["launches"]:
        (measurement,) = launch["measurements"]
        assert len(measurement["times_us"][name]) >= 10
    verdict = next(v for v in run["verdicts"] if v["kernel"] == name)
    assert (verdict["status"], verdict["launches"]) == ("unclaimed", 2)


def test_a_wrong_library_is_reported_and_is_not_red(run: dict[str, Any], outcome: Outcome) -> None:
    assert "2 xfailed" in outcome.text
    assert not any(v["rival"] == "toy/vendor_wrong" for v in run["verdicts"])
