"""In the worker: whether a kernel changed the process that it shares with its rivals and with the timer.

Compared are settings of the whole process, and the identity of every function and class that measuring rests on. What
looks from within a process can be fooled from within it: the parent's own clock and the referee, which sit in other
processes, do not rest on it (campaign.py, ../judge/check.py).

Must be imported before any kernel is: it keeps what it needs of `time`.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from time import process_time, sleep
from types import FunctionType, ModuleType
from typing import Any

import psutil
import torch

from kernels import discover
from kernels.kernel import Kernel

from .libraries import import_libraries, is_ours
from .process_settings import all_settings, put_back, thread_settings, torch_settings

MODULES = (
    "builtins", "contextlib", "ctypes", "functools", "gc", "json", "math", "os", "posix", "random", "secrets", "select",
    "signal", "statistics", "sys", "threading", "time", "torch", "torch.autograd.profiler",
    "torch.autograd.profiler_util", "torch.cuda", "torch.cuda.graphs", "torch.cuda.streams", "torch.nn.functional",
    "torch.profiler", "torch.profiler.profiler",
)  # fmt: skip
CLASSES = (torch.Tensor, torch.Generator, torch.cuda.CUDAGraph, torch.cuda.Event, torch.cuda.Stream)
COMPILERS_OWN = frozenset({"torch.manual_seed"})
"""What PyTorch's compiler replaces when it is first used."""
GENERATED = "generated"
"""The folder, and package, of kernels that others wrote: `_name` beside `name` is the source that it was made from."""
MOST_NAMED = 5
CALM_WINDOW_S = 0.02
WINDOWS = 8
"""Thread pools spin for a while before they sleep: only who is busy in every window keeps computing."""

_ME = psutil.Process()
Identity = dict[str, tuple[Any, Any]]
"""Qualified name -> (object, its code)."""
_blamed: dict[str, str] = {}
"""Kernel -> what its import did."""


class Tampered(RuntimeError):
    """A kernel changed what it shares with others, or what judges it."""


class Snapshot:
    """The process as it is now.

    A `library` answers for PyTorch's settings only (see `untouched`): some replace functions for good reasons, and
    nothing is claimed for them. `own_module` may change itself, and what stands beside it as a candidate's source
    (`../candidate/forms.py`); `changing` are names that may change in any case. Without `names`, which take as long as
    a call, only settings are compared.
    """

    def __init__(
        self, own_module: str = "", library: bool = False, changing: Collection[str] = (), names: bool = True
    ) -> None:
        self._own, self._changing = _names_of(own_module), changing
        self._settings_now = torch_settings if library else all_settings
        self._settings, self._known = self._settings_now(), {} if library or not names else identities()
        self._threads = {} if library else thread_settings()

    def changes(self) -> list[str]:
        """What is not as it was. It is not put back: the process is of no further use."""
        before, after = self._settings, self._settings_now()
        changed = [_change(name, before[name], after.get(name)) for name in before if before[name] != after.get(name)]
        threads = thread_settings() if self._threads else {}
        changed += [
            _change("cores, niceness or scheduler of a thread", self._threads[key], threads[key])
            for key in self._threads.keys() & threads.keys()  # others have ended, or begun with settings of their own
            if self._threads[key] != threads[key]
        ]
        return changed + [
            f"{name} was replaced"
            for name in self._replaced()
            if not self._is_own(name) and name not in COMPILERS_OWN and name not in self._changing
        ]

    def own_changes(self) -> set[str]:
        """What the module itself has changed of its own since: counters, tables, functions that it compiled."""
        return {name for name in self._replaced() if self._is_own(name)}

    def _is_own(self, name: str) -> bool:
        """The module too: it may be called `sum`."""
        return f"{name}.".startswith(self._own)

    def _replaced(self) -> list[str]:
        now = identities() if self._known else {}
        names = (*self._known, *_shadows(now, self._known))
        return [name for name in names if not _same(self._known.get(name), now.get(name))]

    def refuse_changes(self, when: str) -> None:
        """Tampered, naming what was changed."""
        changed = self.changes()
        if changed:
            rest = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
            found = f"{'; '.join(changed[:MOST_NAMED])}{rest}"
            raise Tampered(f"It tampered with its process {when}: {found}. What it sets, it must put back.")


@contextlib.contextmanager
def untouched(
    when: str, own_module: str = "", library: bool = False, changing: Collection[str] = ()
) -> Iterator[Snapshot]:
    """Tampered where the block leaves the process other than it found it; see `Snapshot`, which is yielded.

    What of PyTorch a `library` sets is put back: vLLM switches cuDNN's attention off when it is first called.
    """
    before = Snapshot(own_module, library, changing)
    with put_back(torch_settings) if library else contextlib.nullcontext():
        yield before
    before.refuse_changes(when)


def load_watched(kernel_id: str, library: bool) -> Kernel:
    """Import a kernel; what its import changes, it answers for now and whenever it is loaded again."""
    if kernel_id not in _blamed:
        if module_of(kernel_id) in sys.modules:
            return discover.load_kernel(kernel_id)
        if not library:
            import_ahead(kernel_id)
        try:
            with (
                untouched("while it was imported", module_of(kernel_id), library),
                contextlib.nullcontext() if library else put_back(),  # a library may need what it set
            ):
                return discover.load_kernel(kernel_id)
        except Tampered as error:
            _blamed[kernel_id] = str(error)
    raise Tampered(_blamed[kernel_id])


def import_ahead(kernel_id: str) -> None:
    """What a kernel's sources import from elsewhere."""
    import_libraries(*_source_of(kernel_id))


def module_of(kernel_id: str) -> str:
    """The module that a kernel is defined in."""
    base = kernel_id.startswith(discover.BASE_PREFIX)
    package = discover.BASE_PACKAGE if base else discover.PACKAGE
    return f"{package}.{kernel_id.removeprefix(discover.BASE_PREFIX).replace('/', '.')}"


def _source_of(kernel_id: str) -> tuple[Path, Path]:
    """The file that a kernel is defined in, and the root of its tree."""
    package, _, name = module_of(kernel_id).partition(".")
    folder = Path(str(importlib.import_module(package).__file__)).parent
    return folder.joinpath(*name.split(".")).with_suffix(".py"), folder.parent


def keeps_computing() -> bool:
    """Whether threads or children of this process are busy although nothing was asked of it. Takes CALM_WINDOW_S."""
    return not any(_is_calm() for _ in range(WINDOWS))


def _is_calm() -> bool:
    before = _busy_s()
    sleep(CALM_WINDOW_S)
    return _busy_s() - before < CALM_WINDOW_S / 2


def _busy_s() -> float:
    """CPU time of this process and of what it started."""
    total = process_time()
    for child in _ME.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += sum(child.cpu_times()[:2])
    return total


def identities() -> Identity:
    """Every function, class and module that the watched modules hold now."""
    found: Identity = {}
    for name in (*MODULES, *(m for m in list(sys.modules) if is_ours(m))):
        module = sys.modules.get(name)
        if isinstance(module, ModuleType):
            _add(found, name, vars(module))
    for watched in CLASSES:  # with what they inherit: an attribute of their own would hide it
        inherited = {name: value for owner in reversed(watched.__mro__) for name, value in vars(owner).items()}
        _add(found, watched.__qualname__, inherited)
    return found


def _names_of(module: str) -> tuple[str, ...]:
    """What the names begin with that are a module's own."""
    folder, _, name = module.rpartition(".")
    beside = (f"{folder}._{name}.",) if folder.endswith(f".{GENERATED}") else ()
    return (f"{module}.", *beside) if module else ()


def _shadows(now: Identity, known: Identity) -> list[str]:
    """Names in modules that were there before, and now hide a builtin."""
    modules = {name.rpartition(".")[0] for name in known}
    new = (name.rpartition(".") for name in now.keys() - known.keys())
    return [f"{module}.{name}" for module, _, name in new if module in modules and name in vars(builtins)]


def _same(before: tuple[Any, Any] | None, now: tuple[Any, Any] | None) -> bool:
    if before is None or now is None or before[0] is not now[0]:
        return False
    return before[1] is now[1] or (isinstance(before[1], str) and before[1] == now[1])


def _add(found: Identity, owner: str, attributes: Any) -> None:
    for name, value in list(attributes.items()):
        if callable(value) or isinstance(value, ModuleType | property | staticmethod | classmethod):
            found[f"{owner}.{name}"] = (value, _code(value))
        is_constant = name.lstrip("_").isupper() and value is not None  # or it is made when it is first needed
        if is_constant and is_ours(owner):
            found[f"{owner}.{name}"] = (value, _content(value) if "KERNEL" in attributes else None)
        if isinstance(value, Kernel):
            _add(found, f"{owner}.{name}", {"run": value.run, "plan": value.plan})
        if isinstance(value, type) and is_ours(value.__module__) and value.__module__ == owner:
            _add(found, f"{owner}.{name}", vars(value))


def _code(value: Any) -> Any:
    """What it runs: a functools.partial can be filled anew."""
    if isinstance(value, functools.partial):
        return str([id(part) for part in (value.func, *value.args, *value.keywords.values())])
    return value.__code__ if isinstance(value, FunctionType) else None


def _content(value: Any) -> str | None:
    """Of a kernel's list or table of plain values, which can be changed where it is; None of all else."""
    if not isinstance(value, list | dict | set):
        return None
    with contextlib.suppress(TypeError, ValueError, RecursionError):  # it holds more than plain values
        return json.dumps(list(value.items()) if isinstance(value, dict) else list(value))
    return None


def _change(name: str, before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        return f"{name} ({', '.join(keys[:MOST_NAMED])})"
    return f"{name} from {before} to {after}"
