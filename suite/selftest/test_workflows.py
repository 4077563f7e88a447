"""What the linters do not see in the workflows: an unreviewed pull request must never reach a GPU runner."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / ".github" / "workflows").glob("*.yml"))


def triggers(text: str) -> set[str]:
    """Names below the top-level `on:`."""
    block = re.search(r"^on:\n((?:[ #].*\n|\n)+)", text, re.MULTILINE)
    assert block, "no `on:` with one trigger a line"
    return set(re.findall(r"^  (\w+):", block.group(1), re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_only_hosted_runners_see_pull_requests(path):
    text = path.read_text()
    assert triggers(text), path
    if "self-hosted" in text:
        assert triggers(text) <= {"schedule", "workflow_dispatch", "push"}


def test_both_kinds_of_workflow_are_there():
    hosted = {path.name: "self-hosted" not in path.read_text() for path in WORKFLOWS}
    assert hosted == {"cpu.yml": True, "gpu.yml": False}
