"""Properties: a kernel's outputs on derived inputs against the reference, and against each other.

In a process that the kernel never ran in. The inputs are drawn and derived again from the seed; the kernel's process
is believed nothing beyond what check.py verifies.
"""

from __future__ import annotations

from dataclasses import fields as fields_of
from typing import Any

from kernels import discover
from kernels.problem import Inputs, Outputs, Problem, Tolerance
from kernels.property import Property, derive

from .check import compare, expected_outputs, judge_outputs, wrong_output

Verdict = dict[str, Any]


def referee_property(case: dict[str, Any], kept: list[dict[str, Any]], factors: dict[str, float]) -> Verdict:
    """Judge the outputs of a problem and of all that was derived from it. Returns {status, reason, sentence, errors}.

    `case` and `kept` as `execute_properties.run_property` takes and returns them. The outputs lie in files.
    """
    suite = discover.load_properties(case["family"])[case["task"]]
    problem, tensors_on = suite.problem_class(**case["fields"]), case["tensors_on"]
    inputs = problem.make_inputs(case["seed"], tensors_on, case["distribution"])
    outputs: dict[str, list[Any]] = {}
    for entry in kept:
        outputs.setdefault(entry["property"], []).append(entry["outputs"])
    base, verdict = _judge_case(problem, inputs, outputs.pop("")[0], factors, tensors_on)
    for name, described in outputs.items():
        derived = derive(suite, name, problem, inputs, case["seed"]) if verdict["status"] == "correct" else None
        if derived is None:
            break
        sides = []
        for (each, tensors), files in zip(derived.cases, described, strict=True):
            actual, judged = _judge_case(each, tensors, files, factors, tensors_on)
            if judged["status"] != "correct":
                told = f"{_must_hold(suite.properties[name])} But on {each.id}: {judged['sentence']}"
                return judged | {"sentence": told}
            sides.append(actual)
        verdict = _judge_relation(problem, derived.relate(base, sides), suite.properties[name], verdict)
    return verdict


def _judge_case(
    problem: Problem, inputs: Inputs, described: dict[str, dict[str, Any]], factors: dict[str, float], tensors_on: str
) -> tuple[Outputs, Verdict]:
    """A case's outputs in float32, as far as they were read, and the verdict on them."""
    return judge_outputs(problem, expected_outputs(problem, inputs), described, factors, tensors_on)


def _judge_relation(problem: Problem, sides: tuple[Outputs, Outputs], property_: Property, verdict: Verdict) -> Verdict:
    """`verdict`, unless the sides differ. Both carry errors of their own: twice the tolerance."""
    for name, tolerance in problem.tolerances().items():
        twice = Tolerance(**{f.name: 2 * getattr(tolerance, f.name) for f in fields_of(tolerance)})
        _, fault = compare(sides[0][name], sides[1][name], twice)
        if fault:
            sentence = f"{_must_hold(property_)} But its outputs {name} contradict each other: {fault}."
            return wrong_output(sentence, verdict["errors"])
    return verdict


def _must_hold(property_: Property) -> str:
    """What a property says, for people."""
    return (property_.__doc__ or property_.__name__).strip().splitlines()[0]
