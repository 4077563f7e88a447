"""In the worker: every function, class and module of Python's and PyTorch's libraries, whether it is still what it was.

Rivals go through them: a method of a class of the standard library that sleeps first, another module in the table of
modules, a C function's pointer that leads elsewhere. To compare takes milliseconds, to take stock a tenth of a second.
"""

from __future__ import annotations

import ctypes
import operator
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from .tampering import COMPILERS_OWN

FAMILIES = sys.stdlib_module_names | {"torch", "numpy"}
CHANGES_ITSELF = (
    "torch._dynamo", "torch._inductor", "torch._functorch", "torch._higher_order_ops", "torch._guards", "torch._ops",
    "torch._library", "torch.library", "torch.ops", "torch.fx", "torch.utils._sympy", "torch.distributed",
    "torch.testing", "torch.compiler", "torch.optim", "torch.onnx", "torch.distributions", "torch._refs",
    "torch._decomp", "torch._prims", "torch.classes", "torch._logging", "warnings",
)  # fmt: skip
"""Compilers and tables of operators, which are filled, replaced or patched by their own rules when they are used; and
warnings, whose functions a context of its own exchanges."""
REPLACED_BY_COMPILERS = frozenset(
    {
        "torch.jit._get_trace_graph",
        "torch.jit.trace",
        "torch.jit.trace_module",
        "torch.nn.modules.module.Module.__init__",
        "torch.nn.modules.module.Module.__setstate__",
    }
)
"""When torch.compile is first used."""
TABLES = (dict, list)
WITHOUT_OWN = frozenset({"builtins", "typing", "_frozen_importlib", "_frozen_importlib_external", "functools"})
"""Whose objects stand in nearly every module, and have code that is looked at elsewhere or none."""

DEFINITION, METHOD, VECTORCALL = 16, 8, 48
"""Where CPython keeps of a C function its definition, in that its pointer, and the pointer of quick calls, in bytes."""
READS_POINTERS = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")


@dataclass(slots=True)
class Surface:
    """As it is now."""

    _spaces: list[tuple[str, Mapping[str, Any], dict[str, Any], tuple[type, ...]]] = field(init=False)
    """(dotted name, names of a module, a class or an object, a copy of them, classes that have names for it too)."""
    _functions: list[tuple[str, FunctionType]] = field(init=False)
    _codes: list[Any] = field(init=False)
    _builtins: list[tuple[str, Any]] = field(init=False)
    _pointers: list[Any] = field(init=False)
    _modules: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._modules = {name: module for name, module in sys.modules.items() if _is_watched(name)}
        self._spaces = [(name, names, dict(names), kin) for name, names, kin in _spaces(self._modules)]
        values = [(f"{name}.{key}", value) for name, _, copy, _ in self._spaces for key, value in copy.items()]
        self._functions = [(name, value) for name, value in values if type(value) is FunctionType]
        self._codes = [function.__code__ for _, function in self._functions]
        self._builtins = [(name, value) for name, value in values if type(value) is BuiltinFunctionType]
        self._pointers = [_pointers(value) for _, value in self._builtins]

    def changes(self) -> list[str]:
        """Qualified names of what was replaced, removed, or made to run something else."""
        found = [name for name, module in self._modules.items() if sys.modules.get(name, module) is not module]
        for name, names, before, kin in self._spaces:
            if len(names) != len(before) or any(map(operator.is_not, names.values(), before.values())):
                found += [f"{name}.{key}" for key, value in before.items() if _is_replaced(value, names.get(key))]
                found += [f"{name}.{key}" for key in names.keys() - before.keys() if _hides(names[key], key, kin)]
        now = [function.__code__ for _, function in self._functions]
        found += [n for (n, _), a, b in zip(self._functions, self._codes, now, strict=True) if a is not b]
        pointers = [_pointers(value) for _, value in self._builtins]
        found += [n for (n, _), a, b in zip(self._builtins, self._pointers, pointers, strict=True) if a != b]
        return [name for name in dict.fromkeys(found) if name not in REPLACED_BY_COMPILERS | COMPILERS_OWN]


def _is_watched(module: str) -> bool:
    return module.partition(".")[0] in FAMILIES and not module.startswith(CHANGES_ITSELF)


def _spaces(modules: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], tuple[type, ...]]]:
    """Names of each module, and of each class and object of a class that Python code defines in it."""
    for name, module in modules.items():
        if isinstance(module, ModuleType):
            yield name, vars(module), ()
            for key, value in list(vars(module).items()):
                if isinstance(value, type) and value.__module__ == name:
                    yield f"{name}.{key}", vars(value), value.__mro__[1:-1]
                elif _acts(value):
                    yield f"{name}.{key}", vars(value), type(value).__mro__[:-1]


def _acts(value: Any) -> bool:
    """Whether it is an object of a class of the standard library's, and may be given functions of its own."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    return (
        package in sys.stdlib_module_names
        and package not in WITHOUT_OWN
        and type(getattr(value, "__dict__", None)) is dict
    )


def _is_replaced(before: Any, now: Any) -> bool:
    """Numbers change, and what tables hold; what can be called, or holds what can be, does not, nor what a table is."""
    if type(before) in TABLES:
        return type(now) is not type(before) and isinstance(now, type(before))
    held = callable(before) or isinstance(before, ModuleType | property | staticmethod | classmethod)
    return held and before is not now


def _hides(value: Any, name: str, kin: tuple[type, ...]) -> bool:
    """Whether what is new under a name stands before a function that was reached by it."""
    return callable(value) and any(callable(vars(other).get(name)) for other in kin)


def _pointers(function: Any) -> tuple[int, int] | None:
    """Where calls of a C function go."""
    if not READS_POINTERS:
        return None
    address = id(function)
    definition = _word(address + DEFINITION)
    return _word(definition + METHOD), _word(address + VECTORCALL)


def _word(address: int) -> int:
    return int(ctypes.c_size_t.from_address(address).value)
