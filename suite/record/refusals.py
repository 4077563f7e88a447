"""What speaks against promoting any of some runs: each objection is a sentence with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .baseline import DEVICE_FIELDS
from .schema import Document

MIN_LAUNCHES = 5
MIN_RUNS = 2
JUDGED_STATUSES = (0, 1)
"""Exit statuses of runs that came to an end: everything holds, or something was found."""


def objections(runs: Sequence[Document], source: Document, owner: str, reason: str | None) -> list[str]:
    """Why none of `runs` can make claims; empty where they can. `source` is the state of the project here."""
    found = list(_call_objections(owner, reason))
    for run in runs:
        found += _run_objections(run, source)
    return [*found, *_set_objections(runs)]


def commit(run: Document, source: Document) -> str | None:
    """The commit that a run measured: its own word, or the clean commit here with the same files."""
    for state in (run["source"], source):
        same = state["tree_sha256"] == run["source"]["tree_sha256"]
        if same and state["dirty"] is False and state["git_sha"] is not None:
            return str(state["git_sha"])
    return None


def _call_objections(owner: str, reason: str | None) -> Iterator[str]:
    if not owner.strip() or len(owner) > 200 or not owner.isprintable():
        yield "A claim needs an owner: give the name of who answers for it, one line of at most 200 characters."
    if reason is not None and (not reason.strip() or len(reason) > 2000):
        yield "--reason says why a claim is lowered, in at most 2000 characters; leave it out where none is lowered."


def _run_objections(run: Document, source: Document) -> Iterator[str]:
    name = f"Run {run['run_id']}"
    if run["unfit"] is not None:
        yield f"{name}: the runner was unfit ({run['unfit']}). Measure again on a quiet device."
    elif run["finished_utc"] is None or run["exit_status"] is None:
        yield f"{name}: was cut off. Finish it with --resume, then promote."
    elif run["exit_status"] not in JUDGED_STATUSES:
        yield f"{name}: ended with exit status {run['exit_status']} and judged nothing. Measure again."
    if commit(run, source) is not None:
        return
    if run["source"]["git_sha"] is None:
        yield (
            f"{name}: was measured without git, and what it measured is not the clean commit that is checked out here. "
            "Check out the commit that it measured, then promote again."
        )
    else:
        yield f"{name}: kernels/ or suite/ had changes that were not committed. Commit them and measure again."


def _set_objections(runs: Sequence[Document]) -> Iterator[str]:
    ids = [run["run_id"] for run in runs]
    yield from (f"Run {name} was given twice. Give each run once." for name in sorted(set(ids)) if ids.count(name) > 1)
    launches = {launch["launch"] for run in runs for launch in run["launches"] if launch["measurements"]}
    if len(set(ids)) < MIN_RUNS or len(launches) < MIN_LAUNCHES:
        yield (
            f"A claim needs {MIN_LAUNCHES} launches in {MIN_RUNS} separate runs; here are {len(launches)} in "
            f"{len(set(ids))}. Measure again and promote all runs together."
        )
    shared: list[tuple[str, str]] = [("device", name) for name in DEVICE_FIELDS] + [("source", "tree_sha256")]
    shared += [("environment", name) for name in ("torch", "triton", "driver", "runtime")]
    for section, name in shared:
        values = {str(run[section].get(name)) for run in runs}
        if len(values) > 1:
            yield f"The runs differ in {section}.{name} ({', '.join(sorted(values))}). Promote each kind by itself."
