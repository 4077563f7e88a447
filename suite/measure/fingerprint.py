"""Fingerprints of kernels: equal ones run the same host code and launch the same machine code.

`--base` compares them to tell what an edit left unchanged. A fingerprint covers the syntax trees of a kernel's file
and of all that it imports within kernels/, without comments, docstrings, the sweep's lists and the bodies of Triton
functions; in place of those bodies stands what they compile to for every problem asked about. Unequal ones prove
nothing: the kernel is then measured.

Launches are planned from shapes alone. Triton functions that none of them reached go by their source. What stays
unseen is another specialisation of a reached function, where a kernel derives constexprs from drawn lengths.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from kernels.device import Device
from kernels.discover import BASE_PREFIX, PACKAGE, UNREADABLE, source_closure

from .compile import PROJECT_ROOT, Case, CompileResult, compile_all

SWEEP_LISTS = frozenset({"PROBLEMS", "HARD_CASES"})
_OF_A_LAUNCH = ("function", "grid", "constexprs", "num_warps", "shared_memory_bytes", "binary_sha256")


def fingerprints(
    work: Sequence[Case],
    device: Device,
    jobs: int,
    timeout_s: float,
    *,
    root: Path = PROJECT_ROOT,
    base_root: Path | None = None,
    uses_triton: Iterable[str] = (),
) -> dict[str, str | None]:
    """One fingerprint for each kernel id of `work`; None where it has no file or does not compile everywhere.

    Ids that begin with `base:` are of the tree at `base_root`. Only kernels in `uses_triton` are compiled; for the
    others the host code says it all.
    """
    compiled = set(uses_triton)
    results: dict[str, list[CompileResult]] = defaultdict(list)
    triton_work = [case for case in work if case[0] in compiled]
    for result in compile_all(triton_work, device, jobs, timeout_s, root=root, base_root=base_root):
        results[result.kernel].append(result)
    found: dict[str, str | None] = {}
    for kernel in dict.fromkeys(kernel for kernel, _ in work):
        tree = base_root if kernel.startswith(BASE_PREFIX) else root
        found[kernel] = fingerprint_of(kernel, tree, results[kernel]) if tree else None
    return found


def fingerprint_of(kernel: str, root: Path, results: Iterable[CompileResult]) -> str | None:
    """The fingerprint of a kernel of the tree at `root`, given what it compiled to without line info."""
    launched: set[str] = set()
    launches = []
    for result in sorted(results, key=lambda r: r.problem):
        if result.status == "failed":
            return None
        launched |= {launch["function"] for launch in result.launches}
        launches.append([result.problem, result.status, [[x[key] for key in _OF_A_LAUNCH] for x in result.launches]])
    host_code = host_fingerprint(kernel, root, launched)
    if host_code is None:
        return None
    return hashlib.sha256(json.dumps([host_code, launches]).encode()).hexdigest()


def host_fingerprint(kernel: str, root: Path, launched: Iterable[str] = ()) -> str | None:
    """Of the source without the bodies of `launched` Triton functions and of those that they call.

    None where the file is missing or the source is not Python.
    """
    path = root / PACKAGE / f"{kernel.removeprefix(BASE_PREFIX)}.py"
    if not path.is_file():
        return None
    try:
        trees = {p.relative_to(root).as_posix(): ast.parse(p.read_bytes()) for p in source_closure(path, root)}
        host_code = _HostCode(_reached(launched, trees.values()))
        dumped = [[name, ast.dump(host_code.visit(tree))] for name, tree in trees.items()]
    except (OSError, *UNREADABLE):
        return None
    return hashlib.sha256(json.dumps(dumped).encode()).hexdigest()


def _reached(launched: Iterable[str], trees: Iterable[ast.Module]) -> set[str]:
    """Names of the launched Triton functions and of all Triton functions that they mention."""
    mentions: dict[str, set[str]] = defaultdict(set)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any(map(_is_jit, node.decorator_list)):
                mentions[node.name] |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                mentions[node.name] |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    reached: set[str] = set()
    todo = set(launched)
    while todo:
        name = todo.pop()
        reached.add(name)
        todo |= (mentions.get(name, set()) & mentions.keys()) - reached
    return reached


class _HostCode(ast.NodeTransformer):
    """Leaves of a module what decides what the host does."""

    def __init__(self, reached: set[str]) -> None:
        self._reached = reached

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name in self._reached and any(map(_is_jit, node.decorator_list)):
            node.body = [ast.Pass()]
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]  # it held nothing but a docstring
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if _names(node.targets) & SWEEP_LISTS else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if _names([node.target]) & SWEEP_LISTS else self.generic_visit(node)


def _names(targets: Iterable[ast.expr]) -> set[str]:
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _is_jit(decorator: ast.expr) -> bool:
    """`@triton.jit`, `@gluon.jit`, `@jit`, each also called with arguments; `@torch.compile` and the like are not."""
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(function, ast.Attribute):
        module = function.value.id if isinstance(function.value, ast.Name) else ""
        return function.attr == "jit" and module in {"triton", "gluon"}
    return isinstance(function, ast.Name) and function.id == "jit"
