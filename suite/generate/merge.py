"""One module of several: a template with the private modules of its folder in it.

Definitions that share a name keep the template's; the other gets its module's last word as a suffix. Imports within
functions of what is now in the same file are dropped.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .source import Edit, Source, is_string, local_names, walk


@dataclass
class _Merged:
    folder: Path
    modules: dict[str, Source] = field(default_factory=dict)
    """Private modules by name, in the order in which they are needed."""
    parts: tuple[str, ...] = ()
    """Modules one folder above that are taken for private ones."""


def merged(folder: Path, template: str, parts: tuple[str, ...] = ()) -> Source:
    """The template of a family's `folder` with its private modules, for a file one folder below.

    `parts` are modules one folder above that go into it as well.
    """
    found = _Merged(folder, parts=parts)
    own = Source((folder / f"{template}.py").read_text(encoding="utf-8"))
    _collect(own, found)
    taken = set(own.defined())
    renamed: list[Source] = []
    for name, source in found.modules.items():
        wanted = {a.name for s in (own, *found.modules.values()) for n, _ in private_imports(s, parts) for a in n.names
                  if n.module == name}  # fmt: skip
        again = {old: _suffixed(old, name) for old in sorted(source.defined().keys() & taken - wanted)}
        renamed.append(_renamed(source, again))
        taken |= renamed[-1].defined().keys()
    sources = [*renamed, own]
    text = _imports(sources, parts) + "\n\n" + "\n".join(_rest(source, parts) for source in sources)
    for name in (*found.modules, template):
        text = re.sub(rf"`{name}\.(\w+)`", r"`\1`", text)
    return Source(text)


def private_imports(source: Source, parts: tuple[str, ...] = ()) -> Iterator[tuple[ast.ImportFrom, bool]]:
    """Every import from a private module of the folder or one of `parts`, and whether it stands at the top level."""
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom) and _is_private(node, parts):
            if any(alias.asname for alias in node.names):
                raise ValueError(f"`{source.of(node)}`: a template imports private names as they are called.")
            yield node, node in source.tree.body


def _is_private(node: ast.ImportFrom, parts: tuple[str, ...]) -> bool:
    name = node.module or ""
    return (node.level == 1 and name.startswith("_")) or (node.level == 2 and name in parts)


def _collect(source: Source, found: _Merged) -> None:
    for node, _ in private_imports(source, found.parts):
        name = node.module or ""
        if name not in found.modules:
            inner = _read(found.folder, name, node.level)
            _collect(inner, found)
            found.modules[name] = inner


def _read(folder: Path, name: str, level: int) -> Source:
    """A module of the folder, or of the one above it with its relative imports as they are in the folder."""
    if level == 1:
        return Source((folder / f"{name}.py").read_text(encoding="utf-8"))
    text = (folder.parent / f"{name}.py").read_text(encoding="utf-8")
    return Source(re.sub(r"^(\s*from )\.(?=\w)", r"\1..", text, flags=re.MULTILINE))


def _suffixed(name: str, module: str) -> str:
    suffix = module.rpartition("_")[2]
    return f"{name}_{suffix.upper() if name.isupper() else suffix}"


def _renamed(source: Source, names: dict[str, str]) -> Source:
    """With other names for definitions, where no local name hides them."""
    edits: list[Edit] = []
    for statement in source.tree.body:
        hidden = local_names(statement) if isinstance(statement, ast.FunctionDef) else set()
        read = [n for n in walk(statement) if isinstance(n, ast.Name) and n.id in names and n.id not in hidden]
        edits += [source.put(node, names[node.id]) for node in read]
        if isinstance(statement, ast.FunctionDef) and statement.name in names:
            at = source.starts[statement.lineno - 1]
            line = source.line(statement.lineno)
            column = len(line[: line.index(f"def {statement.name}") + 4].encode())
            edits.append((at + column, at + column + len(statement.name), names[statement.name]))
    return source.edited([[edit] for edit in edits])


def _imports(sources: list[Source], parts: tuple[str, ...]) -> str:
    """All imports of all modules, by kind, each once; relative ones as they are one folder below."""
    found: dict[tuple[int, str], None] = {}
    for source in sources:
        for node in source.tree.body:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    text = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                    found[_kind(alias.name, 0), text] = None
            elif isinstance(node, ast.ImportFrom) and not _is_private(node, parts):
                module = "." * (node.level + bool(node.level)) + (node.module or "")
                for alias in node.names:
                    name = alias.name + (f" as {alias.asname}" if alias.asname else "")
                    found[_kind(node.module or "", node.level), f"from {module} import {name}"] = None
    kinds = sorted({kind for kind, _ in found})
    return "\n\n".join("\n".join(sorted(text for k, text in found if k == kind)) for kind in kinds)


def _kind(module: str, level: int) -> int:
    """__future__, the standard library, others, ours."""
    if module == "__future__":
        return 0
    return 3 if level else 1 if module.partition(".")[0] in sys.stdlib_module_names else 2


def _rest(source: Source, parts: tuple[str, ...]) -> str:
    """What a module holds beyond its docstring and imports."""
    source = _without_inner_imports(source, parts)
    lines: list[str] = []
    last = 0
    for index, node in enumerate(source.tree.body):
        is_import = isinstance(node, (ast.Import, ast.ImportFrom))
        docstring = index == 0 and is_string(node)
        end = node.end_lineno or node.lineno
        if not is_import and not docstring:
            lines += [source.line(number) for number in range(last + 1, end + 1)]
        last = end
    return "".join(lines).strip("\n") + "\n"


def _without_inner_imports(source: Source, parts: tuple[str, ...]) -> Source:
    inner = [node for node, at_top in private_imports(source, parts) if not at_top]
    return source.edited([[source.cut(node)] for node in inner])
