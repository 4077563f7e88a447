"""baselines/<device>/selftest/error_rates.json: how often the gate errs on that device, as it was last measured there.

In a folder of its own, because every .json beside it in baselines/<device>/ is a family's claims.
"""

from __future__ import annotations

import json
from pathlib import Path

from .baseline import baseline_path
from .files import write_atomic
from .schema import Document, load, validate

FILE = Path("selftest", "error_rates.json")


def error_rates_path(root: str | Path, device_key: str) -> Path:
    """Where a device's error rates lie; `root` is the project's. RecordError where the key cannot name a folder."""
    return baseline_path(root, device_key, "any").parent / FILE


def read_error_rates(root: str | Path, device_key: str) -> Document | None:
    """The stored file, or None where the device was not measured. Raises RecordError."""
    path = error_rates_path(root, device_key)
    return load(path, "error_rates") if path.exists() else None


def write_error_rates(root: str | Path, document: Document) -> Path:
    """Validate and write, at once or not at all. Raises RecordError."""
    path = error_rates_path(root, document["device"]["key"])
    write_atomic(path, format_error_rates(document))
    return path


def format_error_rates(document: Document) -> str:
    """The text of the file: one list of scores a line, so that it stays readable. Raises RecordError."""
    validate(document, "error_rates", "The new error rates")
    classes = ",\n".join(_class(one) for one in document["classes"])
    rest = {name: value for name, value in document.items() if name != "classes"}
    lines = [f"  {json.dumps(name)}: {_line(rest[name])}" for name in sorted(rest)]
    return '{\n  "classes": [\n' + classes + "\n  ],\n" + ",\n".join(lines) + "\n}\n"


def _class(one: Document) -> str:
    lines = []
    for name in sorted(one):
        value = one[name]
        if name == "planted":
            body = "[\n" + ",\n".join(f"        {_line(point)}" for point in value) + "\n      ]"
        elif name == "scores":
            body = "{\n" + ",\n".join(f"        {json.dumps(k)}: {_line(v)}" for k, v in value.items()) + "\n      }"
        else:
            body = _line(value)
        lines.append(f"      {json.dumps(name)}: {body}")
    return "    {\n" + ",\n".join(lines) + "\n    }"


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
