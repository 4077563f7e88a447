"""What a worker's reply may look like. Workers run code of others: their replies are data, checked before use.

Only form is checked here; whether a reply is true is asked where it is used.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match

from ..record.journal import plain

Reply = dict[str, Any]

MOST_LEVELS = 50
"""Of lists and objects in each other: real replies have ten. Python's own bound depends on its version."""
TEXT = {"type": "string", "maxLength": 20000}
CODE = {"type": "string", "pattern": "^[a-z0-9_]{1,100}$"}
NUMBERS = {"type": "object", "maxProperties": 1000, "additionalProperties": {"type": ["number", "null"]}}
OUTPUTS = {
    "type": "object",
    "maxProperties": 100,
    "additionalProperties": {
        "type": "object",
        "required": ["dtype", "shape", "dense", "file", "sha256"],
        "properties": {
            "dtype": TEXT,
            "shape": {"type": "array", "maxItems": 64, "items": {"type": "integer"}},
            "dense": {"type": "boolean"},
            "file": TEXT,
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        },
    },
}
FAILURE = {"type": "object", "required": ["kernel", "reason", "sentence"],
           "properties": {"kernel": TEXT, "reason": CODE, "sentence": TEXT}}  # fmt: skip
MEASUREMENT = {
    "type": "object",
    "required": ["timer", "times_us", "host_us", "plan_us", "graph_safe", "notes"],
    "properties": {
        "timer": {"enum": ["graph_records", "graph_events", "queued_events", "perf_counter"]},
        "times_us": {
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "minItems": 1,
                "maxItems": 100000,
                "items": {"type": "number", "exclusiveMinimum": 0},
            },
        },
        "host_us": NUMBERS,
        "plan_us": NUMBERS,
        "graph_safe": {"type": "object", "additionalProperties": {"type": ["boolean", "null"]}},
        "notes": {"type": "array", "maxItems": 1000, "items": TEXT},
        "facts": {"type": "object", "maxProperties": 1000},
    },
}
KEPT = {
    "type": "array",
    "maxItems": 10000,
    "items": {
        "type": "object",
        "required": ["kernel", "outputs"],
        "properties": {"kernel": TEXT, "property": TEXT, "outputs": OUTPUTS},
    },
}
SCHEMAS: dict[str, Reply] = {
    "describe": {
        "required": ["unsupported", "versions", "factors", "broken"],
        "properties": {
            "unsupported": {
                "type": "object",
                "additionalProperties": {"type": "object", "additionalProperties": TEXT},
            },
            "versions": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 500}},
            "factors": {
                "type": "object",
                "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}},
            },
            "broken": {"type": "object", "additionalProperties": TEXT},
        },
    },
    "check": {"required": ["outputs"], "properties": {"outputs": OUTPUTS}},
    "measure": {
        "required": ["measurements", "kept", "failures", "cost", "phases_s"],
        "properties": {
            "measurements": {"type": "array", "maxItems": 10, "items": MEASUREMENT},
            "kept": KEPT,
            "failures": {"type": "array", "maxItems": 1000, "items": FAILURE},
            "cost": {"type": "object"},
            "phases_s": {"type": "object", "maxProperties": 100, "additionalProperties": {"type": "number"}},
        },
    },
    "property": {
        "required": ["kept"],
        "properties": {
            "kept": {
                "type": "array",
                "maxItems": 1000,
                "items": {
                    "type": "object",
                    "required": ["kernel", "property", "outputs"],
                    "properties": {"kernel": TEXT, "property": TEXT, "outputs": OUTPUTS},
                },
            },
        },
    },
}
"""Of the operations that run kernels of others, where they say that they ran."""
FAILED = {"required": ["reason", "sentence"], "properties": {"reason": CODE, "sentence": TEXT}}


def malformed(message: Reply, reply: Reply) -> str | None:
    """What is wrong with the form of a reply to a request, as a sentence; None where nothing is.

    Before it is looked at, numbers in `reply` that are not finite become null, as in a journal, and what no terminal
    or log should be sent becomes a blank.
    """
    try:
        reply.update(plain(inert(reply)))
    except RecursionError:
        return "Its worker sent a reply that is nested too deeply."
    status = reply.get("status")
    if status not in ("ran", "failed", "incorrect", "skipped") and not (status == "correct" and _judges(message)):
        return f"Its worker sent a reply without a status: {json.dumps(status)[:100]}."
    operation = message.get("op", "") if status == "ran" else "failed"
    error = best_match(_validator(operation).iter_errors(reply)) if operation in (*SCHEMAS, "failed") else None
    if error is not None and status != "correct":
        place = repr(error.json_path)[1:-1][:120]  # a key of the reply may hold anything
        return f"Its worker sent a malformed reply: {place} breaks rule {error.validator}."
    return _foreign_names(message, reply) if operation in SCHEMAS else None


def _judges(message: Reply) -> bool:
    """Whether a request was to the referee: no process that ran a kernel may call its outputs correct."""
    return str(message.get("op", "")).startswith("referee")


def inert(value: Any, levels: int = MOST_LEVELS) -> Any:
    """A JSON value whose texts are one line of printable characters each: no colours, no commands of a CI's log.

    RecursionError where more than so many lists and objects lie in each other.
    """
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)
    if isinstance(value, (dict, list)) and levels == 0:
        raise RecursionError
    if isinstance(value, dict):
        return {inert(key): inert(item, levels - 1) for key, item in value.items()}
    return [inert(item, levels - 1) for item in value] if isinstance(value, list) else value


def _foreign_names(message: Reply, reply: Reply) -> str | None:
    """Kernels that were not asked for, and files that lie elsewhere than they must."""
    asked = set(message.get("kernels", ()))
    named = [set(reply.get(table, ())) for table in ("unsupported", "versions", "factors", "broken")]
    named += [set(m["times_us"]) for m in reply.get("measurements", ())]
    named += [{entry["kernel"]} for entry in (*reply.get("kept", ()), *reply.get("failures", ()))]
    if any(names - asked for names in named):
        return "Its worker reported on a kernel that it was not asked for."
    described = [*reply.get("outputs", {}).values()]
    described += [output for entry in reply.get("kept", ()) for output in entry["outputs"].values()]
    if any(not _lies_in(output["file"], message["output_dir"]) for output in described):
        return "Its worker named a file of outputs that is none, or not in its folder."
    return None


def _lies_in(file: str, folder: str) -> bool:
    """Whether `file` is a regular file right in `folder`, and no link."""
    path = Path(file)
    try:
        return os.path.dirname(file) == folder and path.is_file() and not path.is_symlink()
    except (OSError, ValueError):
        return False


@functools.cache
def _validator(operation: str) -> Any:
    return jsonschema.Draft202012Validator(FAILED if operation == "failed" else SCHEMAS[operation])
