"""Random problems as part of a run: every kernel is tried, a failure voids its times and comes back with its seed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from suite.judge.comparisons import kernel_trouble
from suite.selftest.record_examples import PROBLEM, make_run
from suite.selftest.toy_project import ToyProject, faulty

TOY_PROPERTIES = '''
from ..property import Derived, PropertySuite
from .problem import Product


def problems(device, tiny):
    from hypothesis import strategies as st

    return st.builds(Product, st.sampled_from(range(1, 64)))


def row_order(problem, inputs, generator):
    """Rows in another order give the same rows in that order."""
    import torch

    order = torch.randperm(problem.rows, generator=generator)
    moved = {"x": inputs["x"][order], "w": inputs["w"]}
    return Derived(((problem, moved),), lambda base, derived: (derived[0], {"out": base["out"][order]}))


PROPERTIES = {"product": PropertySuite(Product, problems, {"row_order": row_order})}
'''
CHEAT = faulty('x = inputs["x"]\nreturn {"out": x @ inputs["w"] * (len(x) in (512, 640) or len(x) < 20)}')


def test_the_gate_tries_every_kernel_and_a_failure_comes_back_with_its_seed(tmp_path: Path) -> None:
    project = ToyProject.make(tmp_path, {"cheat": CHEAT, "bad_library": CHEAT.replace("HAND", "VENDOR")})
    (tmp_path / "kernels/toy/properties.py").write_text(TOY_PROPERTIES)
    outcome = project.pytest(  # of the seeds, one in hundreds draws only sizes that the cheat knows
        "-m", "toy", "--run-dir", "runs/a", "--input-seed", "1", "suite/test_correctness.py", "suite/test_properties.py"
    )
    assert outcome.status == 1, outcome.text
    assert "1 failed, 8 passed, 1 xfailed" in outcome.text  # of five kernels on one problem, and six at random
    assert "toy/cheat on toy/product-n20 (normal inputs) is incorrect: Output out is wrong" in outcome.text
    run = project.run("a")
    checks = [check for check in run["checks"] if check["stage"] == "property"]
    assert {check["kernel"] for check in checks} == {
        f"toy/{k}" for k in ("bad_library", "cheat", "gen", "hand", "vendor")
    }
    drawn = {c["problem"] for c in checks if c["kernel"] == "toy/hand"}
    again = re.search(
        r"Again: pytest --gpu cpu (--input-seed \d+) '(suite/test_properties.py::.*toy/cheat\])'", outcome.text
    )
    assert again, outcome.text
    repeated = project.pytest(*again[1].split(), "--run-dir", "runs/b", again[2].replace("cheat", "hand"))
    assert repeated.status == 0, repeated.text
    assert {c["problem"] for c in project.run("b")["checks"]} == drawn
    resumed = project.pytest("--resume", "runs/a", "suite/test_properties.py")
    assert resumed.status == 1
    assert len([c for c in project.run("a")["checks"] if c["stage"] == "property"]) == len(checks)


@pytest.mark.parametrize(
    ("kernel", "status", "is_trouble"),
    [("mla/triton_split_kv", "incorrect", True), ("mla/generated/inductor", "failed", True),
     ("mla/triton_split_kv", "skipped", False), ("mla/flash_mla", "incorrect", False)],
)  # fmt: skip
def test_a_kernel_of_ours_that_is_wrong_off_the_sweep_is_wrong_on_it(
    kernel: str, status: str, is_trouble: bool
) -> None:
    run: dict[str, Any] = make_run()
    assert kernel_trouble(run, kernel, PROBLEM) is None
    about = {"kernel": kernel, "problem": "mla/decode-b7", "distribution": "flat", "seed": 1, "stage": "property"}
    run["checks"].append(about | {"status": status, "reason": "wrong_output", "sentence": "It is zero.", "errors": {}})
    verdict = kernel_trouble(run, kernel, PROBLEM)
    assert (verdict is not None) == is_trouble
    if verdict:
        assert verdict.status == status
        assert verdict.sentence == f"{kernel}, on the random problem mla/decode-b7: It is zero."
