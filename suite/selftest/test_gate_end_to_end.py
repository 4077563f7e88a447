"""Exit status and words of the gate, run as a user runs it: claims, options, bad baselines, a base."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from suite.selftest.toy_project import Outcome, ToyProject, kernel

PROBLEM = "toy/product-n512"
GONE = "product-n9"
WRONG = kernel("HAND").replace('inputs["x"] @', '1.1 * inputs["x"] @')


def verdict_of(run: dict[str, Any], name: str, rival: str | None, problem: str = PROBLEM) -> dict[str, Any]:
    (found,) = [v for v in run["verdicts"] if (v["kernel"], v["problem"]) == (name, problem)
                and rival in (None, v["rival"])]  # fmt: skip
    return dict(found)


@pytest.fixture(scope="module")
def claimed(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    """hand is 2x as fast as vendor, and 1.2x is claimed of it; gen is 1.33x, and 3x is claimed."""
    project = ToyProject.make(tmp_path_factory.mktemp("claimed"), k_min=5)
    project.write_claims(
        ("toy/hand", "toy/vendor", PROBLEM, 1.2),
        ("toy/gen", "toy/vendor", PROBLEM, 3.0),
        ("toy/gone", "toy/vendor", PROBLEM, 1.5),
        ("toy/hand", "toy/gone", PROBLEM, 1.5),
        ("toy/hand", "toy/vendor", f"toy/{GONE}", 1.5),
    )
    project.write_claims(("old/hand", "old/vendor", "old/product-n1", 1.5))
    return project


@pytest.fixture(scope="module")
def first(claimed: ToyProject) -> Outcome:
    return claimed.pytest("--run-dir", "runs/first", "--benchmark-json", "first.json")


def test_a_regressed_claim_is_red_by_name_factor_and_interval(claimed: ToyProject, first: Outcome) -> None:
    assert first.status == 1, first.text
    assert "Traceback" not in first.text
    verdict = verdict_of(claimed.run("first"), "toy/gen", "toy/vendor")
    assert (verdict["status"], verdict["reason"]) == ("regressed", "slower_than_claim")
    low, high = verdict["interval"]
    assert low < verdict["factor"] < high < 3
    for words in (f"toy/gen is {verdict['factor']:.3f}x as fast as toy/vendor", "the claim is 3.000x: regressed by",
                  f"95% interval {low:.3f}x to {high:.3f}x"):  # fmt: skip
        assert words in verdict["sentence"]
    assert verdict["sentence"] in first.text
    assert "pytest --gpu cpu --tier smoke 'suite/test_speedup.py::test_speedup[toy/gen-over-toy/vendor-" in first.text


def test_the_claim_beside_it_holds(claimed: ToyProject, first: Outcome) -> None:
    verdict = verdict_of(claimed.run("first"), "toy/hand", "toy/vendor")
    assert (verdict["status"], verdict["reason"]) == ("holds", "meets_claim")
    assert verdict["launches"] >= 5
    assert "FAILED suite/test_speedup.py::test_speedup[toy/hand-over-toy/vendor-product-n512]" not in first.text


@pytest.mark.parametrize(("test", "words"), [
    ("toy/gone-over-toy/vendor-product-n512", "The claim's kernel toy/gone no longer exists in kernels/"),
    ("toy/hand-over-toy/gone-product-n512", "The claim's rival toy/gone no longer exists in kernels/"),
    (f"toy/hand-over-toy/vendor-{GONE}", f"The claim's problem toy/{GONE} is no longer in the sweep"),
    ("old/hand-over-old/vendor-product-n1", "The claim's kernel old/hand no longer exists in kernels/"),
])  # fmt: skip
def test_a_claim_on_what_is_gone_is_red(test: str, words: str, first: Outcome) -> None:
    assert f"FAILED suite/test_speedup.py::test_speedup[{test}]" in first.text
    assert words in first.text


def test_device_seconds_reach_pytest_benchmark(claimed: ToyProject, first: Outcome) -> None:
    saved = json.loads((claimed.root / "first.json").read_text())
    times_s = next(b["stats"]["data"] for b in saved["benchmarks"] if "[toy/vendor-product" in b["name"])
    measured = [m["times_us"]["toy/vendor"] for launch in claimed.run("first")["launches"]
                for m in launch["measurements"]]  # fmt: skip
    assert times_s == pytest.approx([time_us / 1e6 for times_us in measured for time_us in times_us])
    assert len(times_s) >= 50
    assert saved["machine_info"]["kernelgate_device"]["key"] == claimed.run("first")["device"]["key"]
    command = str(Path(sys.executable).with_name("pytest-benchmark"))
    compare = [command, "compare", "first.json", "--columns=median"]
    done = subprocess.run(compare, cwd=claimed.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "toy/gen-over-toy/vendor-product-n512" in done.stdout


def test_no_gate_is_never_red_and_evidence_is_added_to(claimed: ToyProject, first: Outcome) -> None:
    again = claimed.pytest("--no-gate", "--run-dir", "runs/again", "-k", "gen-over")
    assert again.status == 0, again.text
    verdict = verdict_of(claimed.run("again"), "toy/gen", "toy/vendor")
    before = verdict_of(claimed.run("first"), "toy/gen", "toy/vendor")
    assert verdict["status"] == "regressed"
    assert verdict["launches"] >= before["launches"]
    assert verdict["sentence"] in " ".join(again.text.split())


def test_what_holds_is_green_also_with_benchmark_only(claimed: ToyProject, first: Outcome) -> None:
    one = "suite/test_speedup.py::test_speedup[toy/hand-over-toy/vendor-product-n512]"
    outcome = claimed.pytest("--benchmark-only", "--run-dir", "runs/one", one)
    assert outcome.status == 0, outcome.text
    assert verdict_of(claimed.run("one"), "toy/hand", "toy/vendor")["status"] == "holds"


def test_inconclusive_is_red_under_strict_only(claimed: ToyProject, tmp_path: Path) -> None:
    project = ToyProject.make(tmp_path / "p", k_min=5)
    project.write_claims(("toy/hand", "toy/vendor", PROBLEM, 1.9))
    one = ("suite/test_speedup.py", "-k", "over", "--launches", "1")
    green = project.pytest("--run-dir", "runs/green", *one)
    assert green.status == 0, green.text
    assert "1 inconclusive" in green.text
    red = project.pytest("--strict", "--run-dir", "runs/red", *one)
    assert red.status == 1, red.text
    verdict = verdict_of(project.run("red"), "toy/hand", "toy/vendor")
    assert (verdict["status"], verdict["reason"], verdict["launches"]) == ("inconclusive", "too_few_launches", 2)
    assert "inconclusive, 3 more launches must be measured at least" in red.text


# What never gets to measuring.


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    return ToyProject.make(tmp_path_factory.mktemp("plain"), {"wrong": WRONG})


@pytest.mark.parametrize(("arguments", "words"), [
    (("--gpu", "mi300x"), ("no AMD Instinct MI300X is here", "Run with --gpu cpu", "add --compile-only")),
    (("--gpu", "h2000"), ("h2000",)),
    (("--launches", "0"), ("--launches 0: name 1 or more",)),
    (("--benchmark-skip",), ("--benchmark-skip would leave every claim unjudged",)),
    (("--base", "no-such-ref"), ("git says: fatal: not a git repository",)),
    (("--base", ""), ("--base : git",)),
    (("--setup-plan",), ("would leave every claim unjudged",)),
    (("-p", "no:benchmark"), ("pytest-benchmark, which is not here or switched off",)),
    (("--resume", "runs/none"), ("--resume runs/none: there is no such folder",)),
    (("--run-dir", "pyproject.toml/run"), ("pyproject.toml/run/journal.jsonl: cannot be opened",)),
])  # fmt: skip
def test_a_usage_error_is_a_sentence_and_exit_4(
    arguments: tuple[str, ...], words: tuple[str, ...], plain: ToyProject
) -> None:
    outcome = plain.pytest(*arguments)
    assert outcome.status == 4, outcome.text
    assert all(word in outcome.text for word in words), outcome.text
    assert "Traceback" not in outcome.text
    assert "INTERNALERROR" not in outcome.text


def test_collect_only_lists_and_measures_nothing(plain: ToyProject) -> None:
    outcome = plain.pytest("--collect-only", "-q", "--run-dir", "runs/collected")
    assert outcome.status == 0, outcome.text
    assert "suite/test_correctness.py::test_correctness[toy/hand-product-n512]" in outcome.text
    assert "suite/test_speedup.py::test_speedup[toy/hand-product-n512]" in outcome.text
    assert not (plain.root / "runs/collected").exists()


def test_x_stops_at_a_wrong_kernel_before_anything_is_measured(plain: ToyProject) -> None:
    outcome = plain.pytest("-x", "--run-dir", "runs/x")
    assert outcome.status == 1, outcome.text
    assert "stopping after 1 failures" in outcome.text
    run = plain.run("x")
    assert {c["kernel"]: c["status"] for c in run["checks"]}["toy/wrong"] == "incorrect"
    assert run["launches"] == run["verdicts"] == []
    assert run["exit_status"] == 1
    again = plain.pytest("--run-dir", "runs/x")
    assert again.status == 4
    assert "a run was recorded here" in again.text


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda text: text.replace('"factor"', '"facter"'), "facter"),
    (lambda text: text[: len(text) // 2], "toy.json"),
    (lambda text: text.replace('"key": "cpu-', '"key": "other-'), "but the file lies where"),
])  # fmt: skip
def test_a_spoiled_baseline_is_refused(spoil: Any, words: str, plain: ToyProject) -> None:
    path = plain.write_claims(("toy/hand", "toy/vendor", PROBLEM, 1.2))
    path.write_text(spoil(path.read_text()))
    outcome = plain.pytest()
    path.unlink()
    assert outcome.status == 4, outcome.text
    assert str(path) in outcome.text
    assert words in outcome.text
    assert "Traceback" not in outcome.text


def test_a_family_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    project = ToyProject.make(tmp_path / "p")
    (project.root / "kernels/toy/problem.py").write_text("import not_there\n")
    outcome = project.pytest()
    assert outcome.status == 4, outcome.text
    assert "kernels/toy/problem.py cannot be used. ModuleNotFoundError: No module" in outcome.text
    assert "No module named 'not_there'" in outcome.text
    assert "INTERNALERROR" not in outcome.text


# Head against base.


def test_slower_than_base_is_red_while_nothing_is_claimed(tmp_path: Path) -> None:
    project = ToyProject.make(tmp_path / "p", {"told": kernel("HAND", 2), "mended": WRONG})
    project.git("init", "-q")
    project.git("add", "kernels", "suite")
    project.git("commit", "-q", "-m", "base")
    project.write_kernel("gen", kernel("GENERATED", 6))
    project.write_kernel("mended", kernel("HAND", 2))
    project.write_kernel("told", f'"""Another docstring."""\n# and a comment\n{kernel("HAND", 2)}')
    outcome = project.pytest("--base", "HEAD", "--run-dir", "runs/base", "suite/test_speedup.py", "-k", "over-base")
    assert outcome.status == 1, outcome.text
    run = project.run("base")
    slowed = verdict_of(run, "toy/gen", "base:toy/gen")
    assert (slowed["status"], slowed["reason"]) == ("regressed", "slower_than_base")
    assert 0.3 < slowed["factor"] < 0.8
    assert slowed["sentence"] in outcome.text
    for name in ("hand", "told"):
        verdict = verdict_of(run, f"toy/{name}", f"base:toy/{name}")
        assert (verdict["status"], verdict["reason"]) == ("holds", "unchanged")
    mended = verdict_of(run, "toy/mended", "base:toy/mended")
    assert (mended["status"], mended["reason"]) == ("skipped", "not_measured")
    assert "so nothing can be slower: base:toy/mended: Output out is wrong" in mended["sentence"]
    timed = {k for launch in run["launches"] for m in launch["measurements"] for k in m["times_us"]}
    assert timed == {"toy/gen", "base:toy/gen"}
    assert outcome.text.count("FAILED") == 1


def test_a_change_is_judged_by_the_claims_of_its_base(tmp_path: Path) -> None:
    project = ToyProject.make(tmp_path / "p")
    baseline = project.write_claims(("toy/hand", "toy/vendor", PROBLEM, 1.5))
    project.git("init", "-q")
    project.git("add", "kernels", "suite", "baselines")
    project.git("commit", "-q", "-m", "base")
    baseline.unlink()
    listing = ("--collect-only", "-q", "suite/test_speedup.py", "-k", "toy/hand")
    assert "toy/hand-over-toy/vendor" not in project.pytest(*listing).text
    assert "toy/hand-over-toy/vendor" in project.pytest(*listing, "--base", "HEAD").text


def test_a_rival_far_behind_is_measured_once_and_a_claimed_one_always(tmp_path: Path) -> None:
    project = ToyProject.make(tmp_path, {"slow": kernel("VENDOR", 12), "slower": kernel("VENDOR", 16)}, k_min=3)
    project.write_claims(("toy/hand", "toy/slower", PROBLEM, 4.0))
    outcome = project.pytest("--run-dir", "runs/one", "suite/test_speedup.py")
    assert outcome.status == 0, outcome.text
    timed = [{k for m in launch["measurements"] for k in m["times_us"]} for launch in project.run("one")["launches"]]
    assert len(timed) >= 3
    assert "toy/slow" in timed[0]
    assert not any("toy/slow" in kernels for kernels in timed[1:])
    assert all({"toy/hand", "toy/gen", "toy/vendor", "toy/slower"} <= kernels for kernels in timed[:3])
