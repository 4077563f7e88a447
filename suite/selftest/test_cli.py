"""The commands as people call them: what they print, what they write, how they end."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from suite import cli
from suite.commands import timers
from suite.device.detect import ChosenDevice
from suite.record.baseline import read_baselines
from suite.record.run import write_run
from suite.record.schema import Document
from suite.record.source import source_state
from suite.selftest.machines import found, machine
from suite.selftest.record_examples import OTHER_PROBLEM, PROBLEM, TIMES_US, make_run

PROJECT_ROOT = Path(__file__).resolve().parents[2]
HAND, VENDOR = "mla/triton_split_kv", "mla/flash_mla"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a git repository, with one commit; commands take it for theirs."""
    for name in ("kernels/mla/triton_split_kv.py", "kernels/mla/generated/inductor.py", "suite/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    git(tmp_path, "init", "-q")
    for key, value in (("user.name", "Ada Example"), ("user.email", "ada@example.org"), ("commit.gpgsign", "false")):
        git(tmp_path, "config", key, value)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(cli, "_root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True)


def record(root: Path, days: tuple[int, ...] = (1, 2), **options: Any) -> list[str]:
    """Runs of the project's commit, on disk. Returns their folders."""
    runs = [make_run(day=day, **options) for day in days]
    for run in runs:
        run["source"] = source_state(root)
    return [store(root, run) for run in runs]


def store(root: Path, run: Document) -> str:
    folder = root / "runs" / run["run_id"]
    folder.mkdir(parents=True)
    write_run(folder, run)
    return str(folder)


def call(*arguments: str) -> int:
    """Exit status of one command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


# promote


def test_promote_writes_claims_in_the_name_of_git_s_user(root, capsys):
    assert call("promote", *record(root)) == 0
    out, err = capsys.readouterr()
    assert f"added    {HAND} > {VENDOR} @ {PROBLEM}: Claimed at 1.29" in out
    assert "wrote    baselines/h200/mla.json" in out
    assert not err
    assert {claim.owner for claim in read_baselines(root, "h200")} == {"Ada Example"}


def test_promote_prints_what_rose_before_what_stays(root, capsys):
    assert call("promote", *record(root, problems=(PROBLEM, OTHER_PROBLEM)), "--owner", "Bo") == 0
    folders = record(root, days=(3, 4), times_us={**TIMES_US, HAND: 80.0})
    capsys.readouterr()
    assert call("promote", *folders) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"raised   {HAND} > {VENDOR} @ {PROBLEM}: Raised from 1.29")
    assert [line.split()[0] for line in lines] == ["raised", *["kept"] * 5, *["wrote"] * 3]
    assert {claim.owner for claim in read_baselines(root, "h200")} == {"Bo"}


def test_promote_lowers_with_a_reason_only(root, capsys):
    call("promote", *record(root))
    folders = record(root, days=(3, 4), times_us={**TIMES_US, HAND: 110.0})
    capsys.readouterr()
    assert call("promote", *folders) == 0
    assert f"kept     {HAND} > {VENDOR}" in capsys.readouterr().out
    assert call("promote", *folders, "--reason", "It now takes any page size.") == 0
    assert f"lowered  {HAND} > {VENDOR}" in capsys.readouterr().out
    assert "It now takes any page size." in {claim.reason for claim in read_baselines(root, "h200")}


def test_a_refused_promotion_says_why_and_writes_nothing(root, capsys):
    folders = record(root)
    (root / "suite" / "x.py").write_text("edited")
    run = json.loads(Path(folders[0], "run.json").read_text())
    run["source"].update(dirty=True, tree_sha256="d" * 64)
    write_run(folders[0], run)
    assert call("promote", *folders) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "had changes that were not committed. Commit them and measure again." in err
    assert "Promote each kind by itself." in err
    assert not (root / "baselines").exists()


def test_runs_whose_kernels_are_all_refused_fail(root, capsys):
    runs = [make_run(day=day) for day in (1, 2)]
    for run in runs:
        run["source"] = source_state(root)
        for check in run["checks"]:
            check.update(status="incorrect", reason="wrong_output")
    assert call("promote", *(store(root, run) for run in runs)) == 1
    out, err = capsys.readouterr()
    assert all(line.startswith(("refused", "missing")) for line in out.splitlines())
    assert "Nothing was written" in err


def test_control_characters_of_a_record_do_not_reach_the_terminal(root, capsys):
    folders = record(root)
    run = json.loads(Path(folders[1], "run.json").read_text())
    run["environment"]["driver"] = "\x1b[2J580"
    write_run(folders[1], run)
    assert call("promote", *folders) == 1
    err = capsys.readouterr().err
    assert "differ in environment.driver" in err
    assert "\x1b" not in err


# report


def test_report_writes_a_page_for_each_device_and_appends_summaries(root, capsys):
    call("promote", *record(root))
    other = make_run(day=5)
    other["device"].update(key="h100", name="NVIDIA H100")
    summary = root / "summary.md"
    summary.write_text("before\n")
    capsys.readouterr()
    both = [str(root / "runs" / make_run(day=1)["run_id"]), store(root, other)]
    assert call("report", *both, "--out", "pages", "--summary", str(summary)) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in printed} >= {"h200.md", "h100.md"}
    assert all(path.stat().st_size for path in printed)
    assert "3 stored claims not judged as they stand now" in Path("pages/h200.md").read_text()
    assert "stored claim" not in Path("pages/h100.md").read_text()
    text = summary.read_text()
    assert text.startswith("before\n")
    assert text.count("## kernelgate on") == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "run.json: cannot be read"),
        ('{"schema": "kernelgate.run/9"}', "kernelgate.run/9"),
        ('{"schema"', "run.json: ends too early"),
    ],
)
def test_a_run_that_cannot_be_read_is_a_sentence(root, capsys, content, sentence):
    if content is not None:
        (root / "run.json").write_text(content)
    assert call("report", "run.json") == 1
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err


def test_a_folder_that_cannot_be_written_is_a_sentence(root, capsys):
    (root / "file").write_text("")
    assert call("report", record(root)[0], "--out", "file/reports") == 1
    assert "file/reports" in capsys.readouterr().err


# claims


def test_claims_lists_every_device_with_evidence_and_age(root, capsys):
    call("promote", *record(root, problems=(PROBLEM, OTHER_PROBLEM)))
    (claim, *_) = read_baselines(root, "h200")
    path = root / "baselines" / "h200" / "mla.json"
    document = json.loads(path.read_text())
    document["device"].update(key="mi300x", name="AMD Instinct MI300X")
    document["claims"] = document["claims"][:1]
    document["claims"][0].update(proven_utc="2020-01-02T03:04:05Z")
    (root / "baselines" / "mi300x").mkdir()
    (root / "baselines" / "mi300x" / "mla.json").write_text(json.dumps(document))
    capsys.readouterr()
    assert call("claims") == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["h200"], ["mi300x"])]
    assert [row[0] for row in rows] == [*["h200"] * 6, "mi300x"]
    assert rows[-1][-1] == "stale"
    assert "2020-01-02" in rows[-1]
    first = next(row for row in rows if row[1] == claim.kernel and row[2] == claim.rival)
    assert f"{claim.factor:.3g}"[:4] in " ".join(first)
    assert first[first.index("2026-11-02") - 1] == "6", "launches stand before the date"


def test_claims_of_one_device_and_of_one_without_any(root, capsys):
    assert call("claims") == 0
    assert "Nothing is claimed yet" in capsys.readouterr().out
    call("promote", *record(root))
    assert call("claims", "--device", "h200") == 0
    capsys.readouterr()
    assert call("claims", "--device", "b200") == 1
    assert "no claim on 'b200', only on: h200" in capsys.readouterr().err


def test_a_damaged_baseline_is_a_sentence(root, capsys):
    call("promote", *record(root))
    (root / "baselines" / "h200" / "mla.json").write_text("<<<<<<< HEAD\n")
    assert call("claims") == 1
    assert "merge conflict" in capsys.readouterr().err


# selftest, usage, imports


def test_timers_are_compared_on_the_gpu_that_is_here(root, capsys, monkeypatch):
    def compare(chosen: ChosenDevice, launches: int) -> dict[str, Any]:
        return {"device": chosen.key, "launches": launches}

    monkeypatch.setattr(timers, "detect", lambda: machine(found("h200")))
    monkeypatch.setattr(timers, "compare_timers", compare)
    monkeypatch.setattr(timers, "as_text", lambda result: f"{result['launches']} launches")
    assert call("selftest", "--timers", "--launches", "3", "--out", "timers.json") == 0
    assert capsys.readouterr().out == "3 launches\n"
    assert json.loads((root / "timers.json").read_text())["launches"] == 3


def test_a_device_that_is_not_here_has_a_status_of_its_own(root, capsys, monkeypatch):
    monkeypatch.setattr(timers, "detect", machine)
    assert call("selftest", "--timers") == 4
    assert "compares the timers of a GPU. This machine has no GPU" in capsys.readouterr().err


def test_selftest_alone_says_what_it_can_do(root, capsys):
    assert call("selftest") == 2
    assert "--timers" in capsys.readouterr().err


def test_wrong_usage_is_status_2(root):
    assert call("promote") == 2
    assert call("prove") == 2


def test_no_command_loads_torch():
    """Only workers touch the device."""
    names = ", ".join(sorted(path.stem for path in (PROJECT_ROOT / "suite" / "commands").glob("[a-z]*.py")))
    code = f"import sys; from suite import cli; from suite.commands import {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_whose_streams_are_closed_does_its_work(closed: str) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m suite.cli claims {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
