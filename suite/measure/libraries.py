"""In the worker: what a kernel's sources import from elsewhere is imported before its process is looked at.

A library may set things up when it is imported: an audit hook, a signal's handler, a variable. Kernels import libraries
whenever they like, and are not to blame for that.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
from pathlib import Path

from kernels.discover import BASE_PACKAGE, PACKAGE, UNREADABLE, source_closure

OURS = (PACKAGE, BASE_PACKAGE, "suite")
"""What is no library: kernels, those of a base too, and who judges them."""
MADE_BY = {b"torch.compile": "torch._dynamo"}
"""What a source has in it -> the module that its first use imports."""


def import_libraries(path: Path, root: Path) -> None:
    """Of the kernel at `path`, in the tree at `root`, and of all that it imports there. What cannot be had is left to
    the kernel: it may know better, or needs it on another machine."""
    for source in source_closure(path, root):
        for module in _named(source.read_bytes()) if source.suffix == ".py" else ():
            with contextlib.suppress(Exception, SystemExit):
                importlib.import_module(module)


def is_ours(module: str) -> bool:
    """By a module's dotted name."""
    return module.partition(".")[0] in OURS


@functools.lru_cache(maxsize=256)  # what many kernels import is parsed once
def _named(source: bytes) -> tuple[str, ...]:
    try:
        tree = ast.parse(source)
    except UNREADABLE:
        return ()
    named = {module for word, module in MADE_BY.items() if word in source}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named.add(node.module)
    return tuple(sorted(name for name in named if not is_ours(name)))
