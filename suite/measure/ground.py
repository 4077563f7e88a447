"""In the parent: files that processes to come will load, and that no kernel has any business with.

The project's tree, the referee's copy of it, and what any Python runs when it starts: files of site-packages by which
libraries set themselves up, and modules that were not there when the run began.
"""

from __future__ import annotations

import site
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..record.source import tree_stamps

Stamps = dict[str, tuple[int, int]]
"""Path -> (size in bytes, time of its last change in ns); zeros where only the name counts."""

LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
OF_THE_LOADER = Path("/etc/ld.so.preload")
"""Linux loads the libraries that it names into every process."""


def stamps(roots: Iterable[Path]) -> Stamps:
    """Of the trees at `roots`, and of what every process loads."""
    found: Stamps = {}
    for root in roots:
        found |= {str(root / name): stamp for name, stamp in tree_stamps(root).items()}
    return found | dict(_of_every_process())


def changed(before: Stamps, now: Stamps) -> list[str]:
    """Paths that are not as they were, in order. Libraries may be removed: that is nobody's gain."""
    gone = {path for path in before.keys() - now.keys() if before[path] != (0, 0)}
    return sorted(gone | {path for path, stamp in now.items() if before.get(path) != stamp})


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
