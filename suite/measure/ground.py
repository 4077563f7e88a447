"""In the parent: files that processes to come will load, and that no kernel has any business with.

The project's tree, the referee's copy of it, and what any Python runs when it starts: files of site-packages by which
libraries set themselves up, and modules that were not there when the run began.
"""

from __future__ import annotations

import os
import site
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..record.source import MEASURED_FOLDERS

Stamps = dict[str, tuple[int, int]]
"""Path -> (size in bytes, time of its last change in ns); zeros where only the name counts."""

LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
OF_THE_LOADER = Path("/etc/ld.so.preload")
"""Linux loads the libraries that it names into every process."""


def stamps(roots: Iterable[Path]) -> Stamps:
    """Of the trees at `roots`, and of what every process loads."""
    return dict(stamp for root in roots for stamp in _of_tree(root)) | dict(_of_every_process())


def changed(before: Stamps, now: Stamps) -> list[str]:
    """Paths that are not as they were, in order. Libraries may be removed: that is nobody's gain."""
    gone = {path for path in before.keys() - now.keys() if before[path] != (0, 0)}
    return sorted(gone | {path for path, stamp in now.items() if before.get(path) != stamp})


def _of_tree(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Of every measured file, of its compiled form, and of whatever else Python would import from `root`.

    Asked after every check and launch, of a thousand files, hence without a Path of each.
    """
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.endswith((".py", ".so")) or os.path.exists(f"{entry.path}/__init__.py"):
                yield from _stamp(entry)
    for folder in (f"{root}/{part}" for part in MEASURED_FOLDERS):
        if os.path.isdir(folder):  # a base's tree has kernels only
            yield from _below(folder)


def _below(folder: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Without what Python and editors leave behind, and without selftests."""
    compiled_only = folder.endswith("/__pycache__")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "selftest":
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path)
            elif entry.name.endswith(".pyc") or not (compiled_only or entry.name.endswith("~")):
                yield from _stamp(entry)


def _stamp(entry: os.DirEntry[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # it was there for a moment: somebody's temporary file
        return
    yield entry.path, (found.st_size, found.st_ctime_ns)


def _of_every_process() -> Iterator[tuple[str, tuple[int, int]]]:
    folders = {Path(folder) for folder in (*map(sysconfig.get_path, LIBRARIES), *site.getsitepackages())}
    if site.ENABLE_USER_SITE:
        folders.add(Path(site.getusersitepackages()))
    for path in (OF_THE_LOADER, *(entry for folder in folders if folder.is_dir() for entry in folder.iterdir())):
        if path == OF_THE_LOADER or path.suffix == ".pth" or path.stem in ("sitecustomize", "usercustomize"):
            try:
                found = path.lstat()
            except OSError:
                continue
            yield str(path), (found.st_size, found.st_ctime_ns)
        elif path.suffix in (".py", ".so", "") and path.name != "__pycache__":
            yield str(path), (0, 0)
