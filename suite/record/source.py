"""Which code a run measured: the commit, whether the tree was clean, and a hash that needs no git."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEASURED_FOLDERS = ("kernels", "suite")
"""What decides a measurement; the rest of the project (reports, baselines) may change between runs."""
GIT_TIMEOUT_S = 60


def source_state(root: str | Path) -> dict[str, Any]:
    """`{"git_sha": str | None, "dirty": bool | None, "tree_sha256": str}` of the project at `root`.

    Without git, or where `root` is not what git tracks, git_sha and dirty are None. `dirty` is about
    MEASURED_FOLDERS only and includes untracked files.
    """
    root = Path(root)
    tree_sha256 = _tree_sha256(root)
    # `HEAD:./kernels` fails where root merely lies inside someone else's repository.
    tracked = all(_git(root, "rev-parse", "--verify", "--quiet", f"HEAD:./{name}") for name in MEASURED_FOLDERS)
    git_sha = _git(root, "rev-parse", "--verify", "--quiet", "HEAD") if tracked else None
    status = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *MEASURED_FOLDERS)
    if not git_sha or status is None:
        return {"git_sha": None, "dirty": None, "tree_sha256": tree_sha256}
    return {"git_sha": git_sha, "dirty": bool(status), "tree_sha256": tree_sha256}


def copy_measured(root: Path, target: Path) -> None:
    """Copy MEASURED_FOLDERS from `root` into `target`, without compiled files, selftests, and what editors leave."""
    for part in MEASURED_FOLDERS:
        shutil.copytree(root / part, target / part, ignore=_not_copied)


def _not_copied(folder: str, names: list[str]) -> set[str]:
    """Neither links to nothing nor pipes either: nobody could read them."""
    left_out = ("__pycache__", "selftest")
    return {name for name in names if name in left_out or name.startswith(".") or not _is_content(folder, name)}


def _is_content(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.isfile(path) or os.path.isdir(path)


def _tree_sha256(root: Path) -> str:
    """SHA-256 over the sorted paths below root and contents of all files in MEASURED_FOLDERS."""
    digest = hashlib.sha256()
    for path in sorted(_files(root), key=lambda path: path.relative_to(root).as_posix()):
        content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
        digest.update(path.relative_to(root).as_posix().encode("utf-8", "surrogateescape") + b"\0")
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    """Without what Python and editors leave behind."""
    for name in MEASURED_FOLDERS:
        for folder, subfolders, files in os.walk(root / name):
            subfolders[:] = [sub for sub in subfolders if sub != "__pycache__" and not sub.startswith(".")]
            for file in files:
                if not file.startswith(".") and not file.endswith((".pyc", "~")):
                    path = Path(folder, file)
                    if path.is_symlink() or path.is_file():  # reading a pipe never ends
                        yield path


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git, no repository or no such thing."""
    # Inside a git hook these point at the hook's repository, whatever -C says.
    environment = {key: value for key, value in os.environ.items() if key not in _GIT_VARIABLES}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_TIMEOUT_S, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


_GIT_VARIABLES = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"})
