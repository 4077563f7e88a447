"""A kernel that is written with the choices made by hand is the hand's kernel: same machine code, same bits."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.device import Device
from kernels.discover import discover, load_problems, load_spaces, problem_key
from kernels.problem import Tier
from suite.device.specs import spec_by_key
from suite.generate.emit import Subject, write
from suite.generate.evaluate import evaluate
from suite.generate.search import Budget, Search
from suite.generate.specialise import specialised
from suite.generate.table import Point, table_of
from suite.generate.trials import Result, Trials
from suite.measure.compile import COMPILING, PROJECT_ROOT, compile_all
from suite.measure.process import scrubbed_environment
from suite.measure.trial import copy_project
from suite.record.schema import RecordError, load

(SPACE,) = load_spaces("mla")
CI, SMOKE = ([p for p in load_problems("mla")[0][tier] if p.task in SPACE.tasks] for tier in (Tier.CI, Tier.SMOKE))
ALLOWED = {"kernel", "problem", "device"}
TIMEOUT_S = 120.0
OF_THE_SOURCE = {"constexprs", "types", "binary_sha256"}
"""What a launch says beyond its machine code's figures; binaries may name their source."""

SAME_BITS = """
import json, sys, torch
from kernels.device import Device
from kernels.discover import load_kernel, load_problem
from suite.measure.interpreter import mend
mend()
device, problem = Device(**json.loads(sys.argv[1])), load_problem(sys.argv[2])
inputs = problem.cut().make_inputs(3, "cpu")
for name in ("mla/triton_split_kv", "mla/generated/written"):
    kernel = load_kernel(name)
    outputs = kernel.run(inputs, kernel.plan(problem.cut(), {}, device))
    torch.save(outputs, name.replace("/", "_") + ".pt")
first, second = (torch.load(n) for n in ("mla_triton_split_kv.pt", "mla_generated_written.pt"))
assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
assert first["out"].isfinite().all() and first["out"].abs().sum() > 0
print("same")
"""


def by_hand(device: Device):
    able = [p for p in CI if not p.unsupported_by(device)]
    points = [Point(SPACE.facts(p), SPACE.by_hand(p, device), 1.0) for p in able]
    return table_of(points, SPACE.by_hand(able[0], device))


def tree_with(root: Path, key: str) -> tuple[Path, str, Device]:
    device = spec_by_key(key).device()
    rows = by_hand(device)
    text = specialised(PROJECT_ROOT / "kernels/mla", SPACE, rows, device, "written.json")
    folder = "kernels/mla/generated"
    files = {f"{folder}/written.py": text, f"{folder}/written.json": json.dumps({"dispatch": rows})}
    return copy_project(root, files), text, device


@pytest.fixture(scope="module")
def gfx942(tmp_path_factory):
    return tree_with(tmp_path_factory.mktemp("gfx942") / "tree", "mi300x")


@pytest.fixture(scope="module")
def sm_90(tmp_path_factory):
    return tree_with(tmp_path_factory.mktemp("sm_90") / "tree", "h200")


def test_it_compiles_to_the_same_machine_code(gfx942):
    pytest.importorskip("triton", reason="there is no compiler without it")
    root, _, device = gfx942
    problem = problem_key(CI[0])
    cases = [("mla/triton_split_kv", problem), ("mla/generated/written", problem)]
    results = {r.kernel: r for r in compile_all(cases, device, 1, TIMEOUT_S, root=root)}
    assert [r.status for r in results.values()] == ["compiled", "compiled"]
    first, second = ([{k: v for k, v in launch.items() if k not in OF_THE_SOURCE} for launch in results[k].launches]
                     for k, _ in cases)  # fmt: skip
    assert first == second
    assert len(first) == 2


@pytest.mark.parametrize("target", ["gfx942", "sm_90"])
def test_it_computes_the_same_bits(target, request, tmp_path):
    pytest.importorskip("triton", reason="there is no interpreter without it")
    root, _, device = request.getfixturevalue(target)
    problem = load_problems("mla")[1][0]
    environment = scrubbed_environment(root) | COMPILING | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", SAME_BITS, json.dumps(vars(device) | {"num_sms": 4}), problem_key(problem)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr


def test_what_the_architecture_lacks_is_gone(gfx942, sm_90):
    for gone in ("gluon", "hopper", "gdc_wait", "dependent", "launch_pdl", "LATENT", "device.kind =="):
        assert gone not in gfx942[1], gone
    for there in ("gluon", "gdc_wait", "decode_hopper[", "_decode["):
        assert there in sm_90[1], there
    assert "waves_per_eu" not in sm_90[1]


def test_it_reads_well(gfx942):
    _, text, _ = gfx942
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    for kept in (
        "# of the scores in base 2",
        "# Slot 0 of a part",
        '"""Rows of block `index`',
        "stale tokens may hold",
    ):
        assert kept in text, kept
    for option in (["check", "-"], ["format", "--check", "-"]):
        name = str(PROJECT_ROOT / "kernels/mla/generated/written.py")
        command = [sys.executable, "-m", "ruff", *option, "--stdin-filename", name]
        done = subprocess.run(command, input=text, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_stands_by_itself(gfx942):
    root, text, _ = gfx942
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 3 or node.module == "problem"
            assert node.module in ALLOWED
    found = discover(root)["mla/generated/written"]
    assert (found.origin, found.tasks, found.uses_triton, found.broken) == ("generated", ("decode",), True, None)


def test_a_changed_table_is_another_kernel(gfx942):
    root, _, _ = gfx942
    manifest = root / "kernels/mla/generated/written.json"
    before = discover(root)["mla/generated/written"].sha256
    text = manifest.read_text()
    try:
        manifest.write_text(text.replace('"block_h": 16', '"block_h": 32'))
        assert discover(root)["mla/generated/written"].sha256 != before
    finally:
        manifest.write_text(text)


def test_one_choice_for_all_leaves_no_table():
    device = spec_by_key("mi300x").device()
    rows = [{"when": {}, "use": SPACE.by_hand(CI[0], device)}]
    text = specialised(PROJECT_ROOT / "kernels/mla", SPACE, rows, device, "x.json")
    for gone in ("json", "_matches", "class Tile", "def facts", "BLOCK_H: tl.constexpr"):
        assert gone not in text.partition('"""\n\n')[2], gone
    assert "tl.arange(0, 16)" in text


def subject_of(root: Path) -> Subject:
    return Subject(root, "mla", SPACE, spec_by_key("mi300x"), CI[:2], CI[:2], 7)


def trials_in(folder: Path, *scores: float | None) -> Trials:
    trials = Trials(folder, {}, resume=False)
    device = spec_by_key("mi300x").device()
    for problem, score in zip(CI[:2], scores, strict=True):
        status, reason = ("failed", "hung") if score is None else ("ranked", "")
        trials.add(Result(problem_key(problem), SPACE.by_hand(problem, device), status, score, reason, elapsed_s=2.5))
    return trials


def test_a_file_and_its_manifest(gfx942, tmp_path):
    root, _, _ = gfx942
    trials = trials_in(tmp_path, 3.0, None)
    path, document = write(subject_of(root), trials)
    written = path.read_text(), path.with_suffix(".json").read_text()
    assert path.name == "mi300x_decode_split_kv.py"
    assert load(path.with_suffix(".json"), "manifest") == document
    assert document["measured"] is False
    assert document["trials"] == {"tried": 2, "failed": 1, "failures": {"hung": 1}}
    assert (document["seed"], document["devices"], document["parents"]) == (7, ["mi300x"], ["mla/triton_split_kv"])
    assert document["dispatch"][-1]["when"] == {}
    again, _ = write(subject_of(root), trials)
    assert (again.read_text(), again.with_suffix(".json").read_text()) == written
    trials.close()
    path.with_suffix(".json").write_text(json.dumps(document | {"measured": True}))
    with pytest.raises(RecordError, match="was measured"):
        write(subject_of(root), trials)


def test_nothing_is_written_where_nothing_compiled(tmp_path):
    trials = trials_in(tmp_path, None, None)
    trials.close()
    with pytest.raises(RecordError, match="Not one choice"):
        write(subject_of(tmp_path), trials)


def test_a_real_trial_from_choice_to_estimate(tmp_path):
    """Through the worker, the compiler and the model; on a problem that compiles fast."""
    pytest.importorskip("triton", reason="there is no compiler without it")
    pytest.importorskip("optuna", reason="the extra `generate` brings it")
    from suite.generate.evaluate import executor

    trials = Trials(tmp_path, {}, resume=False)
    with executor(1) as threads:
        search = Search(SPACE, "mla", spec_by_key("mi300x"), SMOKE[:1], 0, trials, evaluate=evaluate)
        search.run(threads, Budget(TIMEOUT_S, 1))
    (result,) = trials.results.values()
    assert (result.status, result.sentence) == ("ranked", "")
    assert result.score_us is not None
    assert [launch["function"] for launch in result.figures["launches"]] == ["_decode", "_combine"]
    assert result.figures["launches"][0]["matrix_instructions"]["mfma"] > 0
    trials.close()
