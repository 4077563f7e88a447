"""Reads a kernel's source, without running it, for imports and calls that have no place in a kernel.

What it finds is shown in the report beside the measurements; the verdict stays with what the kernel does. Names are
followed through imports and plain assignments only: a determined author can hide from it, and is left to the judge.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from kernels.discover import BASE_PREFIX, PACKAGE, KernelInfo, source_closure

from .static_names import names_of, uses
from .static_patterns import PATTERNS, Found
from .static_rules import OURS, Finding, find_rule

MAX_FINDINGS = 100
MAX_SOURCE_BYTES = 1 << 20
OF_THE_FAMILY = ("problem.py", "reference.py", "properties.py")
"""Beside a family's kernels, but not theirs; neither is what these import."""


def static_findings(path: Path, origin: str, root: Path | None = None) -> list[Finding]:
    """Findings of the kernel file at `path` and of the helper modules that it imports, suspicious ones first.

    `origin` is a value of `Origin`, or `unknown`. Helpers are followed where `path` lies below `root`/kernels; those
    that all kernels share (kernels/*.py) and the family's own problem and reference are not read.
    """
    found = [finding for source in _sources(path, root) for finding in _read(source, origin, root)]
    ordered = sorted(found, key=lambda finding: (finding.level != "suspicious", finding.file, finding.line))
    return ordered[:MAX_FINDINGS]


def recorded_findings(kernel: KernelInfo, root: Path) -> list[dict[str, str | int]]:
    """The findings of a kernel of the tree at `root`, as run.json holds them; none of the base commit's kernels."""
    if kernel.id.startswith(BASE_PREFIX):
        return []
    path = root / PACKAGE / f"{kernel.id}.py"
    return [finding.to_json() for finding in static_findings(path, kernel.origin, root)]


def _sources(path: Path, root: Path | None) -> list[Path]:
    if root is None or not path.is_relative_to(root / PACKAGE):
        return [path]
    family = root / PACKAGE / path.relative_to(root / PACKAGE).parts[0]
    shared = {source for name in OF_THE_FAMILY for source in source_closure(family / name, root)}
    closure = (source for source in source_closure(path, root) if source.suffix == ".py")  # not the manifest
    helpers = [source for source in closure if source.parent != root / PACKAGE and source not in shared]
    return [path, *(p for p in helpers if p != path)]


def _read(path: Path, origin: str, root: Path | None) -> Iterator[Finding]:
    file = path.relative_to(root / PACKAGE).as_posix() if root and path.is_relative_to(root / PACKAGE) else path.name
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")  # reading a pipe never ends
        source = path.read_bytes()
        if len(source) > MAX_SOURCE_BYTES:
            raise ValueError(f"it is larger than {MAX_SOURCE_BYTES} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its string escapes: not ours to tell
            tree = ast.parse(source, filename=file)
        found = {(f.code, f.subject): f for f in reversed(list(_findings(tree, origin)))}  # the first place stays
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as error:
        sentence = f"It could not be read: {str(error)[:200] or type(error).__name__}."
        yield Finding(file, getattr(error, "lineno", None) or 1, "unreadable", "suspicious", sentence)
        return
    yield from (Finding(file, f.line, f.code, f.level, f.sentence) for f in found.values())


def _findings(tree: ast.Module, origin: str) -> Iterator[Found]:
    names = names_of(tree)
    for name, line in uses(tree, names):
        shown = name.removeprefix("builtins.")[:100]
        if _is_reference(name):
            why = "it imports its family's reference, which is the answer"
            yield Found(line, "reference", shown, "suspicious" if origin in OURS else "note", f"{shown}: {why}.")
        rule = find_rule(name, origin)
        if rule and rule.level:
            top = next(known for known in rule.names if name == known or name.startswith(known + "."))
            yield Found(line, rule.code, top, rule.level, f"{shown}: {rule.why}.")
    for pattern in PATTERNS:
        yield from pattern(tree, names, origin)


def _is_reference(name: str) -> bool:
    ours = name.startswith((".", "kernels."))
    return ours and "reference" in name.split(".")
