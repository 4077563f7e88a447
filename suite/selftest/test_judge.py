"""`kernelgate judge`: candidates of several forms brought into a tree, judged there, and filed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kernels.device import Device  # noqa: E402 - after the skip
from kernels.discover import load_problems  # noqa: E402
from kernels.mla.problem import MLADecode  # noqa: E402
from kernels.outside import BindingError, bound_function, bound_module  # noqa: E402
from kernels.problem import Tier  # noqa: E402
from suite.candidate.forms import Candidate, read_candidate  # noqa: E402
from suite.candidate.outcome import outcome_of  # noqa: E402
from suite.candidate.page import complaints, headline, page  # noqa: E402
from suite.record.schema import RecordError, load  # noqa: E402
from suite.selftest.toy_project import Outcome, ToyProject  # noqa: E402

CPU = Device("cpu", "x86_64", 2, 0, 1, None)
PROBLEM = MLADecode(batch=1, seq_len_q=1, seq_len_kv=4, num_heads=2, page_size=4)
HONEST = "def run(x, w):\n    return x @ w\n"
STALE = """
from ..kernel import Kernel, Origin

answers = []

def run(inputs, state):
    answers.append(inputs["x"] @ inputs["w"])
    return {"out": answers[0].clone()}

KERNEL = Kernel(origin=Origin.GENERATED, tasks=("product",), run=run)
"""


def read(tmp_path: Path, name: str, source: str, form: str = "") -> Candidate:
    path = tmp_path / name
    path.write_bytes(source.encode())
    return read_candidate(path, "mla", ("decode",), form)


@pytest.mark.parametrize(("written", "moved"), [
    ("from ..kernel import Kernel", "from ...kernel import Kernel"),
    ("from .problem import MLADecode", "from ..problem import MLADecode"),
    ("from . import _pages", "from .. import _pages"),
    ("from kernels.kernel import (\n    Kernel,\n)", "from ...kernel import (\n    Kernel,\n)"),
    ("from kernels.mla.problem import MLADecode", "from ..problem import MLADecode"),
    ("from ...kernel import Kernel", "from ...kernel import Kernel"),
    ("import torch", "import torch"),
    ("from torch import nn", "from torch import nn"),
    ('"""Pages."""\n\x0c\nfrom ..kernel import Kernel', '"""Pages."""\n\x0c\nfrom ...kernel import Kernel'),
    ("import os\r\nfrom ..kernel import Kernel", "import os\r\nfrom ...kernel import Kernel"),
])  # fmt: skip
def test_imports_of_the_project_are_moved_with_the_file(tmp_path: Path, written: str, moved: str) -> None:
    rest = "\nKERNEL = Kernel(origin=Origin.HAND, tasks=('decode',), run=print)\n"
    candidate = read(tmp_path, "My-Kernel v2.py", written + rest)
    assert candidate.files == {"kernels/mla/generated/my_kernel_v2.py": moved + rest}
    assert (candidate.form, candidate.kernel) == ("kernel", "mla/generated/my_kernel_v2")


@pytest.mark.parametrize(("name", "source", "form"), [
    ("a.py", "def run(q):\n    return q\n", "function"),
    ("a.py", "import triton\nrun = triton.jit\n", "function"),
    ("a.py", "from helpers import attend as run\n", "function"),
    ("a.py", "try:\n    import fast\nexcept ImportError:\n    run: object = print\n", "function"),
    ("problem.py", "def run(q):\n    return q\n", "function"),
    ("A.PY", "def run(q):\n    return q\n", "function"),
    ("a.py", "class ModelNew:\n    def forward(self, q):\n        return q\n", "kernelbench"),
    ("a.cu", "PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {}", "extension"),
])  # fmt: skip
def test_other_forms_are_kept_as_they_are_beside_a_file_that_declares_them(
    tmp_path: Path, name: str, source: str, form: str
) -> None:
    candidate = read(tmp_path, name, source)
    wrapper, kept = candidate.files.values()
    assert (candidate.form, kept) == (form, source)
    compile(wrapper, "wrapper", "exec")
    assert ("uses_triton=True" in wrapper) == ("triton" in source)


@pytest.mark.parametrize(("source", "said"), [
    ("x = 1\n", "defines neither KERNEL, nor a function run, nor a class ModelNew"),
    ("def run(:\n", "is no Python"),
    ("KERNEL = Kernel(origin=Origin.VENDOR, tasks=(), run=print)\n", "a candidate is Origin.GENERATED"),
    ("from .helpers import attend as run\n", r"line 1 imports \.helpers from beside it"),
    ("KERNEL = a()\nKERNEL = b()\n", "assigns KERNEL in lines 1, 2"),
])  # fmt: skip
def test_what_cannot_be_judged_is_refused_with_a_sentence(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        read(tmp_path, "a.py", source)


def test_a_byte_order_mark_is_no_part_of_the_source(tmp_path: Path) -> None:
    assert [*read(tmp_path, "a.py", f"\ufeff{HONEST}").files.values()][1] == HONEST


@pytest.mark.parametrize(("name", "data", "form", "said"), [
    ("a.txt", b"", "", r"a candidate is a \.py file"),
    ("a.py", b"# sch\xf6n\n", "", "byte 5 is no UTF-8"),
    ("a.py", HONEST.encode(), "kernelbench", "--form kernelbench needs ModelNew"),
    ("a.py", HONEST.encode(), "extension", r"is for files that end in \.cu"),
])  # fmt: skip
def test_a_file_that_is_not_what_it_is_called_is_refused(
    tmp_path: Path, name: str, data: bytes, form: str, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RecordError, match=said):
        read_candidate(tmp_path / name, "mla", ("decode",), form)


def test_what_a_function_supports_is_asked_of_its_file(tmp_path: Path) -> None:
    wrapper, _ = read(tmp_path, "a.py", f"{HONEST}\ndef supports(problem, device):\n    return None\n").files.values()
    assert "supports=source.supports)" in wrapper


def test_a_form_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="--form modelnew: a candidate's form is one of kernel, function"):
        read(tmp_path, "a.py", HONEST, "modelnew")


def test_arguments_are_bound_by_their_names() -> None:
    inputs = PROBLEM.make_inputs(1, "cpu")

    def run(kv_cache: Any, softmax_scale: float, q: Any, problem: MLADecode, missing: int = 3) -> Any:
        return q * softmax_scale, kv_cache.sum() + missing

    def whole(inputs: Any, device: Device) -> Any:
        return {"out": inputs["q"], "lse": device}

    outputs = bound_function(run, PROBLEM, CPU)(inputs)
    assert torch.equal(outputs["out"], inputs["q"] * PROBLEM.softmax_scale)
    assert torch.equal(outputs["lse"], inputs["kv_cache"].sum() + 3)
    assert bound_function(whole, PROBLEM, CPU)(inputs) == {"out": inputs["q"], "lse": CPU}
    assert bound_function(lambda q: q, PROBLEM, CPU)(inputs) == {"out": inputs["q"]}
    with pytest.raises(BindingError, match=r"takes keys, which is neither an input \(q, kv_cache"):
        bound_function(lambda keys: keys, PROBLEM, CPU)


def test_outputs_may_be_written_where_an_argument_names_them_and_returned_as_any_mapping() -> None:
    inputs = PROBLEM.make_inputs(1, "cpu")

    def writes(q: Any, out: Any, lse: Any = None) -> None:
        out.copy_(q[..., :512])
        lse.fill_(3)

    written = bound_function(writes, PROBLEM, CPU)(inputs)
    assert torch.equal(written["out"], inputs["q"][..., :512])
    assert [*written] == ["out", "lse"]
    mapping = bound_function(lambda q, out: OrderedDict(out=q), PROBLEM, CPU)(inputs)
    assert type(mapping) is dict
    assert mapping["out"] is inputs["q"]


def test_scripted_functions_are_bound_by_their_names() -> None:
    scripted = torch.jit.CompilationUnit("def run(softmax_scale: float, q):\n    return q * softmax_scale\n").run
    inputs = PROBLEM.make_inputs(1, "cpu")
    assert torch.equal(bound_function(scripted, PROBLEM, CPU)(inputs)["out"], inputs["q"] * PROBLEM.softmax_scale)


@pytest.mark.parametrize("returned", [None, (), {}, "caches"])
def test_caches_need_not_be_returned_and_may_be(returned: Any) -> None:
    problem = next(p for p in load_problems("kv")[0][Tier.SMOKE] if p.task == "append")
    inputs = problem.make_inputs(1, "cpu")
    given = (inputs["k_cache"], inputs["v_cache"]) if returned == "caches" else returned
    assert bound_function(lambda k_cache, v_cache: given, problem, CPU)(inputs) == {}


def test_without_names_inputs_are_passed_in_their_order() -> None:
    inputs = PROBLEM.make_inputs(1, "cpu")
    passed = bound_function(lambda *args: args[:2], PROBLEM, CPU)(inputs)
    assert passed == {"out": inputs["q"], "lse": inputs["kv_cache"]}


def test_a_module_is_made_from_the_fields_that_it_names() -> None:
    class ModelNew(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, num_heads: int, page_size: int = 0) -> None:
            super().__init__()
            self.sizes = num_heads, page_size

        def forward(self, q: Any, seq_lens: Any) -> Any:
            return q * self.sizes[0], seq_lens * self.sizes[1]

    inputs = PROBLEM.make_inputs(1, "cpu")
    outputs = bound_module(ModelNew, PROBLEM, CPU)(inputs)
    assert torch.equal(outputs["out"], inputs["q"] * 2)
    assert torch.equal(outputs["lse"], inputs["seq_lens"] * 4)


def check(status: str, reason: str = "correct") -> dict[str, Any]:
    return {"kernel": "mla/generated/a", "problem": "mla/p", "status": status, "reason": reason, "sentence": "So."}


def verdict(status: str, factor: float | None = None, interval: tuple[float, float] | None = None) -> dict[str, Any]:
    return check(status, "no_claim") | {"rival": "mla/b", "factor": factor, "interval": interval, "launches": 5}


def record(checks: list[dict[str, Any]], *verdicts: dict[str, Any]) -> dict[str, Any]:
    others = {"kernel": "mla/b", "problem": "mla/p", "status": "failed", "reason": "raised", "sentence": "Not its own."}
    problem = {"family": "mla", "fields": {"batch": 1}, "light_speed_us": 5.0}
    measured = {"problem": "mla/p", "times_us": {"mla/generated/a": [10.0], "mla/b": [20.0]}}
    launch = {"measurements": [measured], "failures": list[Any]()}
    return {"checks": [others, *checks], "verdicts": list(verdicts), "problems": {"mla/p": problem},
            "kernels": {"mla/generated/a": {"findings": []}}, "launches": [launch],
            "device": {"name": "a <b>"}, "tier": "ci", "run_id": "r"}  # fmt: skip


@pytest.mark.parametrize(("run", "status", "accepted"), [
    (record([check("correct"), check("incorrect", "wrong_output"), check("failed", "raised")]), "incorrect", False),
    (record([check("correct"), check("failed", "hung")], verdict("unclaimed", 2.0)), "failed", False),
    (record([check("correct")], verdict("incorrect", 2.0)), "incorrect", False),
    (record([check("correct"), check("skipped")], verdict("unclaimed", 2.0, (1.9, 2.1))), "measured", True),
    (record([check("correct")], verdict("skipped")), "correct", True),
    (record([check("skipped")]), "skipped", False),
    (record([]), "skipped", False),
])  # fmt: skip
def test_the_worst_that_was_seen_decides(run: dict[str, Any], status: str, accepted: bool) -> None:
    outcome = outcome_of(run, "mla/generated/a")
    assert (outcome.status, outcome.accepted) == (status, accepted)


def test_the_page_gives_each_problems_speedup_and_no_html() -> None:
    run = record([check("correct")], verdict("unclaimed", 2.0, (1.9, 2.1)))
    candidate = Candidate("a", "mla", ("decode",), "kernel", {})
    outcome = outcome_of(run, candidate.kernel)
    assert headline(candidate, outcome).endswith("over 1 problem: proven faster on 1, proven slower on 0.")
    text = page(candidate, outcome, run)
    assert "| b1 | 10.0 | `mla/b` | 20.0 | 2.000× | 1.900 – 2.100 | 5 | 50% |" in text
    assert "<b>" not in text


def test_a_rival_that_failed_beside_it_is_named() -> None:
    run = record([check("correct")], verdict("unclaimed", 2.0, (1.9, 2.1)))
    fault = {"kernel": "mla/c", "problem": "mla/p", "reason": "wrong_output", "sentence": "Output <out> is wrong."}
    run["launches"][0]["failures"] = [fault, fault | {"kernel": "mla/generated/a"}]
    outcome, candidate = outcome_of(run, "mla/generated/a"), Candidate("a", "mla", ("decode",), "kernel", {})
    assert outcome.accepted
    assert "Judged without mla/c, which failed beside it." in headline(candidate, outcome)
    assert "| `mla/c` | `mla/p` | Output &#60;out&#62; is wrong. |" in page(candidate, outcome, run)


def test_every_complaint_is_on_the_page_once_and_only_some_on_the_terminal() -> None:
    wrong = [check("incorrect", "wrong_output") | {"problem": f"mla/p{n}", "distribution": "flat"} for n in range(5)]
    run = record(
        [check("correct"), *wrong, wrong[0] | {"sentence": "<b>"}, wrong[0] | {"sentence": "mla/generated/a: So."}]
    )
    outcome, candidate = outcome_of(run, "mla/generated/a"), Candidate("a", "mla", ("decode",), "kernel", {})
    assert complaints(outcome, 2) == ["  mla/p1: So.", "  mla/p2: So.", "  and 3 more"]
    text = page(candidate, outcome, run)
    assert "1 check of outputs passed; what is listed here did not pass." in text
    assert text.count("| `mla/p0` | flat | incorrect (wrong_output) |") == 2
    assert "<b>" not in text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    made = ToyProject.make(tmp_path_factory.mktemp("judge"))
    conftest = made.root / "conftest.py"  # judged in another folder, where detected.json is not
    detected = str(made.root / "detected.json")
    conftest.write_text(
        conftest.read_text().replace('Path(__file__).with_name("detected.json")', f"Path({detected!r})")
    )
    return made


def judged(project: ToyProject, name: str, source: str, *arguments: str) -> Outcome:
    path = project.root / name
    path.write_text(source)
    command = [sys.executable, "-m", "suite.cli", "judge", str(path), "--family", "toy", "--gpu", "cpu", *arguments]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False, timeout=300)
    return Outcome(done.returncode, done.stdout + done.stderr)


def test_an_honest_function_is_accepted_timed_and_filed(project: ToyProject) -> None:
    outcome = judged(project, "mine.py", HONEST, "--run-dir", "runs/mine", "--out", "mine.md", "--add",
                     "--generator", "hand 1.0", "--license", "MIT")  # fmt: skip
    assert outcome.status == 0, outcome.text
    assert "toy/generated/mine: Accepted: correct." in outcome.text
    assert "## Speed" in (project.root / "mine.md").read_text()
    folder = project.root / "kernels/toy/generated"
    manifest = load(folder / "mine.json", "manifest")
    assert (manifest["measured"], manifest["license"], manifest["generator"]["version"]) == (True, "MIT", "1.0")
    assert (folder / "_mine.py").read_text() == HONEST
    assert json.loads((project.root / "detected.json").read_text())  # the project itself was left alone
    again = judged(project, "mine.py", HONEST + "# other\n", "--run-dir", "runs/again", "--add")
    assert again.status == 4
    assert "exists with another content" in again.text


def test_a_cheat_is_refused_for_its_reason_and_not_filed(project: ToyProject) -> None:
    outcome = judged(project, "stale.py", STALE, "--run-dir", "runs/stale", "--add")
    assert outcome.status == 1, outcome.text
    assert "toy/generated/stale: Refused: incorrect (" in outcome.text
    assert not (project.root / "kernels/toy/generated/stale.py").exists()


@pytest.mark.parametrize(("source", "arguments", "said"), [
    (HONEST, ["--task", "sum"], "--task sum: toy has the tasks product."),
    (HONEST, ["--tier", "huge"], "--tier huge: it is one of smoke, ci, full."),
    (HONEST, ["--out", "no/such/folder/a.md"], "--out no/such/folder/a.md: no file can be written there."),
    ("KERNEL = made()\n", [], "declares no usable KERNEL: missing argument 'origin'. Write it out"),
    ('KERNEL = Kernel(origin=Origin.HAND, tasks=("sum",), run=run)\n', [], "solves sum, but it is judged on product"),
])  # fmt: skip
def test_what_cannot_be_tried_is_said_at_once(
    project: ToyProject, source: str, arguments: list[str], said: str
) -> None:
    outcome = judged(project, "untried.py", source, *arguments)
    assert outcome.status == 4
    assert said in " ".join(outcome.text.split())
