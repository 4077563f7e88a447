"""`kernelgate judge --example`: for every task a file to start from, whose arguments are those of its problems."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytest.importorskip("torch")

from kernels.device import Device
from kernels.discover import families, load_problems
from kernels.outside import bound_function
from suite.candidate.example import example
from suite.candidate.forms import read_candidate

ROOT = Path(__file__).resolve().parents[2]
CPU = Device("cpu", "x86_64", 2, 0, 1, None)
TASKS = {(family, p.task): None for family in families(ROOT) for p in load_problems(family)[1]}


@pytest.mark.parametrize(("family", "task"), TASKS)
def test_a_task_has_an_example_that_can_be_judged(family: str, task: str, tmp_path: Path) -> None:
    text = example(ROOT, family, task)
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert read_candidate(path, family, (task,)).form == "function"
    scope: dict[str, object] = {}
    exec(compile(ast.parse(text), "mine.py", "exec"), scope)
    tiers, hard_cases = load_problems(family)
    for problem in {p for p in (*hard_cases, *(p for tier in tiers.values() for p in tier)) if p.task == task}:
        bound_function(scope["run"], problem, CPU)  # type: ignore[arg-type]


def test_an_example_says_what_goes_in_and_out_and_where_the_maths_are() -> None:
    text = example(ROOT, "kv", "rope_append")
    assert "k_cache: rows of it, in place" in text
    assert "q: bfloat16 [16, 32, 128]" in text
    assert "The maths in PyTorch: kernels/kv/reference.py" in text
    assert "def run(x, w_gate_up, w_down, problem, norm_weight=None):" in example(ROOT, "mlp", "block")
