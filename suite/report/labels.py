"""Short names for problems: `b64 s4096 h16` instead of an id that carries every field.

A label leaves out what all problems of a family in one report share, and what most of them share (the usual
value); `Labels.legend` says what was left out, so that label and legend together identify a problem.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .roofs import SHORT_DTYPES
from .tables import plain

_TAGS = {
    "batch": "b", "seq_len_q": "q", "seq_len_kv": "s", "seq_len": "s", "num_heads": "h", "num_kv_heads": "kvh",
    "head_dim": "d", "page_size": "page", "num_tokens": "t", "tokens": "t", "hidden_size": "hidden",
    "intermediate_size": "inter", "num_experts": "e", "top_k": "top", "softmax_scale": "scale",
}  # fmt: skip
_USUAL_SHARE, _USUAL_SIZE_SHARE = 1 / 2, 2 / 3
"""What is usual is shared by more than that: sizes are what a reader looks for, and stay longer."""
MOST_CHARS = 60
"""Of a label: longer ones leave a plot no room."""
WORDY_CHARS = 44
"""Of a label without its task, which makes two lines beside a plot: longer ones name only what tells problems apart."""


class Labels:
    """The labels of one family's problems within one report; with several tasks, the task leads each.

    `problems` maps ids to fields: plain values by name, as records hold them.
    """

    def __init__(self, problems: Mapping[str, Mapping[str, Any]]) -> None:
        tasks: dict[str, dict[str, Mapping[str, Any]]] = {}
        for problem, fields in problems.items():
            tasks.setdefault(_task(problem), {})[problem] = fields
        self._tasks = {task: _TaskLabels(members) for task, members in tasks.items()}

    def label(self, problem: str) -> str:
        """The short label of a problem; an id that is not among them stands for itself, without its family."""
        labels = self._tasks.get(_task(problem))
        shown = labels.label(problem) if labels else None
        if shown is None:
            return plain(problem.split("/", 1)[-1], 80)
        return plain(f"{_task(problem)} {shown}" if len(self._tasks) > 1 else shown, MOST_CHARS)

    def legend(self) -> str:
        """What the labels abbreviate and what they leave out, as plain sentences."""
        tags = dict.fromkeys(tag for labels in self._tasks.values() for tag in labels.tags())
        usual = {task: labels.usual() for task, labels in self._tasks.items()}
        if len(usual) > 1:
            said = "; ".join(f"{plain(task, 40)}: {words}" for task, words in usual.items() if words)
        else:
            said = next(iter(usual.values()), "")
        parts = (", ".join(tags), said and f"Unless a label says otherwise: {said}")
        return " ".join(f"{part}." for part in parts if part)


class _TaskLabels:
    """The same for the problems of one task, which have the same fields."""

    def __init__(self, problems: Mapping[str, Mapping[str, Any]]) -> None:
        self._problems = problems
        self._counts = {
            name: Counter(_token(name, fields[name]) for fields in problems.values() if name in fields)
            for name in dict.fromkeys(name for fields in problems.values() for name in fields)
        }

    def label(self, problem: str) -> str | None:
        fields = self._problems.get(problem)
        if fields is None:
            return None
        tokens = {n: _token(n, v) for n, v in fields.items() if self._varies(n) and _token(n, v) != self._usual(n)}
        sizes = [_token(n, v) for n, v in fields.items() if n in _TAGS and isinstance(v, int)]
        return " ".join(self._few_of(problem, tokens).values() or sizes) or None

    def _few_of(self, problem: str, tokens: dict[str, str]) -> dict[str, str]:
        """As many of the tokens as there is room for, sizes and types the last to go; no two problems get the same."""
        others = [{_token(*field) for field in f.items()} for name, f in self._problems.items() if name != problem]
        while len(" ".join(tokens.values())) > WORDY_CHARS:
            without = {n: {n_: t for n_, t in tokens.items() if n_ != n} for n in tokens}
            spare = [n for n in tokens if not any(set(without[n].values()) <= other for other in others)]
            if not spare:
                break
            tokens = without[max(spare, key=lambda n: (not n.endswith("dtype"), n not in _TAGS, len(tokens[n])))]
        return tokens

    def tags(self) -> list[str]:
        varying = [n for n in self._counts if self._varies(n)]
        return [f"{_TAGS[n]} = {n}" for n in varying or self._counts if n in _TAGS]

    def usual(self) -> str:
        return ", ".join(f"{n} {_value(v)}" for n in self._counts if (v := self._left_out(n)) is not None)

    def _varies(self, name: str) -> bool:
        return len(self._counts[name]) > 1

    def _usual(self, name: str) -> str | None:
        """The token that most of the problems share."""
        token, times = self._counts[name].most_common(1)[0]
        share = _USUAL_SIZE_SHARE if name in _TAGS else _USUAL_SHARE
        return token if times > share * len(self._problems) else None

    def _left_out(self, name: str) -> Any:
        usual = self._usual(name)
        values = (fields[name] for fields in self._problems.values() if name in fields)
        return next((v for v in values if _token(name, v) == usual), None)


def short_labels(problems: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Labels for a run's `problems`, by id; each family is abbreviated by itself and its name left out."""
    labels = {family: Labels(fields_of(problems, family)) for family in families(problems)}
    return {name: labels[problem["family"]].label(name) for name, problem in problems.items()}


def families(problems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the families among a run's problems, sorted."""
    return sorted({problem["family"] for problem in problems.values()})


def fields_of(problems: Mapping[str, Mapping[str, Any]], family: str) -> dict[str, Mapping[str, Any]]:
    """Fields of one family's problems by id, in the order of their sizes rather than of their ids."""
    members = {name: p["fields"] for name, p in problems.items() if p["family"] == family}
    ordered = sorted(members, key=lambda name: (_natural(members[name].values()), name))
    return {name: members[name] for name in ordered}


def _task(problem: str) -> str:
    """What an id names first behind its family: `decode`."""
    return problem.split("/", 1)[-1].partition("-")[0]


def _natural(values: Iterable[Any]) -> list[tuple[int, float, str]]:
    return [(0, float(v), "") if isinstance(v, (int, float)) else (1, 0.0, str(v)) for v in values]


def _token(name: str, value: Any) -> str:
    """One field as part of a label: b64, fp8, kv-fp8, causal, no-causal."""
    shown = _value(value)
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    if isinstance(value, (int, float)):
        return f"{_TAGS.get(name, name if len(name) == 1 else name + ' ')}{shown}"
    prefix = name.removesuffix("dtype").strip("_") if name.endswith("dtype") else ""
    return f"{prefix}-{shown}" if prefix else shown


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return SHORT_DTYPES.get(str(value)) or plain(value, 40)
