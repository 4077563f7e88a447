"""A candidate's file as the project would hold it: kernels/<family>/generated/<name>.py. Read, never imported.

Accepted are a file of this project's form (one KERNEL), a Python file with a function `run`, one with KernelBench's
class `ModelNew`, and C++, CUDA or HIP with a function `run` for torch's extension loader.
"""

from __future__ import annotations

import ast
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernels.discover import NOT_KERNELS

from ..record.schema import RecordError, read_bytes

FORMS = ("kernel", "function", "kernelbench", "extension")
EXTENSION_SUFFIXES = (".cu", ".hip", ".cpp")
MAX_SOURCE_BYTES = 4 << 20
FOLDER = "generated"
ORIGINS = ("HAND", "GENERATED")
"""That a candidate may declare: a vendor's kernels are trusted with more."""
ENTRIES = {"kernel": "KERNEL", "function": "run", "kernelbench": "ModelNew"}
"""The name that a Python file of each form binds at its top level."""

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


KERNEL = Kernel(origin=Origin.GENERATED, tasks={tasks!r}, run=run, plan=plan{others})
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
    suffix = path.suffix.lower()
    if suffix not in (".py", *EXTENSION_SUFFIXES):
        raise RecordError(f"{path}: a candidate is a .py file, or for PyTorch's extension loader one of "
                          f"{', '.join(EXTENSION_SUFFIXES)}.")  # fmt: skip
    if form and form not in FORMS:
        raise RecordError(f"--form {form}: a candidate's form is one of {', '.join(FORMS)}.")
    source = _text(read_bytes(path, MAX_SOURCE_BYTES), path)
    name = re.sub(r"\W+", "_", path.stem.lower(), flags=re.ASCII).strip("_") or "candidate"
    name = f"k_{name}" if name[0].isdigit() or name in NOT_KERNELS else name
    tree = None if suffix in EXTENSION_SUFFIXES else _parsed(source, path)
    found = "extension" if tree is None else _form(tree, path, form)
    if tree is not None and found == "kernel":
        _refuse_declaration(tree, path)
        files = {f"{name}.py": _moved(source, tree, family)}
    else:
        _refuse_neighbours(tree, path)
        kept = f"_{name}{suffix}"
        files = {f"{name}.py": _wrapper(found, name, kept, tasks, tree), kept: source}
    folder = f"kernels/{family}/{FOLDER}"
    return Candidate(name, family, tasks, found, {f"{folder}/{file}": text for file, text in files.items()})


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: byte {error.start} is no UTF-8. Save the file as UTF-8.") from None


def _wrapper(form: str, name: str, kept: str, tasks: tuple[str, ...], tree: ast.Module | None) -> str:
    """The file with KERNEL beside a source that is kept as it was handed in."""
    what, bind, entry = {
        "function": ("function `run`", "bound_function", "source.run"),
        "kernelbench": ("class `ModelNew`", "bound_module", "source.ModelNew"),
        "extension": ("function `run`", "bound_function", "built(SOURCE).run"),
    }[form]
    load = _BUILT.format(name=name, source=kept) if tree is None else _IMPORTED.format(name=name)
    others = ""
    if tree is not None and "supports" in _bound_names(tree):
        others += ", supports=source.supports"
    if tree is not None and _imports(tree, "triton"):
        others += ', requires=("triton",), uses_triton=True'
    return _WRAPPER.format(source=kept, what=what, bind=bind, entry=entry, load=load, tasks=tasks, others=others)


def _parsed(source: str, path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its string escapes: not ours to tell
            return ast.parse(source, path.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RecordError(f"{path}: is no Python that this interpreter reads: {error}.") from None


def _form(tree: ast.Module, path: Path, asked: str) -> str:
    bound = _bound_names(tree)
    if asked not in ("", *ENTRIES):
        raise RecordError(f"{path}: --form {asked} is for files that end in {', '.join(EXTENSION_SUFFIXES)}.")
    if asked and ENTRIES[asked] not in bound:
        raise RecordError(f"{path}: --form {asked} needs {ENTRIES[asked]} at the top level, and there is none.")
    for form in (asked,) if asked else ("kernel", "kernelbench", "function"):
        if ENTRIES[form] in bound:
            return form
    raise RecordError(
        f"{path}: defines neither KERNEL, nor a function run, nor a class ModelNew: a candidate has one of them at the "
        "top level of its file."
    )


def _bound_names(tree: ast.Module) -> set[str]:
    """Names that running the file binds at its top level, in an `if` or `try` too."""
    found: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)}
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, (ast.If, ast.Try, ast.With, ast.ExceptHandler)):
            yield from _statements(child)


def _refuse_declaration(tree: ast.Module, path: Path) -> None:
    """RecordError where KERNEL is declared twice, or claims an origin that no candidate has."""
    assigned = [(node.lineno, target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    lines = [str(line) for line, target in assigned if isinstance(target, ast.Name) and target.id == "KERNEL"]
    if len(lines) > 1:
        raise RecordError(f"{path}: assigns KERNEL in lines {', '.join(lines)}. A candidate is one kernel: split it.")
    for node in ast.walk(tree):
        declared = node.value if isinstance(node, ast.keyword) and node.arg == "origin" else None
        if isinstance(declared, ast.Attribute) and declared.attr not in ORIGINS:
            raise RecordError(f"{path}: declares Origin.{declared.attr}; a candidate is Origin.GENERATED.")


def _refuse_neighbours(tree: ast.Module | None, path: Path) -> None:
    """RecordError where it imports a file from beside itself."""
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            line = f"line {node.lineno} imports .{node.module or ''} from beside it"
            raise RecordError(f"{path}: {line}, and a candidate is one file. Put all that it needs into it.")


def _imports(tree: ast.Module, module: str) -> bool:
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return any(name.partition(".")[0] == module for name in names)


def _moved(source: str, tree: ast.Module, family: str) -> str:
    """The source with its imports of this project as they must be one folder below its family's.

    Written for the family's folder (`from ..kernel`, `from .problem`), with absolute names, or already for generated/.
    """
    lines = list(io.StringIO(source, newline=""))  # ends lines where Python does, and not at a form feed
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
