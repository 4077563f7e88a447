"""Tolerances mean something: wrong kernels that a lax one would accept are rejected at every problem of the ci tier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from kernels.discover import families, load_problems, problem_key  # noqa: E402 - after the skip
from kernels.mla.problem import MLADecode  # noqa: E402
from kernels.mla.reference import decode  # noqa: E402
from kernels.problem import Inputs, Outputs, Problem, Tier  # noqa: E402
from suite.judge.check import compare, expected_outputs  # noqa: E402

pytestmark = pytest.mark.side_by_side

ROOT = Path(__file__).parents[2]
CI_PROBLEMS = {problem_key(p): p.cut() for family in families(ROOT) for p in load_problems(family)[0][Tier.CI]}
MLA = MLADecode(batch=3, seq_len_q=2, seq_len_kv=333, num_heads=17, lengths="uniform", page_size=16)


def faults(problem: Problem, expected: Outputs, actual: Outputs) -> list[str]:
    """What the referee would say of outputs once they are rounded to the dtypes that the problem declares."""
    found = []
    for name, spec in problem.output_specs().items():
        rounded = actual[name].to(getattr(torch, spec.dtype)).float()
        found.append(compare(rounded, expected[name], problem.tolerances()[name])[1])
    return [fault for fault in found if fault]


@pytest.mark.parametrize("key", [pytest.param(key, id=key) for key in CI_PROBLEMS])  # long ones, too
def test_every_null_kernel_is_rejected(key: str) -> None:
    problem = CI_PROBLEMS[key]
    inputs = problem.make_inputs(7, "cpu")
    expected = expected_outputs(problem, inputs)
    assert not faults(problem, expected, expected), "the reference itself must pass once rounded"
    accepted = [name for name, run in problem.null_kernels().items() if not faults(problem, expected, run(inputs))]
    assert not accepted


def test_mutants_of_mla_decode_are_rejected() -> None:
    inputs = MLA.make_inputs(7, "cpu")
    expected = decode(inputs, MLA)

    def off_by_one_page(inputs: Inputs) -> Outputs:
        return decode({**inputs, "block_table": inputs["block_table"].roll(1, dims=1)}, MLA)

    def mask_dropped(inputs: Inputs) -> Outputs:
        pages = -(-inputs["seq_lens"] // MLA.page_size)
        return decode({**inputs, "seq_lens": pages * MLA.page_size}, MLA)

    def one_token_short(inputs: Inputs) -> Outputs:
        return decode({**inputs, "seq_lens": inputs["seq_lens"] - 1}, MLA)

    def wrong_scale(inputs: Inputs) -> Outputs:
        return decode(inputs, replace(MLA, softmax_scale=MLA.softmax_scale * 1.02))

    def heads_swapped(inputs: Inputs) -> Outputs:
        return {name: output.flip(2) for name, output in expected.items()}

    for mutant in (off_by_one_page, mask_dropped, one_token_short, wrong_scale, heads_swapped):
        assert faults(MLA, expected, mutant(inputs)), mutant.__name__
