"""A kernel that changes settings of the whole process is named, with the setting."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from suite.measure.torch_state import StateChanged, unchanged_state  # noqa: E402 - after the skip


def test_a_changed_setting_is_named() -> None:
    before = torch.get_num_threads()
    with pytest.raises(StateChanged, match=f"num_threads from {before} to {before + 1}"), unchanged_state():
        torch.set_num_threads(before + 1)
    torch.set_num_threads(before)


def test_a_block_that_changes_nothing_passes() -> None:
    with unchanged_state():
        torch.ones(3).sum()
