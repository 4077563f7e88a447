"""The short version of one run for a GitHub step summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import verdicts as judged
from .labels import short_labels
from .tables import code, count, text

_ROWS = 50


def summary_markdown(run: Mapping[str, Any]) -> str:
    """Verdict counts, every verdict that is not green (the worst first), and where the rest is."""
    ordered = judged.worst_first(run["verdicts"])
    counted = ", ".join(f"**{n} {text(status)}**" for status, n in judged.counts(ordered).items())
    labels = short_labels(run["problems"])
    title = f"## kernelgate on {text(run['device']['name'])}: {counted or 'nothing was judged'}"
    alarming = [verdict for verdict in ordered if verdict["status"] not in judged.GREEN]
    parts = [title]
    if run["unfit"]:
        parts.append(f"**Unfit runner:** {text(run['unfit'])}")
    if alarming:
        parts.append(judged.markdown_table(alarming[:_ROWS], lambda problem: labels.get(problem, problem)))
    if len(alarming) > _ROWS:
        parts.append(f"{count(len(alarming) - _ROWS, 'more verdict')} like these in the report.")
    commit = run["source"]["git_sha"]
    at_commit = f", commit {code(str(commit)[:12])}" if commit else ""
    parts.append(f"Full report and run record: the artifact of this job, run {code(run['run_id'])}{at_commit}.")
    return "\n\n".join(parts) + "\n"
