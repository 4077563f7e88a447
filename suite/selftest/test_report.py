"""Pages and plots of a report, from synthetic runs."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from suite.record.schema import validate
from suite.report import summary_markdown, write_report
from suite.report.markdown import page
from suite.report.pool import Pool
from suite.report.provenance import command_line
from suite.report.troubles import grouped
from suite.selftest.synthetic_run import (
    HOSTILE,
    SHAPES,
    Claim,
    make_claims,
    make_problems,
    make_run,
    make_verdict,
    num_cells,
    tables_of,
)

pytestmark = pytest.mark.side_by_side


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    run = make_run()
    return write_report([run, make_run(1)], make_claims(run), tmp_path_factory.mktemp("reports"))


def test_the_synthetic_run_is_a_run() -> None:
    validate(make_run(), "run", "make_run()")


def test_writes_a_page_and_two_plots_whose_links_lead_to_them(written: list[Path]) -> None:
    page_path, *plots = written
    assert page_path.name == "h200.md"
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page_path.read_text())
    assert links == ["h200/mla_speedup.png", "h200/mla_roofline.png"]
    assert [page_path.parent / link for link in links] == plots
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in plots)


def test_sections_come_in_a_readers_order(written: list[Path]) -> None:
    headings = re.findall(r"^#+ .*", written[0].read_text(), re.MULTILINE)
    assert headings == [
        "# kernelgate on NVIDIA H200", "## Targets", "## By origin", "## Verdicts",
        "## Speedup by problem: mla",
        "## What could not run, and why",
        "## How often the gate errs here", "## How the time was spent", "## Environment", "## How to reproduce",
    ]  # fmt: skip


def test_every_table_has_a_header_and_as_many_cells_in_every_row(written: list[Path]) -> None:
    tables = tables_of(written[0].read_text())
    error_rates = 2  # of the H200, as they are stored
    assert len(tables) == 1 + 1 + 1 + 1 + len(SHAPES) + 1 + error_rates + 2 + 1
    for lines in tables:
        assert re.fullmatch(r"\|( :--| --:)( \|( :--| --:))* \|", lines[1])
        assert {num_cells(line) for line in lines} == {num_cells(lines[0])}


def test_a_row_recovers_what_was_planted() -> None:
    pool = Pool([make_run(), make_run(1)])
    problem = next(iter(pool.problems))
    row = next(row for row in pool.rows_of(problem) if row.kernel == "mla/triton_split_kv")
    assert row.rival == "mla/flash_mla"
    assert row.speedup is not None
    assert row.speedup.low < 1.12 < row.speedup.high
    assert row.speedup.launches == 12
    assert row.median_us == pytest.approx(96 / 1.12, rel=0.02)
    facts = pool.problems[problem]
    assert row.tflops == pytest.approx(facts["flops"] / row.median_us / 1e6)
    assert row.of_sheet == pytest.approx(facts["light_speed_us"] / row.median_us)
    assert row.of_measured == pytest.approx(facts["cold_read_bytes"] / 4.27e12 * 1e6 / row.median_us)


def test_the_same_run_twice_is_no_more_evidence() -> None:
    rows = Pool([make_run(), make_run()]).rows
    assert {row.launches for row in rows} == {6}


def test_a_kernel_that_changed_between_runs_is_not_mixed_with_its_old_self() -> None:
    old, new = make_run(0), make_run(1, launches=5)
    new["kernels"]["mla/triton_split_kv"] = {**new["kernels"]["mla/triton_split_kv"], "source_sha256": "ef" * 32}
    new["source"] = {**new["source"], "tree_sha256": "ef" * 32}
    pool = Pool([new, old])
    launches = {row.kernel: row.launches for row in pool.rows}
    assert launches["mla/triton_split_kv"] == 5
    assert launches["mla/flash_mla"] == 11
    assert "different sources" in page(pool, [], {})


def test_a_kernel_that_a_newer_run_knew_and_did_not_measure_keeps_its_figures() -> None:
    """A run of some problems lists all kernels of the family, as their sources were then."""
    old, new = make_run(0), make_run(1)
    new["kernels"]["mla/triton_split_kv"] = {**new["kernels"]["mla/triton_split_kv"], "source_sha256": "ef" * 32}
    for launch in new["launches"]:
        for measurement in launch["measurements"]:
            del measurement["times_us"]["mla/triton_split_kv"]
    pool = Pool([new, old])
    assert {row.launches for row in pool.rows if row.kernel == "mla/triton_split_kv"} == {6}
    assert pool.measurements_left_out == 0


def test_a_wrong_output_costs_a_kernel_its_figures_and_its_place_as_rival() -> None:
    run = make_run()
    problem = next(iter(run["problems"]))
    run["checks"].append({**run["checks"][0], "kernel": "mla/flash_mla", "status": "incorrect", "stage": "timed"})
    pool = Pool([run])
    assert pool.rivals[problem] == "mla/torch_sdpa"
    assert "mla/flash_mla" not in {row.kernel for row in pool.rows_of(problem)}


def test_one_launch_has_a_factor_and_an_open_interval(tmp_path: Path) -> None:
    [row] = [row for row in Pool([make_run(launches=1)]).rows_of(next(iter(make_problems()))) if row.origin == "hand"]
    assert row.speedup is not None
    assert (row.speedup.low, row.speedup.high) == (0, math.inf)
    assert len(write_report([make_run(launches=1)], [], tmp_path)) == 3


def test_an_unknown_device_has_no_sheet(tmp_path: Path) -> None:
    run = make_run()
    run["device"] = {**run["device"], "key": "../../cpu slot", "num_sms": 2}
    run["ceilings"] = {}
    for problem in run["problems"].values():
        problem["light_speed_us"] = None
    written = write_report([run], [], tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == ["cpu-slot.md", "cpu-slot/mla_speedup.png"]
    assert {row.of_sheet for row in Pool([run]).rows} == {None}


def test_a_run_that_measured_nothing_still_reports(tmp_path: Path) -> None:
    run = make_run(launches=0)
    run["verdicts"], run["phases_s"], run["command"] = [], {}, []
    [path] = write_report([run], make_claims(run), tmp_path)
    content = path.read_text()
    assert "Nothing was judged" in content
    assert "Nothing of this family was measured" in content
    assert "8 stored claims not judged" in content


def test_what_a_record_does_not_know_is_not_shown(tmp_path: Path) -> None:
    run = make_run()
    for problem in run["problems"].values():
        problem.update(dict.fromkeys(("flops", "cold_read_bytes", "write_bytes", "compute_dtype", "light_speed_us")))
    run["device"].update(uuid=None, index=None, memory_bytes=None, last_level_cache_bytes=None)
    run["source"].update(git_sha=None, dirty=None)
    run["checks"][0].update(reason=None, sentence=None)
    run["launches"][0]["failures"] = [{"kernel": None, "problem": None, "reason": "crashed", "sentence": "It crashed."}]
    validate(run, "run", "the run")
    page_path, *plots = write_report([run], [], tmp_path)
    assert [plot.name for plot in plots] == ["mla_speedup.png"]
    assert {(row.tflops, row.gb_per_s, row.of_measured) for row in Pool([run]).rows} == {(None, None, None)}
    assert "the whole launch" in page_path.read_text()
    assert "None" not in page_path.read_text()


def test_no_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], [], tmp_path)


def test_each_device_has_its_own_page(tmp_path: Path) -> None:
    other = make_run(1)
    other["device"] = {**other["device"], "key": "h100", "name": "NVIDIA H100"}
    names = [path.name for path in write_report([make_run(), other], [], tmp_path) if path.suffix == ".md"]
    assert names == ["h100.md", "h200.md"]


def test_a_hundred_equal_reasons_are_one_row() -> None:
    run = make_run()
    run["checks"] = [{**run["checks"][0], "problem": f"mla/{index}"} for index in range(100)]
    run["launches"][0]["failures"] = [
        {"kernel": "mla/aiter", "problem": "mla/1", "reason": "hung", "sentence": "It hung."}
    ]
    groups = grouped(Pool([run]))
    assert sorted(map(len, groups.values())) == [1, 100]
    assert len(tables_of(page(Pool([run]), [], {})[page(Pool([run]), [], {}).index("## What could") :])[0]) == 4


def test_a_claim_that_was_lowered_since_is_not_red_any_more() -> None:
    run = make_run()
    regressed = next(verdict for verdict in run["verdicts"] if verdict["status"] == "regressed")
    claims = make_claims(run)[:4]
    assert "**1 regressed**" in page(Pool([run]), claims, {})
    reason = "The other branch costs more."
    lowered = [replace(c, factor=0.9, reason=reason) if c.problem == regressed["problem"] else c for c in claims]
    content = page(Pool([run]), lowered, {})
    assert "regressed**" not in content
    assert "1 on claims that were changed since" in content
    assert "2 stored claims not judged as they stand now" in content  # one was not measured
    row = next(line for line in content.splitlines() if "The other branch costs more." in line)
    assert [cell.strip() for cell in row.split("|")[4:8]] == ["regressed", "0.940×", "0.910×", "0.900×"]


def test_a_claim_that_was_deleted_since_is_not_red_any_more() -> None:
    run = make_run()
    regressed = next(verdict for verdict in run["verdicts"] if verdict["status"] == "regressed")
    others = [claim for claim in make_claims(run) if claim.problem != regressed["problem"]]
    assert "**1 regressed**" in page(Pool([run]), [], {})  # without any claims, nothing was deleted
    content = page(Pool([run]), others, {})
    assert "regressed**" not in content
    assert any("deleted" in line for line in content.splitlines() if regressed["kernel"] in line)


def test_hostile_records_cannot_break_the_page() -> None:
    run = make_run()
    run["device"] = {**run["device"], "name": HOSTILE, HOSTILE: HOSTILE}
    run["environment"] = {HOSTILE: HOSTILE}
    run["unfit"] = HOSTILE
    run["checks"][0] = {**run["checks"][0], "sentence": HOSTILE}
    run["verdicts"].append(make_verdict(HOSTILE, HOSTILE, kernel=HOSTILE, rival=HOSTILE, sentence=HOSTILE))
    content = page(Pool([run]), [Claim(HOSTILE, HOSTILE, HOSTILE, 1.0)], {})
    assert "<script" not in content + summary_markdown(run)
    assert "](http" not in content
    for lines in tables_of(content):
        assert {num_cells(line) for line in lines} == {num_cells(lines[0])}


def test_the_command_names_the_program_without_its_folder(written: list[Path]) -> None:
    content = written[0].read_text()
    assert "\npytest -m mla --gpu h200 -k 'b64 and not q2'\n" in content
    assert "/somewhere" not in content
    assert command_line(["/x/lib/pytest/__main__.py", "-q"]) == "python -m pytest -q"
    assert command_line(["pytest", "--run-dir", "a b", "-m", "mla", "--run-dir=x"]) == "pytest -m mla"
    assert command_line([]).startswith("#")
