"""Properties hold for the maths, catch kernels that are right on the sweep alone, and are part of the gate."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.device import Device
from kernels.discover import load_problems
from kernels.kernel import Kernel, Origin
from kernels.mla.problem import MLADecode
from kernels.mla.properties import PROPERTIES
from kernels.mla.reference import decode
from kernels.problem import Inputs, Outputs, Tolerance
from kernels.property import derive
from suite.judge.check import compare
from suite.judge.properties import referee_property
from suite.measure import check_properties as searched
from suite.measure import execute, execute_properties

SUITE = PROPERTIES["decode"]
CPU = Device("cpu", "x86_64", 2, 0, 1, None)
TIERS, HARD_CASES = load_problems("mla")
HARD_CASES = tuple(problem for problem in HARD_CASES if problem.task == "decode")
SWEEP: list[Any] = [*HARD_CASES, *(p for tier in TIERS.values() for p in tier if p.task == "decode")]
TIGHT = Tolerance(rtol=1e-4, atol=1e-4, relative_rms=1e-4)
DRAWN = st.tuples(SUITE.problems(CPU, True), st.sampled_from(MLADecode.distributions), st.integers(0, 2**32))


@pytest.mark.parametrize("name", SUITE.properties)
def test_a_property_holds_for_the_reference(name: str) -> None:
    """Nearly exactly, so that what it says is true; and it says something about some problem."""
    told: list[bool] = []

    @settings(max_examples=25, derandomize=True, database=None, deadline=None)
    @given(DRAWN)
    def holds(drawn: tuple[MLADecode, str, int]) -> None:
        problem, distribution, seed = drawn
        inputs = problem.make_inputs(seed, "cpu", distribution)
        before = {key: value.clone() for key, value in inputs.items()}
        derived = derive(SUITE, name, problem, inputs, seed)
        assert all(torch.equal(as_bytes(inputs[key]), as_bytes(before[key])) for key in inputs)
        if derived is None:
            return
        told.append(True)
        sides = derived.relate(decode(inputs, problem), [decode(tensors, case) for case, tensors in derived.cases])
        for output in problem.output_specs():
            _, fault = compare(sides[0][output], sides[1][output], TIGHT)
            assert fault is None, f"{problem.id}: {output}: {fault}"

    holds()
    assert told


@settings(max_examples=25, derandomize=True, database=None, deadline=None)
@given(DRAWN)
def test_derived_cases_keep_to_what_the_problem_promises(drawn: tuple[MLADecode, str, int]) -> None:
    problem, distribution, seed = drawn
    inputs = problem.make_inputs(seed, "cpu", distribution)
    for name in SUITE.properties:
        derived, again = (derive(SUITE, name, problem, inputs, seed) for _ in range(2))
        for number, (case, tensors) in enumerate(derived.cases if derived else ()):
            assert again is not None
            assert all(torch.equal(as_bytes(t), as_bytes(again.cases[number][1][n])) for n, t in tensors.items())
            shapes = {key: tuple(value.shape) for key, value in tensors.items()}
            assert shapes["q"] == (case.batch, case.seq_len_q, case.num_heads, 576), name
            assert shapes["block_table"] == (case.batch, case.max_pages), name
            lengths = tensors["seq_lens"].tolist()
            assert all(length <= case.max_seq_len for length in lengths), name
            assert case.lengths == "empties" or min(lengths) >= 1, name
            assert 0 <= int(tensors["block_table"].min()) <= int(tensors["block_table"].max()) < shapes["kv_cache"][0]
            assert {t.dtype for t in tensors.values()} == {t.dtype for t in inputs.values()}, name
            assert all(tensor.is_contiguous() for tensor in tensors.values()), name
            assert not any(tensor.float().isnan().any() for tensor in tensors.values()), name


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


# Cheats: the reference, but for what the sweep does not ask.


def honest(inputs: Inputs, problem: MLADecode) -> Outputs:
    outputs = decode(inputs, problem)
    return {"out": outputs["out"].to(inputs["q"].dtype), "lse": outputs["lse"]}


def only_where(known: Callable[[MLADecode], bool]) -> Callable[[Inputs, MLADecode], Outputs]:
    def run(inputs: Inputs, problem: MLADecode) -> Outputs:
        outputs = honest(inputs, problem)
        return outputs if known(problem) else {name: value * 0 for name, value in outputs.items()}

    return run


def known_scale(inputs: Inputs, problem: MLADecode) -> Outputs:
    scales = sorted({p.softmax_scale for p in SWEEP}, key=lambda scale: abs(scale - problem.softmax_scale))
    return honest(inputs, replace(problem, softmax_scale=scales[0]))


def lengths_from_the_problem(inputs: Inputs, problem: MLADecode) -> Outputs:
    """They are always the same for a problem of the sweep."""
    return honest({**inputs, "seq_lens": torch.tensor(problem._lengths(), dtype=torch.int32)}, problem)


def stale_by_value(inputs: Inputs, problem: MLADecode) -> Outputs:
    """Reads to the end of the last page and drops what looks stale."""
    page_size, cache = problem.page_size, inputs["kv_cache"]
    kept = []
    for row, length in enumerate(inputs["seq_lens"].tolist()):
        tokens = cache[inputs["block_table"][row, : math.ceil(length / page_size)].long()].flatten(0, 1)
        stale = torch.tensor(200.0).to(cache.dtype).float()
        kept.append(int((tokens.float()[:, 0] != stale).sum()) if length else 0)
    return honest({**inputs, "seq_lens": torch.tensor(kept, dtype=torch.int32)}, problem)


def table_is_a_range(inputs: Inputs, problem: MLADecode) -> Outputs:
    pages = (inputs["seq_lens"] + problem.page_size - 1) // problem.page_size
    table = (pages.cumsum(0) - pages)[:, None] + torch.arange(problem.max_pages)
    return honest({**inputs, "block_table": table.clamp_max(len(inputs["kv_cache"]) - 1).int()}, problem)


def no_maximum_subtracted(inputs: Inputs, problem: MLADecode) -> Outputs:
    """The sum of exponentials overflows or vanishes in float32."""
    outputs = honest(inputs, problem)
    lost = torch.isfinite(outputs["lse"]) & ((outputs["lse"] > 88.7) | (outputs["lse"] < -103.9))
    outputs["out"][lost] = math.nan
    return outputs


def values_of(field: str) -> frozenset[Any]:
    return frozenset(getattr(problem, field) for problem in SWEEP)


RIGHT_ON_THE_SWEEP = {
    "batches of the sweep": only_where(lambda problem: problem.batch in values_of("batch")),
    "head counts of the sweep": only_where(lambda problem: problem.num_heads in values_of("num_heads")),
    "lengths of the sweep": only_where(lambda problem: problem.seq_len_kv in values_of("seq_len_kv")),
    "page sizes of the sweep": only_where(lambda problem: problem.page_size in values_of("page_size")),
    "scales of the sweep": known_scale,
    "lengths from the problem": lengths_from_the_problem,
    "stale by value": stale_by_value,
    "no maximum subtracted": no_maximum_subtracted,
}
WRONG_ON_BOTH = {"table is a range": table_is_a_range}


@dataclass
class InProcess:
    """A campaign whose worker and referee are this process, with one kernel."""

    folder: Path
    seed: int
    asked: int = 0

    def __post_init__(self) -> None:
        self.crew = self.journal = self
        self.scratch, self.factors = self.folder, dict[str, Any]()
        self.phases_s, self.events = dict[str, float](), list[dict[str, Any]]()

    def append(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def libraries(self, kernels: list[str]) -> list[str]:
        return kernels  # nothing is looked for in this process, which is not the kernel's

    def place(self, kernel: Any, problem: str) -> tuple[str, Device, str]:
        return "interpreter", CPU, "cpu"  # for tiny problems

    def draw_seed(self, *what: str) -> int:
        return sum(map(ord, "".join(what)))

    def request(self, role: str, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.asked += message["op"] == "property"
        operation: Any = {"property": execute_properties.run_property, "referee_property": referee_property}
        reply: dict[str, Any] = operation[message.pop("op")](**message)
        return reply


@pytest.fixture
def records_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that tries a run function on random problems."""
    monkeypatch.setattr(searched, "SHRINK_BUDGET_S", 1.0)
    monkeypatch.setattr(searched, "CPU_KERNEL_BUDGET_S", 60.0)
    monkeypatch.setattr(execute, "keeps_computing", lambda: False)

    def tried(run: Any, seed: int, num_problems: int | None = 12, beside_others: bool = False) -> tuple[Any, int]:
        kernel = Kernel(origin=Origin.HAND, tasks=("decode",), run=run)
        for module in (execute, execute_properties):
            monkeypatch.setattr(module, "load_watched", lambda *_: kernel)
        info = type("Info", (), {"id": "mla/cheat", "family": "mla", "tasks": ("decode",)})
        campaign: Any = InProcess(tmp_path, seed)
        if beside_others:
            searched.check_in_company(campaign, info)  # type: ignore[arg-type]
            return campaign.events, campaign.asked
        return searched.check_properties(campaign, info, num_problems), campaign.asked  # type: ignore[arg-type]

    return tried


@pytest.mark.parametrize("seed", range(2))
def test_an_honest_kernel_is_right_off_the_sweep(seed: int, records_of: Any) -> None:
    records, _ = records_of(honest, seed)
    assert len(records) == 12
    assert {record["status"] for record in records} == {"correct"}
    assert {name for record in records for name in record["facts"]["properties"]} == SUITE.properties.keys()


@pytest.mark.parametrize("name", RIGHT_ON_THE_SWEEP)
def test_what_is_right_on_the_sweep_alone_is_found_wrong(name: str, records_of: Any) -> None:
    run = RIGHT_ON_THE_SWEEP[name]
    for problem in SWEEP[: len(HARD_CASES)]:
        inputs = problem.make_inputs(7, "cpu")
        outputs, expected = run(inputs, problem), decode(inputs, problem)
        for output, tolerance in problem.tolerances().items():
            assert compare(outputs[output].float(), expected[output], tolerance)[1] is None, problem.id
    (record,), _ = next(tried for seed in range(3) if len((tried := records_of(run, seed))[0]) == 1)
    assert (record["status"], record["reason"], record["stage"]) == ("incorrect", "wrong_output", "property")
    assert record["problem"].startswith("mla/decode-b")


@pytest.mark.parametrize("name", WRONG_ON_BOTH)
def test_what_the_sweep_finds_is_found_here_too(name: str, records_of: Any) -> None:
    (record,), _ = records_of(WRONG_ON_BOTH[name], 2)
    assert record["status"] == "incorrect"


def test_the_smallest_wrong_problem_is_told(records_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searched, "SHRINK_BUDGET_S", 60.0)
    (record,), asked = records_of(only_where(lambda problem: problem.num_heads < 5 or problem.seq_len_kv < 7), 0)
    assert re.match(r"mla/decode-b1-q1-s(7-h5-equal|4-h5-normal)-p64-bfloat16-kvbfloat16-scale0.07", record["problem"])
    assert record["distribution"] == "normal"
    assert asked > 12  # it kept looking


def test_an_error_is_told_with_its_problem(records_of: Any) -> None:
    def raises(inputs: Inputs, problem: MLADecode) -> Outputs:
        raise ValueError("no such tile")

    with pytest.raises(ValueError, match="no such tile"):  # in a worker it becomes a reply
        records_of(raises, 0)


def test_outputs_that_contradict_each_other_are_wrong_by_themselves(tmp_path: Path) -> None:
    """Within the tolerance of the reference on both sides, beyond twice of it in between."""
    problem = MLADecode(2, 1, 9, 2)
    inputs = problem.make_inputs(0, "cpu")
    case = {"family": "mla", "task": "decode", "fields": problem.field_values(), "tensors_on": "cpu", "seed": 0,
            "distribution": "normal"}  # fmt: skip
    kept = []
    for name, (each, tensors) in (("", (problem, inputs)), *named_cases("scale", problem, inputs)):
        outputs = execute.save_outputs(honest(tensors, each), tmp_path, f"{name}-0-")
        kept.append({"kernel": "mla/x", "property": name, "outputs": outputs})
    assert referee_property(case, kept, {})["status"] == "correct"
    kept[1]["outputs"] = kept[0]["outputs"]
    assert referee_property(case, kept, {})["status"] == "correct"
    wrong = referee_property(case, kept, {"out": 1.2})
    assert wrong["sentence"].startswith("Output out is wrong")
    kept[1]["outputs"] = execute.save_outputs(honest(inputs, replace(problem, softmax_scale=0.5)), tmp_path, "w-0-")
    wrong = referee_property(case, kept, {})
    assert wrong["sentence"].startswith("Half the query with twice the softmax scale changes nothing. But on decode-b2")


def named_cases(name: str, problem: MLADecode, inputs: Inputs) -> list[tuple[str, tuple[Any, Inputs]]]:
    derived = derive(SUITE, name, problem, inputs, 0)
    assert derived is not None
    return [(name, case) for case in derived.cases]


def test_a_seed_draws_the_same_problems_and_another_one_others(records_of: Any) -> None:
    drawn = [[r["problem"] for r in records_of(honest, seed, 8)[0]] for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0]) & set(drawn[2])) <= 2  # the simplest is always among them


def test_beside_others_a_kernel_is_tried_on_the_same_problems(records_of: Any) -> None:
    alone, _ = records_of(honest, 3, None)
    together, _ = records_of(honest, 3, beside_others=True)
    assert together == [{"event": "check"} | record for record in alone]
    assert len(alone) > 1


def test_what_is_wrong_beside_others_is_forgotten(records_of: Any) -> None:
    events, asked = records_of(known_scale, 3, beside_others=True)
    assert asked
    assert not events
