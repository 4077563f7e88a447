"""The base of `--base REF`: the tree of another commit, checked out beside this one."""

from __future__ import annotations

import atexit
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path

from .folders import new_folder, remove


class BaseError(Exception):
    """The base cannot be had; the text says why."""


def checked_out(root: Path, ref: str) -> tuple[str, str, Path]:
    """(ref, its SHA, a temporary folder with its kernels/ and baselines/). The folder goes when this process ends."""
    found = _git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if found.returncode:
        words = found.stderr.decode(errors="replace").partition("\n")[0]  # nothing where it merely knows no such commit
        why = f"git says: {words}." if words else f"git knows no such commit in {root}."
        raise BaseError(
            f"--base {ref}: {why} Fetch it first (git fetch origin; --unshallow in a shallow clone), or name another."
        )
    sha = found.stdout.decode().strip()
    has_baselines = _git(root, "cat-file", "-e", f"{sha}:baselines").returncode == 0
    archive = _git(root, "archive", "--format=zip", sha, "kernels", *(["baselines"] if has_baselines else []))
    if archive.returncode:
        raise BaseError(f"--base {ref}: commit {sha[:12]} has no kernels/ folder to measure against.")
    folder = new_folder("kernelgate-base-")
    atexit.register(remove, folder)
    with zipfile.ZipFile(BytesIO(archive.stdout)) as files:  # no name in a zip leads out of the folder, unlike in a tar
        files.extractall(folder)
    return ref, sha, folder


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    except OSError as error:
        raise BaseError(f"--base needs git, which cannot be run here ({error.strerror}): install it.") from error
