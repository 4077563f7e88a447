"""Finds kernels by reading their files, and loads them where they run.

`discover` reads syntax trees only: the pytest process learns ids, origins and tasks without torch or triton.
`load_*` import for real and belong in worker processes. A second tree (the base commit of `--base`) is loaded under
another package name; kernels use relative imports only, so that the two live side by side.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .kernel import Kernel, Origin
from .problem import Problem, Tier
from .property import PropertySuite

if TYPE_CHECKING:
    from .space import Space

PACKAGE = "kernels"
BASE_PACKAGE = "kernels_base"
BASE_PREFIX = "base:"
NOT_KERNELS = frozenset({"problem", "properties", "space", "__init__"})
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What a file and a folder may be called that a kernel's id names; the records' schemas hold ids to it."""
HIDDEN = ("_", ".")
"""What the names of a family's own modules begin with; and of what editors leave behind (`.#mine.py`, a link to
nothing)."""
UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)
"""What parsing a file of anyone's may raise."""


@dataclass(frozen=True)
class KernelInfo:
    """What a kernel's source says of it."""

    id: str
    """Path below kernels/ without `.py`: `mla/triton_split_kv`; of the base commit, `base:mla/triton_split_kv`."""
    family: str
    origin: str
    """A value of `Origin`, or `unknown` where the file is broken."""
    tasks: tuple[str, ...]
    uses_triton: bool
    sha256: str
    """Over the file, its manifest (which holds its table of choices) and every file of kernels/ that it imports."""
    broken: str | None = None
    """Why the file cannot be used, as a sentence."""


def families(root: Path) -> list[str]:
    """Names of the family folders of the tree at `root`, sorted."""
    return sorted(p.parent.name for p in (root / PACKAGE).glob("*/problem.py"))


def discover(root: Path, prefix: str = "") -> dict[str, KernelInfo]:
    """All kernels of the tree at `root` by id, in order of their ids."""
    found: dict[str, KernelInfo] = {}
    for family in families(root):
        for path in sorted((root / PACKAGE / family).rglob("*.py")):
            if path.stem not in NOT_KERNELS and not path.stem.startswith(HIDDEN):
                kernel_id = prefix + _name(path.relative_to(root / PACKAGE).with_suffix(""))
                found[kernel_id] = read_kernel(kernel_id, family, path, root)
    return found


def _name(path: Path) -> str:
    """A kernel's name by its path below kernels/: one of its own where no record could hold that (`copy of x`)."""
    if all(map(NAME.fullmatch, path.parts)):
        return path.as_posix()
    told = re.sub(r"[^A-Za-z0-9_]+", "-", path.name).strip("-")[:100]
    return f"{path.parts[0]}/{told or 'file'}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def read_kernel(kernel_id: str, family: str, path: Path, root: Path) -> KernelInfo:
    """What the file at `path`, in the tree at `root`, says of the kernel in it."""
    sha256 = _closure_sha256(path, root)
    try:
        content = _content(path)
        if content is None:
            raise ValueError("it is no regular file that can be read")
        if not NAME.fullmatch(path.stem) or not kernel_id.endswith(f"/{path.stem}"):
            raise ValueError(f"its file is called {path.name!a}, and may be with letters, digits, _, - and . only")
        call = _find_declaration(ast.parse(content, filename=str(path)))
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        origin, tasks = _origin(given["origin"]), _literal(given, "tasks")
        if not isinstance(tasks, tuple | list) or not tasks or any(not isinstance(task, str) for task in tasks):
            raise ValueError('tasks must be a tuple of names, as in ("decode",)')
        uses_triton = bool(_literal(given, "uses_triton")) if "uses_triton" in given else False
        return KernelInfo(kernel_id, family, origin, tuple(tasks), uses_triton, sha256)
    except (*UNREADABLE, KeyError) as error:
        reason = f"missing argument {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        sentence = f"{PACKAGE}/{kernel_id.removeprefix(BASE_PREFIX)}.py declares no usable KERNEL: {reason}."
        return KernelInfo(kernel_id, family, "unknown", (), False, sha256, sentence)


def _origin(value: ast.expr) -> str:
    """The value of `Origin` that is written there."""
    if not isinstance(value, ast.Attribute) or value.attr not in Origin.__members__:
        raise ValueError(
            f"origin must be written as one of {', '.join(f'Origin.{name}' for name in Origin.__members__)}"
        )
    return Origin[value.attr].value


def _literal(given: Mapping[str | None, ast.expr], name: str) -> Any:
    try:
        return ast.literal_eval(given[name])
    except ValueError:
        raise ValueError(f"{name} must be written out as a literal") from None


def _find_declaration(tree: ast.Module) -> ast.Call:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        named = any(isinstance(target, ast.Name) and target.id == "KERNEL" for target in targets)
        if named and isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            return node.value
    raise ValueError("the module has no top-level `KERNEL = Kernel(...)`; modules that are not kernels start with _")


def source_closure(path: Path, root: Path) -> list[Path]:
    """`path`, its manifest and every module of kernels/ that it imports relatively, directly or not; sorted."""
    seen: set[Path] = set()
    todo = [path, path.with_suffix(".json")]
    while todo:
        current = todo.pop()
        content = None if current in seen else _content(current)
        if content is None:
            continue
        seen.add(current)
        for level, module_name, names in _relative_imports(content):
            folder = current.parents[min(level, len(current.parents)) - 1]
            module = folder.joinpath(*module_name.split(".")) if module_name else folder
            todo.append(module.with_suffix(".py"))
            todo += [module / f"{name}.py" for name in names]
    return sorted(p for p in seen if p.is_relative_to(root / PACKAGE))


def _content(path: Path) -> bytes | None:
    """Of a regular file that can be read; None of all else."""
    try:
        return path.read_bytes() if os.path.isfile(path) else None
    except OSError:
        return None


@functools.lru_cache(maxsize=256)  # what many kernels import is parsed once
def _relative_imports(source: bytes) -> tuple[tuple[int, str | None, tuple[str, ...]], ...]:
    """(level, module, names) of every relative import; none where the source is broken."""
    try:
        tree = ast.parse(source)
    except UNREADABLE:
        return ()
    return tuple(
        (node.level, node.module, tuple(alias.name for alias in node.names))
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    )


def _closure_sha256(path: Path, root: Path) -> str:
    digest = hashlib.sha256()
    for source in source_closure(path, root):
        digest.update(os.fsencode(source.relative_to(root)) + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def load_problems(family: str, package: str = PACKAGE) -> tuple[dict[Tier, tuple[Problem, ...]], tuple[Problem, ...]]:
    """A family's tiers and hard cases. Does not import torch.

    ValueError where its problem.py cannot be imported, two problems share an id, or no id can hold its folder's name.
    """
    if not NAME.fullmatch(family):
        raise ValueError(f"{package}/{family!a}: a family's name has letters, digits, _, - and . only. Rename it.")
    try:
        module = importlib.import_module(f"{package}.{family}.problem")
        tiers, hard_cases = dict(module.PROBLEMS), tuple(module.HARD_CASES)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"{package}/{family}/problem.py cannot be used. {told}") from error
    by_id: dict[str, Problem] = {}
    for problem in (*hard_cases, *(p for tier in tiers.values() for p in tier)):
        if by_id.setdefault(problem.id, problem) != problem:
            raise ValueError(f"Two problems of {family} share the id {problem.id}: give their fields distinct tags.")
    return tiers, hard_cases


def load_problem(problem_id: str, package: str = PACKAGE) -> Problem:
    """The problem that a record calls `<family>/<id>`. KeyError, as a sentence, where there is none."""
    family, _, name = problem_id.partition("/")
    tiers, hard_cases = load_problems(family, package)
    for problem in (*hard_cases, *(p for tier in tiers.values() for p in tier)):
        if problem.id == name:
            return problem
    raise KeyError(f"kernels/{family}/problem.py has no problem {name}: it was renamed or removed.")


def load_properties(family: str) -> Mapping[str, PropertySuite]:
    """What a family's properties.py declares, by task; nothing where it has none. Does not import torch."""
    name = f"{PACKAGE}.{family}.properties"
    if importlib.util.find_spec(name) is None:
        return {}
    suites: Mapping[str, PropertySuite] = importlib.import_module(name).PROPERTIES
    return suites


def load_spaces(family: str) -> tuple[Space, ...]:
    """The search spaces that a family's space.py declares; none where it has none. Does not import torch."""
    name = f"{PACKAGE}.{family}.space"
    if importlib.util.find_spec(name) is None:
        return ()
    spaces: tuple[Space, ...] = importlib.import_module(name).SPACES
    return spaces


def problem_as_seen_by(kernel_id: str, problem_id: str) -> Problem:
    """The problem in the tree that the kernel comes from: a base's kernels know their own commit's class."""
    return load_problem(problem_id, BASE_PACKAGE if kernel_id.startswith(BASE_PREFIX) else PACKAGE)


def problem_key(problem: Problem) -> str:
    """The id that records use: `<family>/<Problem.id>`."""
    return f"{problem.family}/{problem.id}"


def load_kernel(kernel_id: str, package: str = PACKAGE) -> Kernel:
    """Import a kernel's module and return its KERNEL. Ids with `base:` come from the tree loaded as the base."""
    if kernel_id.startswith(BASE_PREFIX):
        kernel_id, package = kernel_id.removeprefix(BASE_PREFIX), BASE_PACKAGE
    module: Any = importlib.import_module(f"{package}.{kernel_id.replace('/', '.')}")
    kernel: Kernel = module.KERNEL
    return kernel


def load_tree(root: Path, alias: str) -> None:
    """Import the `kernels` package of the tree at `root` under the name `alias`."""
    folder = root / PACKAGE
    spec = importlib.util.spec_from_file_location(
        alias, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{root} holds no kernels/__init__.py: it is not a kernelgate tree.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    spec.loader.exec_module(module)
