"""Files that have no place among kernels cost no other kernel anything: they are told as broken, or left out."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kernels.discover import discover, load_problems
from suite.measure.fingerprint import host_fingerprint
from suite.record.source import copy_measured, source_state
from suite.selftest.toy_project import kernel

pytestmark = pytest.mark.side_by_side

SOUND = kernel("HAND")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of one family and one sound kernel."""
    (tmp_path / "suite").mkdir()
    (tmp_path / "kernels/toy").mkdir(parents=True)
    (tmp_path / "kernels/toy/problem.py").write_text("")
    (tmp_path / "kernels/toy/good.py").write_text(SOUND)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (f"x = {'(' * 5000}{')' * 5000}\n{SOUND}", "parentheses"),
        (f"{SOUND}\0", "null bytes"),
        (SOUND.replace('tasks=("product",)', "tasks=5"), "tasks must be a tuple of names"),
        (SOUND.replace('tasks=("product",)', 'tasks="product"'), "tasks must be a tuple of names"),
        (SOUND.replace('tasks=("product",)', "tasks={[]: 1}"), "unhashable"),
        (SOUND.replace("HAND", "MINE"), "origin must be written as one of Origin.REFERENCE"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_broken_kernel(root: Path, source: str, words: str) -> None:
    (root / "kernels/toy/bad.py").write_text(source)
    found = discover(root)
    assert words in str(found["toy/bad"].broken)
    assert found["toy/good"].broken is None
    host_fingerprint("toy/bad", root)


@pytest.mark.parametrize("expression", ["-" * 200_000 + "1", "a." * 50_000 + "b"])
def test_what_is_nested_without_end_costs_its_own_file_at_most(root: Path, expression: str) -> None:
    (root / "kernels/toy/bad.py").write_text(f"x = {expression}\n{SOUND}")  # Pythons differ in what they read of it
    assert list(discover(root)) == ["toy/bad", "toy/good"]
    host_fingerprint("toy/bad", root)


@pytest.mark.parametrize("line", [f"from {'.' * 200}x import y", f"from .{'x' * 300} import y"])
def test_an_import_that_leads_nowhere_is_followed_nowhere(root: Path, line: str) -> None:
    (root / "kernels/toy/lost.py").write_text(f"{line}\n{SOUND}")
    assert discover(root)["toy/lost"].broken is None


def test_what_is_no_file_is_one_broken_kernel(root: Path) -> None:
    folder = root / "kernels/toy"
    (folder / "folder.py").mkdir()
    (folder / "circle.py").symlink_to("circle.py")
    (folder / "nothing.py").symlink_to("nowhere.py")
    os.mkfifo(folder / "pipe.py")
    (folder / ".#good.py").symlink_to("somebody@somewhere.1234")  # Emacs: the file is being edited
    found = discover(root)
    assert list(found) == ["toy/circle", "toy/folder", "toy/good", "toy/nothing", "toy/pipe"]
    assert all("no regular file" in str(found[name].broken) for name in found if name != "toy/good")


def test_a_copy_of_the_tree_leaves_out_what_nobody_could_read(root: Path, tmp_path: Path) -> None:
    folder = root / "kernels/toy"
    os.mkfifo(folder / "pipe.py")
    (folder / "nothing.py").symlink_to("nowhere.py")
    (folder / ".#good.py").symlink_to("somebody@somewhere.1234")
    copy_measured(root, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path / "copy/kernels/toy")) == ["good.py", "problem.py"]
    assert source_state(root)["tree_sha256"]


@pytest.mark.parametrize("name", [b"copy of good.py", b"good (1).py", b"-k.py", b"a\nb.py", b"\xff.py", b"\xc3\xbc.py"])
def test_a_name_that_no_id_can_hold_is_a_broken_kernel_of_another_name(root: Path, name: bytes) -> None:
    (root / "kernels/toy" / os.fsdecode(name)).write_text(SOUND)
    (kernel_id,) = set(discover(root)) - {"toy/good"}
    found = discover(root)[kernel_id]
    assert re.fullmatch(r"toy/[A-Za-z0-9_-]+", kernel_id)
    assert "may be with letters, digits" in str(found.broken)
    assert str(found.broken).isprintable()


def test_a_family_that_no_id_can_hold_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="'toy copy': a family's name has letters"):
        load_problems("toy copy")
