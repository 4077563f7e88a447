"""Reading JSON that others wrote: strict parsing, then validation against schemas/<kind>.schema.json.

Every failure is a `RecordError` whose sentence names the file, the JSON path, the rule and what to do.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NoReturn

import jsonschema
from jsonschema.exceptions import ValidationError, best_match

Kind = Literal["run", "baseline", "manifest", "specs", "error_rates", "targets"]
Document = dict[str, Any]

MAX_BYTES = 256 * 2**20
MAX_INTEGER = 2**64
MAX_SHOWN_CHARS = 200
"""Of a value, within an error sentence."""
MAX_ERRORS = 64
"""Violations looked at to name the most telling one; a file of a million bad numbers needs no more."""

WHAT_TO_DO: dict[str, str] = {
    "run": "Measure again, or rebuild it from its journal with --resume.",
    "baseline": "Restore it with git and let `kernelgate promote` write it; it is not edited by hand.",
    "manifest": "Correct the manifest, or let its generator write it again.",
    "specs": "Correct that row of the data sheet.",
    "error_rates": "Measure it again with `kernelgate selftest --aa`.",
    "targets": "Correct that target.",
}
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class RecordError(Exception):
    """A record that cannot be read, written or believed. The message is a sentence for people."""


def load(path: str | Path, kind: Kind, max_bytes: int = MAX_BYTES) -> Document:
    """Read and validate one JSON file of `kind`. Raises RecordError."""
    document = parse(read_bytes(path, max_bytes), str(path), WHAT_TO_DO[kind])
    return validate(document, kind, str(path))


def validate(document: object, kind: Kind, where: str) -> Document:
    """Return `document` if it satisfies the schema of `kind`; `where` names it in the RecordError otherwise."""
    if not isinstance(document, dict):
        raise RecordError(f"{where}: $ is {_shown(document)}, but a {kind} is a JSON object. {WHAT_TO_DO[kind]}")
    _check_version(document, kind, where)
    try:
        errors = list(itertools.islice(_validator(kind).iter_errors(document), MAX_ERRORS))
    except RecursionError:
        raise RecordError(f"{where}: is nested too deeply to be a {kind}. {WHAT_TO_DO[kind]}") from None
    if errors:
        raise RecordError(f"{where}: {_explain(best_match(errors))} {WHAT_TO_DO[kind]}")
    return document


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file of at most `max_bytes`. Raises RecordError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise RecordError(f"{path}: is not a regular file. Name the file itself.")
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"{path}: cannot be read ({reason}). Check the path and its permissions.") from None
    if len(data) > max_bytes:
        raise RecordError(f"{path}: is larger than {max_bytes} bytes, the most that is read. Check what it holds.")
    return data


def parse(data: bytes, where: str, what_to_do: str = "") -> Any:
    """Strict JSON in UTF-8: no duplicate keys, no NaN or infinity, no integer beyond 2**64, no lone surrogate."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: byte {error.start} is not UTF-8. {what_to_do}".rstrip()) from None
    if "\n<<<<<<< " in f"\n{text}":
        raise RecordError(f"{where}: holds merge conflict markers. Resolve the conflict, whole claims at a time.")
    try:
        document = _decoder().decode(text)
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except _Refused as refused:
        raise RecordError(f"{where}: {refused} {what_to_do}".rstrip()) from None
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        place = "ends too early" if is_cut else "is not JSON"
        sentence = f"{where}: {place} at line {error.lineno}, column {error.colno} ({error.msg}). {what_to_do}"
        raise RecordError(sentence.rstrip()) from None
    except RecursionError:
        raise RecordError(f"{where}: is nested too deeply. {what_to_do}".rstrip()) from None
    except UnicodeEncodeError:
        raise RecordError(f"{where}: a string holds half of a surrogate pair. {what_to_do}".rstrip()) from None
    return document


def schema_version(kind: Kind) -> str:
    """The value of "schema" in files of `kind` that this version writes and reads: `kernelgate.run/1`."""
    version: str = _schema(kind)["properties"]["schema"]["const"]
    return version


def now_utc() -> str:
    """The present, as records write it: `2026-11-22T18:01:02Z`."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_utc(text: str) -> datetime:
    """The moment that a record's `..._utc` field names. Raises ValueError."""
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone; end it with Z.")
    try:
        return moment.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError(f"{text!r} lies before the year 1 or after 9999.") from None


class _Refused(ValueError):
    """Valid for Python's json, not for us."""


@functools.cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded
    )


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f"the key {_shown(twice)} appears twice in one object.")
    return document


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no JSON number.")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"the number {text[:40]} is not finite.")
    return value


def _bounded(text: str) -> int:
    value = int(text) if len(text) <= 21 else MAX_INTEGER + 1
    if abs(value) > MAX_INTEGER:
        raise _Refused(f"the integer {text[:40]} is beyond 2**64.")
    return value


@functools.cache
def _schema(kind: Kind) -> Document:
    path = Path(__file__).parent / "schemas" / f"{kind}.schema.json"
    document = parse(read_bytes(path), str(path))
    assert isinstance(document, dict), f"{path} is no schema"
    return document


@functools.cache
def _validator(kind: Kind) -> Any:
    formats = jsonschema.FormatChecker(formats=())
    formats.checks("date-time", raises=ValueError)(lambda text: not isinstance(text, str) or bool(parse_utc(text)))
    extend: Any = jsonschema.validators.extend  # untyped
    fast = extend(jsonschema.Draft202012Validator, {"items": _items})
    return fast(_schema(kind), format_checker=formats)


def _items(validator: Any, items: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """`items`, 30 times faster for lists of positive numbers: samples are most of a run's bytes."""
    simple = isinstance(instance, list) and items == {"type": "number", "exclusiveMinimum": 0}
    if not (simple and all(type(value) in (float, int) and value > 0 for value in instance)):
        yield from jsonschema.Draft202012Validator.VALIDATORS["items"](validator, items, instance, schema)


def _check_version(document: Document, kind: Kind, where: str) -> None:
    expected, found = schema_version(kind), document.get("schema")
    if found == expected:
        return
    name = expected.partition("/")[0] + "/"
    if isinstance(found, str) and found.startswith(name):
        advice = f"this version of kernelgate reads only {expected!r}. Use the version that wrote it."
    else:
        advice = f"a {kind} says {expected!r}. Name a {kind} file."
    raise RecordError(f"{where}: $.schema is {_shown(found)}, {advice}")


def _explain(error: ValidationError | None) -> str:
    assert error is not None
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        name = next(name for name in error.instance if name not in known)
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else "."
        return f"{_place(error)}: the property {_shown(name)} is unknown (rule additionalProperties){meant}"
    if error.validator == "required":
        return f"{_place(error)}: {error.message} (rule required)."
    rule = f"rule {error.validator} {_shown(error.validator_value)}"
    return f"{_place(error)}: {_shown(error.instance)} breaks {rule}."


def _place(error: ValidationError) -> str:
    """The JSON path, whose keys are the document's, without control characters and of bounded length."""
    path = error.json_path
    return (path if path.isprintable() else repr(path)[1:-1])[:MAX_SHOWN_CHARS]


def _shown(value: object) -> str:
    # repr of a slice, so that a huge value costs nothing
    text = repr(value[:MAX_SHOWN_CHARS]) if isinstance(value, (str, list)) else repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."
