"""A kernel that is written with the choices made by hand is the hand's kernel: same machine code, same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernels.discover import KernelInfo, discover, load_problems, load_spaces, problem_key
from kernels.problem import Tier
from suite.device.specs import spec_by_key
from suite.generate.emit import Subject, write
from suite.generate.evaluate import evaluate
from suite.generate.search import Budget, Search
from suite.generate.specialise import specialised
from suite.generate.trials import Result, Trials
from suite.measure.compile import PROJECT_ROOT, compile_all
from suite.measure.trial import copy_project
from suite.record.schema import RecordError, load
from suite.selftest.written_files import SAME_BITS, Written, check_imports, check_layout, interpreted, written

(SPACE,) = load_spaces("mla")
CI, SMOKE = ([p for p in load_problems("mla")[0][tier] if p.task in SPACE.tasks] for tier in (Tier.CI, Tier.SMOKE))
TIMEOUT_S = 120.0
OF_THE_SOURCE = {"constexprs", "types", "binary_sha256"}
"""What a launch says beyond its machine code's figures; binaries may name their source."""


@pytest.fixture(scope="module")
def gfx942() -> Written:
    return written("mla/triton_split_kv", "mi300x")


@pytest.fixture(scope="module")
def sm_90() -> Written:
    return written("mla/triton_split_kv", "h200")


@pytest.fixture(scope="module")
def tree(gfx942, sm_90, tmp_path_factory) -> Path:
    return copy_project(tmp_path_factory.mktemp("written") / "tree", gfx942.files | sm_90.files)


@pytest.fixture(scope="module")
def found(gfx942, tree) -> KernelInfo:
    return discover(tree)[f"mla/generated/{gfx942.name}"]


def test_it_compiles_to_the_same_machine_code(gfx942, tree):
    pytest.importorskip("triton", reason="there is no compiler without it")
    problem = problem_key(CI[0])
    cases = [("mla/triton_split_kv", problem), (f"mla/generated/{gfx942.name}", problem)]
    results = {r.kernel: r for r in compile_all(cases, gfx942.device, 1, TIMEOUT_S, root=tree)}
    assert [r.status for r in results.values()] == ["compiled", "compiled"]
    first, second = ([{k: v for k, v in launch.items() if k not in OF_THE_SOURCE} for launch in results[k].launches]
                     for k, _ in cases)  # fmt: skip
    assert first == second
    assert len(first) == 2


def test_it_computes_the_same_bits(gfx942, sm_90, tree, tmp_path):
    pytest.importorskip("triton", reason="there is no interpreter without it")
    problem = load_problems("mla")[1][0]
    work = [file.beside_the_hand(problem, 4, cut=True) for file in (gfx942, sm_90)]
    interpreted({SAME_BITS: work}, tmp_path, tree)


def test_what_the_architecture_lacks_is_gone(gfx942, sm_90):
    for gone in ("gluon", "hopper", "gdc_wait", "dependent", "launch_pdl", "LATENT", "device.kind =="):
        assert gone not in gfx942.text, gone
    for there in ("gluon", "gdc_wait", "decode_hopper[", "_decode["):
        assert there in sm_90.text, there
    assert "waves_per_eu" not in sm_90.text


def test_it_reads_well(gfx942):
    assert gfx942.text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    for kept in (
        "# of the scores in base 2",
        "# Slot 0 of a part",
        '"""Rows of block `index`',
        "stale tokens may hold",
    ):
        assert kept in gfx942.text, kept
    check_layout(gfx942.text, "mla")


def test_it_stands_by_itself(gfx942, found):
    check_imports(gfx942.text)
    assert (found.origin, found.tasks, found.uses_triton, found.broken) == ("generated", ("decode",), True, None)


def test_a_changed_table_is_another_kernel(gfx942, found, tree):
    name = f"mla/generated/{gfx942.name}"
    manifest = tree / f"kernels/{name}.json"
    text = manifest.read_text()
    try:
        manifest.write_text(text.replace('"block_h": 16', '"block_h": 32'))
        assert discover(tree)[name].sha256 != found.sha256
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
        trials.add([Result(problem_key(problem), SPACE.by_hand(problem, device), status, score, reason, elapsed_s=2.5)])
    return trials


def test_a_file_and_its_manifest(tree, tmp_path):
    trials = trials_in(tmp_path, 3.0, None)
    path, document = write(subject_of(tree), trials)
    written = path.read_text(), path.with_suffix(".json").read_text()
    assert path.name == "mi300x_decode_split_kv.py"
    assert load(path.with_suffix(".json"), "manifest") == document
    assert document["measured"] is False
    assert document["trials"] == {"tried": 2, "failed": 1, "failures": {"hung": 1}}
    assert (document["seed"], document["devices"], document["parents"]) == (7, ["mi300x"], ["mla/triton_split_kv"])
    assert document["dispatch"][-1]["when"] == {}
    again, _ = write(subject_of(tree), trials)
    assert (again.read_text(), again.with_suffix(".json").read_text()) == written
    trials.close()
    path.with_suffix(".json").write_text(json.dumps(document | {"measured": True}))
    with pytest.raises(RecordError, match="was measured"):
        write(subject_of(tree), trials)


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
        search.begin(threads, Budget(TIMEOUT_S, 1))
        search.run()
    (result,) = trials.results.values()
    assert (result.status, result.sentence) == ("ranked", "")
    assert result.score_us is not None
    assert [launch["function"] for launch in result.figures["launches"]] == ["_decode", "_combine"]
    assert result.figures["launches"][0]["matrix_instructions"]["mfma"] > 0
    trials.close()
