"""What a run that cannot go on says: what was wrong, where, and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from suite.measure.crew import RunError
from suite.record.run import JOURNAL_NAME
from suite.summary import why_it_ended

pytestmark = pytest.mark.side_by_side


def bench(run_dir: Path, started: bool = True) -> Any:
    return SimpleNamespace(started=started, options=SimpleNamespace(run_dir=run_dir))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RunError("The run was ended."), "The run was ended. Nothing"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "Too many open files. `ulimit -a` tells"),
        (OSError(errno.ENOSPC, "The disk is full. Make room in /var/x"), "The disk is full. Make room in /var/x. Not"),
        (PermissionError(errno.EACCES, "Permission denied", "/var/x"), "/var/x: Permission denied. Nothing"),
    ],
)
def test_an_error_of_the_system_is_a_sentence(tmp_path: Path, error: Exception, told: str) -> None:
    (tmp_path / JOURNAL_NAME).touch()
    said = why_it_ended(error, bench(tmp_path))
    assert said.startswith(f"The run cannot go on. {told[:-3]}")
    assert f"--resume {tmp_path}" in said
    assert "Errno" not in said


def test_a_run_whose_folder_was_removed_is_not_to_be_resumed(tmp_path: Path) -> None:
    said = why_it_ended(RunError("No more."), bench(tmp_path / "gone"))
    assert "cannot be resumed" in said
    assert "Nothing measured is lost" not in said


def test_before_it_began_nothing_is_to_be_resumed(tmp_path: Path) -> None:
    assert why_it_ended(RunError("No device."), bench(tmp_path, started=False)) == "The run cannot go on. No device."
