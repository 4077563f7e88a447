"""The manifest of a candidate that is filed: what is known of a kernel that somebody else's generator wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..record.schema import Document, schema_version, validate
from .forms import Candidate
from .outcome import Outcome


@dataclass(frozen=True)
class Author:
    """Who wrote a candidate."""

    generator: str
    version: str
    license: str
    """SPDX expression."""


def manifest_of(candidate: Candidate, outcome: Outcome, run: Mapping[str, Any], author: Author) -> Document:
    """What a manifest says; what nobody told us is null, or nothing. Raises RecordError."""
    (kernel_file, *_), environment = candidate.files, run["environment"]
    document: Document = {
        "schema": schema_version("manifest"),
        "family": candidate.family,
        "domain": {"tasks": list(candidate.tasks), "fields": {}},
        "devices": [run["device"]["key"]],
        "entry_point": "KERNEL",
        "origin": "generated",
        "generator": {"name": author.generator, "version": author.version},
        "seed": None,
        "space_sha256": None,
        "budget_s": {"wall": 0, "device": 0},
        "trials": {"tried": 0, "failed": 0, "failures": {}},
        "parents": [],
        "compilers": {name: str(environment[name]) for name in ("torch", "triton") if environment.get(name)},
        "source_sha256": hashlib.sha256(candidate.files[kernel_file].encode()).hexdigest(),
        "license": author.license,
        "workspace_bytes": None,
        "deterministic": None,
        "measured": outcome.status == "measured",
    }
    return validate(document, "manifest", f"The manifest of {candidate.kernel}")


def manifest_text(document: Document) -> str:
    """As it is filed."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
