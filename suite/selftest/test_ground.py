"""Files that processes to come will load: what is changed, or new, is named."""

from __future__ import annotations

import site as site_module
from pathlib import Path

import pytest

from suite.measure import ground
from suite.record.source import MEASURED_FOLDERS


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in MEASURED_FOLDERS:
        (tmp_path / "tree" / folder).mkdir(parents=True)
    (tmp_path / "tree" / "suite" / "check.py").write_text("LIMIT = 1")
    return tmp_path / "tree"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "known.pth").write_text("")
    monkeypatch.setattr(site_module, "getsitepackages", lambda: [str(folder)])
    return folder


def test_a_tree_that_nobody_touched_has_not_changed(tree: Path, site: Path) -> None:
    assert not ground.changed(ground.stamps([tree]), ground.stamps([tree]))


def test_an_edited_copy_of_the_judge_is_named_also_when_it_is_put_back(tree: Path, site: Path) -> None:
    before, judge = ground.stamps([tree]), tree / "suite" / "check.py"
    judge.write_text("LIMIT = 9")
    judge.write_text("LIMIT = 1")
    assert ground.changed(before, ground.stamps([tree])) == [str(judge)]


@pytest.mark.parametrize("name", ["planted.pth", "sitecustomize.py", "library.py", "package", "known.pth"])
def test_what_is_planted_beside_installed_libraries_is_named(name: str, tree: Path, site: Path) -> None:
    before, planted = ground.stamps([tree]), site / name
    planted.write_text("import sys") if planted.suffix else planted.mkdir()
    assert ground.changed(before, ground.stamps([tree])) == [str(planted)]


def test_a_library_that_is_removed_or_compiled_is_nobodys_gain(tree: Path, site: Path) -> None:
    (site / "old.py").write_text("")
    before = ground.stamps([tree])
    (site / "old.py").unlink()
    (site / "__pycache__").mkdir()
    assert not ground.changed(before, ground.stamps([tree]))


def test_a_base_has_kernels_only(tmp_path: Path, site: Path) -> None:
    (tmp_path / "base" / "kernels").mkdir(parents=True)
    (tmp_path / "base" / "kernels" / "one.py").write_text("")
    assert str(tmp_path / "base" / "kernels" / "one.py") in ground.stamps([tmp_path / "base"])
