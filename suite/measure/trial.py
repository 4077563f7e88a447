"""A campaign on kernels that are no part of the project: judged or measured in a copy of it, which is then thrown away.

Used by whatever tries kernels of its own: the gate's error rates, the cheating kernels, the canary.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernels.discover import KernelInfo, discover
from kernels.problem import Cost

from ..device.detect import PROJECT_ROOT, ChosenDevice
from ..record.source import copy_measured
from .campaign import Campaign
from .crew import Crew
from .turns import Turns


@dataclass
class Notebook:
    """A journal in memory."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def append(self, event: dict[str, Any]) -> None:
        """Remember one event."""
        self.events.append(event)


class _Campaign(Campaign):
    """Journals no problem: this process may not know those of a trial's tree."""

    witness_always = False
    """Whether calls are timed by this process's own clock in every launch, not in the first one only."""

    def _record_cost(self, problem: str, cost: Cost) -> None:
        return

    def _measure(self, launch_id: str, problem: str, kernels: list[str], phases_s: dict[str, float]) -> set[str]:
        self._witnesses |= self.witness_always
        return super()._measure(launch_id, problem, kernels, phases_s)


@dataclass
class Trial:
    """A tree of kernels and a campaign on it."""

    root: Path
    campaign: _Campaign
    notebook: Notebook
    launches: int = 0

    @functools.cached_property
    def kernels(self) -> dict[str, KernelInfo]:
        """All kernels of the tree by id, as it was written."""
        return discover(self.root)

    def check(self, kernel: str, problem: str, distribution: str = "normal") -> dict[str, Any]:
        """Run one kernel on fresh inputs and have its outputs judged. Returns the check's record."""
        return self.campaign.check(self.kernels[kernel], problem, distribution)

    def launch(self, work: dict[str, list[str]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """One launch of `work` (problem -> kernels). Returns its measurements and failures, as journaled."""
        self.launches += 1
        seen = len(self.notebook.events)
        self.campaign.launch(self.launches, work, False, (), lambda problem: None)
        new = self.notebook.events[seen:]
        return [e for e in new if e["event"] == "measurement"], [e for e in new if e["event"] == "failure"]


@contextlib.contextmanager
def trial(
    chosen: ChosenDevice,
    additions: Mapping[str, str | Path],
    seed: int | None = None,
    turns: Turns | None = None,
) -> Iterator[Trial]:
    """A trial on a copy of the project with `additions` (path in the tree, `kernels/mla/x.py`, -> text or file).

    `seed` draws all inputs; a fresh one by default, so that no kernel can know them. Trials that share a GPU share
    `turns`: or one would be timed while another computes.
    """
    with tempfile.TemporaryDirectory(prefix="kernelgate-trial-") as folder:
        root = copy_project(Path(folder) / "tree", additions)
        crew, notebook = Crew(root, chosen, Path(folder) / "workers.log"), Notebook()
        crew.turns = turns or crew.turns
        drawn = secrets.randbelow(1 << 48) if seed is None else seed
        campaign = _Campaign(crew, notebook, f"trial-{secrets.token_hex(4)}", drawn)
        try:
            yield Trial(root, campaign, notebook)
        finally:
            campaign.close()


def copy_project(root: Path, additions: Mapping[str, str | Path]) -> Path:
    """Copy kernels/ and suite/ to `root` (new), then write `additions`, which may replace what was copied."""
    copy_measured(PROJECT_ROOT, root)
    for name, content in additions.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else content.read_text(encoding="utf-8"), encoding="utf-8")
    return root
