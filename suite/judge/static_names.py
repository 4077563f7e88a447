"""What names in a module's source stand for: `F.linear` is `torch.nn.functional.linear` after the import."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping

Names = Mapping[str, str]
"""Local name -> dotted name; relative imports begin with a dot, builtins with `builtins.`."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def names_of(tree: ast.Module) -> Names:
    """All imports of a module, in functions too, and plain names given to what was imported."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (*FUNCTIONS, ast.ClassDef))}
    defined |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    defined |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names = {name: f"builtins.{name}" for name in dir(builtins) if name not in defined}
    names |= {alias: target for node in ast.walk(tree) for alias, target in imported(node)}
    for node in ast.walk(tree):  # after the imports: `mm = torch.matmul`
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Attribute, ast.Call)):
            known = resolve(node.value, names)
            for name in (t.id for t in node.targets if isinstance(t, ast.Name) and known):
                names.setdefault(name, str(known))
    return names


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(local name, dotted name) of everything that an import statement binds."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0],) * 2
    elif isinstance(node, ast.ImportFrom):
        stem = "." * node.level + (node.module or "")
        for alias in node.names:
            dot = "" if stem.endswith(".") else "."
            yield alias.asname or alias.name, f"{stem}{dot}{alias.name}"


def resolve(node: ast.AST, names: Names) -> str | None:
    """The dotted name that an expression is, through attributes and `getattr` with a literal; None for all else."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        base = resolve(node.value, names)
        return f"{base}.{node.attr}" if base else None
    if isinstance(node, ast.Call) and resolve(node.func, names) == "builtins.getattr" and len(node.args) >= 2:
        base, name = resolve(node.args[0], names), node.args[1]
        if base and isinstance(name, ast.Constant) and isinstance(name.value, str):
            return f"{base}.{name.value}"
    return None


def uses(tree: ast.Module, names: Names) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of all imports and of the longest chain at every place that reads a known name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        else:
            yield from ((target, getattr(node, "lineno", 1)) for _, target in imported(node))
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        name = resolve(node, names) if isinstance(node, (ast.Name, ast.Attribute, ast.Call)) else None
        if name:
            yield name, getattr(node, "lineno", 1)
        else:
            todo += ast.iter_child_nodes(node)
