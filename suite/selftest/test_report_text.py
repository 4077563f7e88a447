"""Escaping, labels, the step summary and the terminal's table."""

from __future__ import annotations

import html
import io
import re
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from suite.report import summary_markdown
from suite.report.labels import Labels
from suite.report.tables import Column, code, fence, table, text
from suite.report.terminal import phase_line, print_summary
from suite.report.verdicts import worst_first
from suite.selftest.synthetic_run import HOSTILE, make_problems, make_run, make_verdict, tables_of

pytestmark = pytest.mark.side_by_side


@pytest.mark.parametrize("escape", [text, code])
def test_hostile_text_stays_text(escape: Any) -> None:
    shown = escape(HOSTILE)
    assert not re.search(r"[<>|`@$\n\u202e]", shown)
    assert "](" not in shown
    assert "://" not in shown


def test_hostile_text_is_shown_as_it_is_by_a_renderer() -> None:
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(table([Column("a")], [[text(HOSTILE)]]))
    [cell] = re.findall(r"<td[^>]*>(.*?)</td>", rendered)
    assert html.unescape(cell) == " ".join(HOSTILE.replace("\u202e", "").split())


def test_text_is_bounded_and_ids_stay_readable() -> None:
    assert len(text("x" * 10_000)) == 400
    assert code("mla/triton_split_kv") == "`mla/triton_split_kv`"
    assert text("seq_len_kv and _this_") == "seq_len_kv and &#95;this&#95;"


def test_a_fence_holds_backticks() -> None:
    assert fence(["echo ````"]).split("\n") == ["`````bash", "echo ````", "`````"]


def test_labels_drop_what_is_shared_and_the_legend_says_it() -> None:
    problems = {name: problem["fields"] for name, problem in make_problems().items()}
    labels = Labels(problems)
    shown = [labels.label(name) for name in problems]
    assert shown[0] == "b64 s4096 h16"
    assert shown[3] == "b16 q2 s4096 h128 normal"
    assert len(set(shown)) == len(shown)
    assert labels.legend().startswith("b = batch, q = seq_len_q, s = seq_len_kv, h = num_heads. Unless a label says")
    assert "kv_dtype bf16" in labels.legend()


def test_long_labels_name_what_tells_problems_apart() -> None:
    sizes = {"num_tokens": 128, "hidden_size": 7168, "intermediate_size": 2048, "num_experts": 256, "top_k": 8}
    others = {f"x/t-{n}": {name: value + n for name, value in sizes.items()} for n in range(1, 4)}
    plain = {"num_local_experts": 64, "routing_of_tokens": "given", "weight_dtype": "bfloat16"}
    fp8 = {"num_local_experts": 65, "routing_of_tokens": "drawn", "weight_dtype": "float8_e4m3fn"}
    problems = {name: fields | plain for name, fields in others.items()} | {
        "x/t-p": sizes | plain,
        "x/t-f": sizes | fp8,
    }
    labels = Labels(problems)
    assert labels.label("x/t-p") == "t128 hidden7168 inter2048 e256 top8"
    assert labels.label("x/t-f") == "t128 inter2048 e256 top8 weight-e4m3fn"
    assert len({labels.label(name) for name in problems}) == len(problems)


def test_labels_of_booleans_and_dtypes() -> None:
    labels = Labels(
        {"x/t-a": {"causal": True, "kv_dtype": "bfloat16"}, "x/t-b": {"causal": False, "kv_dtype": "float8_e4m3fn"}}
    )
    assert labels.label("x/t-a") == "causal kv-bf16"
    assert labels.label("x/t-b") == "no-causal kv-e4m3fn"


def test_in_a_family_of_several_tasks_the_task_leads() -> None:
    labels = Labels(
        {"x/decode-a": {"batch": 1}, "x/decode-b": {"batch": 2}, "x/rope-a": {"num_tokens": 3, "dtype": "float16"}}
    )
    assert [labels.label(name) for name in ("x/decode-a", "x/decode-b", "x/rope-a")] == [
        "decode b1", "decode b2", "rope t3"
    ]  # fmt: skip
    assert (
        labels.legend() == "b = batch, t = num_tokens. Unless a label says otherwise: rope: num_tokens 3, dtype fp16."
    )
    assert (
        len(Labels({"x/t-a": {"batch": 1, "what": "a" * 200}, "x/t-b": {"batch": 2, "what": "b"}}).label("x/t-a")) <= 60
    )


def test_a_single_problem_is_named_by_its_sizes() -> None:
    name, problem = next(iter(make_problems().items()))
    assert Labels({name: problem["fields"]}).label(name) == "b64 q1 s4096 h16 page64"


def test_worst_first() -> None:
    order = [(v["status"], v["problem"]) for v in worst_first([
        make_verdict("a", "holds"), make_verdict("b", "regressed", factor=1.09), make_verdict("c", "skipped"),
        make_verdict("d", "regressed", factor=0.8), make_verdict("e", "from the future"), make_verdict("f", "failed"),
    ])]  # fmt: skip
    assert [problem for _, problem in order] == ["e", "d", "b", "f", "a", "c"]


def test_step_summary_counts_and_shows_only_what_is_not_green() -> None:
    summary = summary_markdown(make_run())
    assert "**1 regressed**, **1 inconclusive**, **1 holds**, **1 unclaimed**" in summary
    assert len(tables_of(summary)[0]) == 2 + 2
    assert "kernel +3.1%, rival -0.2%" in summary


def test_step_summary_of_a_green_run_has_no_table() -> None:
    run = make_run()
    run["verdicts"] = [verdict for verdict in run["verdicts"] if verdict["status"] == "holds"]
    assert tables_of(summary_markdown(run)) == []


def render_terminal(run: dict[str, Any], width: int = 100) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    print_summary(
        console, run["verdicts"], run["problems"], lambda v: f"pytest --gpu h200 -k '{v['problem']}'", {"kernels": 61.0}
    )
    return out.getvalue()


def test_the_terminal_shows_regressed_first_within_the_width() -> None:
    run = make_run()
    lines = render_terminal(run).splitlines()
    rows = [line.split()[0] for line in lines[2 : lines.index("")] if not line.startswith(" ")]
    commands = [line for line in lines if "pytest --gpu" in line]
    assert max(len(line) for line in lines if "pytest --gpu" not in line and "): " not in line) <= 100
    assert rows == ["regressed", "inconclusive", "holds", "unclaimed"]
    assert "0.940x" in lines[2]
    assert "0.905-0.915" in lines[2]
    assert [command.strip() for command in commands] == [
        f"pytest --gpu h200 -k '{verdict['problem']}'" for verdict in worst_first(run["verdicts"])[:2]
    ]


def test_the_terminal_takes_markup_as_text() -> None:
    run = make_run()
    run["verdicts"] = [make_verdict("[red]x[/red]", "failed", kernel="[/]", sentence="[bold]no")]
    assert "[bold]no" in render_terminal(run)


def test_phases_are_named_longest_first() -> None:
    line = phase_line({"startup": 4.0, "kernels": 12.0}).plain
    assert line == "16 s: kernels 12 s (75%), startup 4.0 s (25%)"
    assert phase_line({}).plain == "no phase was timed"
