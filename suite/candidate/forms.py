"""A candidate's file as the project would hold it: kernels/<family>/generated/<name>.py. Read, never imported.

Accepted are a file of this project's form (one KERNEL), a Python file with a function `run`, one with KernelBench's
class `ModelNew`, and C++, CUDA or HIP with a function `run` for torch's extension loader.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from ..record.schema import RecordError, read_bytes

FORMS = ("kernel", "function", "kernelbench", "extension")
EXTENSION_SUFFIXES = (".cu", ".hip", ".cpp")
MAX_SOURCE_BYTES = 4 << 20
FOLDER = "generated"
ORIGINS = ("HAND", "GENERATED")
"""That a candidate may declare: a vendor's kernels are trusted with more."""

_WRAPPER = '''\
"""A kernel from outside, in `{source}`: its {what}, called with what its arguments name."""

from __future__ import annotations

from ...device import Device
from ...kernel import Kernel, Origin
from ...outside import Call, {bind}, run
from ...problem import Inputs, Problem
{load}

def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Call:
    """Bind its arguments."""
    return {bind}({entry}, problem, device)


KERNEL = Kernel(origin=Origin.GENERATED, tasks={tasks!r}, run=run, plan=plan{uses_triton})
'''
_IMPORTED = "from . import _{name} as source\n"
_BUILT = """from ...extension import built

SOURCE = __file__.replace("{name}.py", "{source}")
"""


@dataclass(frozen=True)
class Candidate:
    """One file that was handed in."""

    name: str
    family: str
    tasks: tuple[str, ...]
    form: str
    """One of FORMS."""
    files: dict[str, str]
    """Path in the project -> text; the first holds KERNEL."""

    @property
    def kernel(self) -> str:
        """The id that it has in the project."""
        return f"{self.family}/{FOLDER}/{self.name}"


def read_candidate(path: Path, family: str, tasks: tuple[str, ...], form: str = "") -> Candidate:
    """Read a candidate for `tasks` of a family; its `form` is found out unless it is given.

    RecordError where the file cannot be read, or is of no form that is known.
    """
    source = read_bytes(path, MAX_SOURCE_BYTES).decode("utf-8", errors="replace")
    name = re.sub(r"\W+", "_", path.stem.lower(), flags=re.ASCII).strip("_") or "candidate"
    name = f"k_{name}" if name[0].isdigit() else name
    if form and form not in FORMS:
        raise RecordError(f"--form {form}: a candidate's form is one of {', '.join(FORMS)}.")
    tree = None if path.suffix in EXTENSION_SUFFIXES else _parsed(source, path)
    found = "extension" if tree is None else form or _form(tree, path)
    if tree is not None and found == "kernel":
        _refuse_origin(tree, path)
        files = {f"{name}.py": _moved(source, tree, family)}
    else:
        kept = f"_{name}{path.suffix if tree is None else '.py'}"
        is_triton = tree is not None and _imports(tree, "triton")
        files = {f"{name}.py": _wrapper(found, name, kept, tasks, is_triton), kept: source}
    folder = f"kernels/{family}/{FOLDER}"
    return Candidate(name, family, tasks, found, {f"{folder}/{file}": text for file, text in files.items()})


def _wrapper(form: str, name: str, kept: str, tasks: tuple[str, ...], is_triton: bool) -> str:
    """The file with KERNEL beside a source that is kept as it was handed in."""
    what, bind, entry = {
        "function": ("function `run`", "bound_function", "source.run"),
        "kernelbench": ("class `ModelNew`", "bound_module", "source.ModelNew"),
        "extension": ("function `run`", "bound_function", "built(SOURCE).run"),
    }[form]
    load = _BUILT.format(name=name, source=kept) if form == "extension" else _IMPORTED.format(name=name)
    uses_triton = ', requires=("triton",), uses_triton=True' if is_triton else ""
    return _WRAPPER.format(source=kept, what=what, bind=bind, entry=entry, load=load, tasks=tasks,
                           uses_triton=uses_triton)  # fmt: skip


def _parsed(source: str, path: Path) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RecordError(f"{path}: is no Python that this interpreter reads ({error}).") from None


def _form(tree: ast.Module, path: Path) -> str:
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assigned = {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    if "KERNEL" in assigned:
        return "kernel"
    if "ModelNew" in defined:
        return "kernelbench"
    if "run" in defined | assigned:
        return "function"
    raise RecordError(
        f"{path}: defines neither KERNEL, nor a function run, nor a class ModelNew: a candidate has one of them at the "
        "top level of its file."
    )


def _refuse_origin(tree: ast.Module, path: Path) -> None:
    for node in ast.walk(tree):
        declared = node.value if isinstance(node, ast.keyword) and node.arg == "origin" else None
        if isinstance(declared, ast.Attribute) and declared.attr not in ORIGINS:
            raise RecordError(f"{path}: declares Origin.{declared.attr}; a candidate is Origin.GENERATED.")


def _imports(tree: ast.Module, module: str) -> bool:
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return any(name.partition(".")[0] == module for name in names)


def _moved(source: str, tree: ast.Module, family: str) -> str:
    """The source with its imports of this project as they must be one folder below its family's.

    Written for the family's folder (`from ..kernel`, `from .problem`), with absolute names, or already for generated/.
    """
    lines = source.splitlines(keepends=True)
    at_place = any(isinstance(node, ast.ImportFrom) and node.level == 3 for node in ast.walk(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        module, level = node.module or "", node.level
        parts = module.split(".")
        if not level and parts[0] == "kernels":
            inner = parts[2:] if parts[1:2] == [family] else parts[1:]
            dots = ".." if parts[1:2] == [family] else "..."
        elif level and not at_place:
            inner, dots = (parts if module else []), "." * (level + 1)
        else:
            continue
        line = lines[node.lineno - 1]
        head, tail = line[: node.col_offset], line[node.col_offset :]
        new = f"from {dots}{'.'.join(inner)} import"
        lines[node.lineno - 1] = head + re.sub(r"from\s+[.\w\s]*?\s*import\b", new, tail, count=1)
    return "".join(lines)
