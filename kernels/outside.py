"""Kernels that were written for other projects, called as this one calls its own.

An argument is bound by its name, once, in `plan`: to the input of that name, to the value of a problem's field
(`softmax_scale`), or to all inputs (`inputs`), the problem (`problem`, `state`) or the device (`device`). Where no name
is known (`forward(self, *args)`, C++ without names) inputs are passed in the order of `make_inputs`, then the problem's
numbers in the order of its fields. An argument named after an output is given fresh memory to write it to.

What is returned may be a mapping of outputs by name, one tensor, or a tuple in the order of `Problem.output_specs`.
What is written in place (caches) need not be returned; where it is, that counts for nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from .device import Device
from .problem import Inputs, Outputs, Problem, TensorSpec

NOTHING = inspect.Parameter.empty
Call = Callable[[Inputs], Outputs]


class BindingError(TypeError):
    """An argument that nothing is known to be passed for."""


def run(inputs: Inputs, state: Call) -> Outputs:
    """`run` of such a kernel: its state is the call."""
    return state(inputs)


def bound_function(function: Callable[..., Any], problem: Problem, device: Device) -> Call:
    """A call of `function` with what its arguments name. BindingError where one names nothing."""
    names, fields = list(problem.make_inputs(0, "meta")), problem.field_values()
    outputs = {name: spec for name, spec in problem.output_specs().items() if name not in names}  # others: in place
    constants: dict[str, Any] = {"problem": problem, "state": problem, "device": device} | fields
    wanted = _arguments(function)
    if wanted is None:
        numbers = [value for value in fields.values() if isinstance(value, (int, float))]
        return lambda inputs: _named(function(*(inputs[name] for name in names), *numbers), outputs, inputs, {})
    unknown = wanted.keys() - {*names, *constants, *outputs, "inputs"}
    if missing := [argument for argument in wanted if argument in unknown and wanted[argument] is NOTHING]:
        raise BindingError(
            f"{getattr(function, '__name__', 'It')} takes {', '.join(missing)}, which is neither an input "
            f"({', '.join(names)}) nor a field ({', '.join(fields)}) nor an output ({', '.join(outputs) or 'none'}) of "
            f"{type(problem).__name__}: name arguments after these; give a default to what only some problems have."
        )
    tensors = [name for name in wanted if name in names]
    fixed = {name: constants[name] for name in wanted if name in constants and name not in names}
    written = {name: outputs[name] for name in wanted if name in outputs and name not in fixed}

    def call(inputs: Inputs) -> Outputs:
        given: dict[str, Any] = {"inputs": inputs} if "inputs" in wanted else {}
        own = _allocated(written, inputs) if written else {}
        returned = function(**given, **{name: inputs[name] for name in tensors}, **fixed, **own)
        return _named(returned, outputs, inputs, own)

    return call


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
    schema = getattr(function, "schema", None)  # TorchScript's functions show Python *args alone
    if schema is not None and hasattr(schema, "arguments"):
        told = {a.name: a.default_value if a.has_default_value() else NOTHING for a in schema.arguments}
        return {name: default for name, default in told.items() if name != "self"}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        documented = re.match(r"\w+\((.*)\)", function.__doc__ or "")
        names = re.findall(r"(\w+): ", documented.group(1)) if documented else []
        return None if not names or re.fullmatch(r"arg\d+", names[0]) else dict.fromkeys(names, NOTHING)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return {p.name: p.default for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}


def _allocated(specs: Mapping[str, TensorSpec], inputs: Inputs) -> Outputs:
    """Unwritten memory for outputs, where the inputs lie."""
    import torch

    beside = next(iter(inputs.values()))
    return {name: beside.new_empty(spec.shape, dtype=getattr(torch, spec.dtype)) for name, spec in specs.items()}


def _named(returned: Any, outputs: Mapping[str, TensorSpec], inputs: Inputs, written: Outputs) -> Outputs:
    """What was returned and `written`, by output name; anything else as it is, for the judge to refuse."""
    if returned is None and (written or not outputs):
        return written
    if isinstance(returned, (tuple, list)):
        return written | dict(zip(outputs, returned, strict=False))
    if isinstance(returned, Mapping):
        return written | {name: value for name, value in returned.items() if name not in inputs}
    return written | dict.fromkeys([*outputs][:1], returned)
