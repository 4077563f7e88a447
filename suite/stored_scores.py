"""Evidence of earlier runs of the same code on the same device: a re-run adds to it and never re-rolls the dice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .judge.comparisons import Comparison
from .record.baseline import Claim
from .record.scores import BASE_PREFIX, Measured
from .record.store import EvidenceStore, evidence_key

FOLDER = "runs/evidence"
"""Wherever a run is recorded, its evidence is added up here; a CI cache carries it between ephemeral runners."""

Scores = dict[tuple[str, str, str], list[float]]
"""(kernel, rival, problem) -> launch scores."""


def load(run: dict[str, Any], root: Path, claims: Iterable[Claim]) -> Scores:
    """Scores of earlier runs, without those that a claim was made on: they would only confirm themselves."""
    made_on = {(c.kernel, c.rival, c.problem): set(c.runs) for c in claims}
    scores: Scores = {}
    for row in EvidenceStore(root / FOLDER).load(_key(run)):
        pair, run_id = (row["kernel"], row["rival"], row["problem"]), row["launch"].rpartition("/")[0]
        if run_id != run["run_id"] and run_id not in made_on.get(pair, ()):
            scores.setdefault(pair, []).append(row["score"])
    return scores


def append(run: dict[str, Any], root: Path, comparisons: Iterable[Comparison]) -> None:
    """Add this run's latest launch to what is stored, for every claim: a run that is cut off leaves its evidence."""
    measured = Measured([run])
    latest = run["launches"][-1]
    rows = [
        {
            "launch": launch,
            "problem": c.problem,
            "kernel": c.kernel,
            "rival": c.rival,
            "score": score,
            "utc": latest["started_utc"],
        }
        for c in comparisons
        if c.kind == "claim" and c.rival
        for launch, score in measured.scores(c.kernel, c.rival, c.problem).items()
        if launch == latest["launch"]
    ]
    EvidenceStore(root / FOLDER).append(_key(run), rows)


def _key(run: dict[str, Any]) -> str:
    versions = {k: v for k, v in run["environment"].items() if isinstance(v, str)}
    libraries = {k: v["version"] for k, v in run["kernels"].items() if v["version"] and not k.startswith(BASE_PREFIX)}
    versions |= {f"kernel {kernel}": version for kernel, version in libraries.items()}
    return evidence_key(run["device"]["key"], run["source"]["tree_sha256"], versions)
