"""Kernels that were written for other projects, called as this one calls its own.

An argument is bound by its name, once, in `plan`: to the input of that name, to the value of a problem's field
(`softmax_scale`), or to all inputs (`inputs`), the problem (`problem`, `state`) or the device (`device`). Where no name
is known (`forward(self, *args)`, C++ without names) inputs are passed in the order of `make_inputs`, then the problem's
numbers in the order of its fields. What is returned may be a dict of outputs by name, one tensor, or a tuple in the
order of `Problem.output_specs`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from .device import Device
from .problem import Inputs, Outputs, Problem

NOTHING = inspect.Parameter.empty
Call = Callable[[Inputs], Outputs]


class BindingError(TypeError):
    """An argument that nothing is known to be passed for."""


def run(inputs: Inputs, state: Call) -> Outputs:
    """`run` of such a kernel: its state is the call."""
    return state(inputs)


def bound_function(function: Callable[..., Any], problem: Problem, device: Device) -> Call:
    """A call of `function` with what its arguments name. BindingError where one names nothing."""
    names = list(problem.make_inputs(0, "meta"))
    constants: dict[str, Any] = {"problem": problem, "state": problem, "device": device} | problem.field_values()
    wanted = _arguments(function)
    if wanted is None:
        numbers = [value for value in problem.field_values().values() if isinstance(value, (int, float))]
        return lambda inputs: _named(function(*(inputs[name] for name in names), *numbers), problem)
    unknown = [a for a, default in wanted.items() if a not in (*names, *constants, "inputs") and default is NOTHING]
    if unknown:
        raise BindingError(
            f"{function.__name__} takes {', '.join(unknown)}, which is neither an input ({', '.join(names)}) nor a "
            f"field ({', '.join(problem.field_values())}) of {type(problem).__name__}: name its arguments after these."
        )
    tensors = [name for name in wanted if name in names]
    fixed = {name: constants[name] for name in wanted if name in constants and name not in names}
    if "inputs" in wanted:
        return lambda inputs: _named(function(inputs=inputs, **{n: inputs[n] for n in tensors}, **fixed), problem)
    return lambda inputs: _named(function(**{name: inputs[name] for name in tensors}, **fixed), problem)


def bound_module(cls: type[Any], problem: Problem, device: Device) -> Call:
    """A call of `forward` of a module (KernelBench's `ModelNew`), made from the fields that its constructor names."""
    fields = problem.field_values()
    wanted = _arguments(cls.__init__) or {}
    unknown = [name for name, default in wanted.items() if name not in fields and default is NOTHING]
    if unknown:
        raise BindingError(
            f"{cls.__name__}() takes {', '.join(unknown)}, which is no field ({', '.join(fields)}) of "
            f"{type(problem).__name__}: name its arguments after these."
        )
    module = cls(**{name: fields[name] for name in wanted if name in fields}).to(device.torch_name).eval()
    return bound_function(module.forward, problem, device)


def _arguments(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Argument -> its default; None where the names are not known. Of C++, the names that pybind11 documents."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        documented = re.match(r"\w+\((.*)\)", function.__doc__ or "")
        names = re.findall(r"(\w+): ", documented.group(1)) if documented else []
        return None if not names or re.fullmatch(r"arg\d+", names[0]) else dict.fromkeys(names, NOTHING)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return {p.name: p.default for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}


def _named(returned: Any, problem: Problem) -> Outputs:
    """What was returned, by output name; anything else as it is, for the judge to refuse."""
    names = list(problem.output_specs())
    if isinstance(returned, (tuple, list)):
        return dict(zip(names, returned, strict=False))
    if type(returned) is dict:
        return returned
    return {names[0]: returned}
