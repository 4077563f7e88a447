"""In the worker, on a CPU: what all kernels of a process stand on, looked at before a candidate is loaded and after it.

Python's and PyTorch's libraries, which operators PyTorch's dispatcher calls, and machine code. Beside a GPU vendors'
libraries replace functions of PyTorch when they are first called: nobody could tell theirs from a cheat's.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .surface import Surface
from .tampering import MOST_NAMED, Tampered

MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (\S{4}) \S+ \S+ (\d+)\s*(.*)$")
OWN_OPERATORS = ("aten::", "prims::")
DRAWN_UP_LATER = re.compile(r"^(Meta|Python|Fake|Autograd|debug|FuncTorch|Functionalize)\w*.*\n?", re.MULTILINE)
"""Entries of an operator that PyTorch adds by itself: for shapes alone, gradients and transforms."""


def operators() -> dict[str, str]:
    """Name -> what computes it, as the dispatcher says."""
    known = torch._C._dispatch_get_all_op_names()  # noqa: SLF001 - it has no public name
    dump = torch._C._dispatch_dump  # noqa: SLF001 - likewise
    return {name: DRAWN_UP_LATER.sub("", dump(name)) for name in known if name.startswith(OWN_OPERATORS)}


def patched_code() -> set[str]:
    """Files whose code in memory is not the file's: pages that are this process's own, or that it may write to.

    A page stays its own when what was written over is put back. Empty where this is not Linux.
    """
    try:
        lines = Path("/proc/self/smaps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    found, present = set[str](), ""
    for line in lines:
        if mapping := MAPPING.match(line):
            rights, inode, path = mapping.groups()
            is_code = "x" in rights and (inode != "0" or path == "[vdso]")
            present = path if is_code else ""
            if is_code and "w" in rights:
                found.add(path)
        elif present and line.startswith("Anonymous:") and line.split()[1] != "0":
            found.add(present)
    return found


@dataclass(slots=True)
class Footing:
    """As it is now."""

    _surface: Surface = field(default_factory=Surface)
    _operators: dict[str, str] = field(default_factory=operators)
    _patched: set[str] = field(default_factory=patched_code)

    def refuse_changes(self, when: str, quickly: bool = False) -> None:
        """Tampered, naming what was changed. Operators take four fifths of the time: not `quickly`."""
        now, patched = self._operators if quickly else operators(), patched_code() - self._patched
        changed = [f"{name} was replaced" for name in self._surface.changes()]
        changed += [f"{n} is computed by another function" for n, by in self._operators.items() if now.get(n) != by]
        changed += [f"machine code of {name} was written over" for name in sorted(patched)]
        if changed:
            named = "; ".join(changed[:MOST_NAMED])
            raise Tampered(f"What all kernels of its process stand on was changed {when}: {named}.")


@functools.cache  # libraries are taken stock of once in a process
def footing() -> Footing:
    """As it was when it was first asked for."""
    return Footing()
