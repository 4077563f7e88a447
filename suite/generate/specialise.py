"""From a template and a table of choices: one readable, self-contained source, with everything constant folded.

What holds in every row of the table, or follows from the device's architecture, is no parameter of the file: branches
on it are gone, and so are the functions, parameters and imports that only they needed. What differs by problem stays a
field of the choice, which the file reads from the table in its manifest.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType

from kernels.device import Device
from kernels.space import Space

from ..record.schema import RecordError
from .branches import branch_launches, fold_within_branches
from .fold import Fields, fold_branches, fold_expressions, fold_fields, propagate, split_pairs, spread
from .merge import merged
from .parameters import (
    constant_fields,
    drop_fields,
    drop_unread,
    drop_unused,
    end_tuples,
    fold_parameters,
    unread_fields,
)  # fmt: skip
from .source import Edit, Pass, Source
from .table import Row, in_common

MOST_ROUNDS = 2000
RUFF_RULES = "F401,F841,I,RET504,RUF100,SIM300"
"""Unused imports and locals, the order of imports, names for what is returned at once, directives without effect,
constants on the left of a comparison, where a name stood."""

HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Written by kernelgate generate from kernels/{family}/{template}.py.
# How, and its table of choices: {manifest}
"""
TABLE_IMPORTS = "import functools\nimport json\nfrom pathlib import Path\nfrom typing import Any\n"
TABLE = '''

@functools.cache
def _table() -> tuple[tuple[dict[str, Any], {choice}], ...]:
    """(when, what is chosen then), the first that matches counts; read once, from the manifest beside this file."""
    manifest = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    rows = manifest["dispatch"]
    return tuple((row["when"], {choice}(**{{name: row["use"][name] for name in _CHOSEN}})) for row in rows)


def _matches(when: dict[str, Any], found: dict[str, Any]) -> bool:
    """A fact is given as a value, or as a range, `min` and `max` included."""
    for name, wanted in when.items():
        low, high = (wanted.get("min"), wanted.get("max")) if isinstance(wanted, dict) else (wanted, wanted)
        if (low is not None and found[name] < low) or (high is not None and found[name] > high):
            return False
    return True


def {choice_for}(problem: {problem}, device: Device) -> {choice}:
    """The choice of the table's first row that matches."""
    found = {facts}(problem)
    return next(chosen for when, chosen in _table() if _matches(when, found))

'''
SUPPORTS = '''

def {name}(problem: Problem, device: Device) -> str | None:
    """Its choices are for one architecture."""
    if device.kind != "cpu" and device.arch != "{arch}":
        return f"it was generated for {arch}, and this device is {{device.arch}}"
    return {otherwise}

'''


def specialised(folder: Path, space: Space, rows: Sequence[Row], device: Device, manifest: str) -> str:
    """The file's text. `folder` is the family's, `manifest` the name of the file beside it.

    RecordError where ruff, which lays it out, is not installed.
    """
    source = merged(folder, space.template, space.parts)
    constant = in_common([row["use"] for row in rows])
    source = _with_table(source, space, [f.name for f in fields(space.choice) if f.name not in constant])
    constants = {(space.choice.__name__, name): value for name, value in constant.items()}
    known = {**constants, **_facts_of(device)}
    source = drop_fields(source, constants)
    passes = (fold_within_branches(space.choice.__name__, rows), fold_parameters(_imported_numbers(source, folder)))
    source = _settled(source, known, passes)
    source = _with_supports(Source(source.text.replace("  # fmt: skip", "")), device)
    header = HEADER.format(family=folder.name, template=space.template, manifest=manifest)
    return _laid_out(f'{header}"""{space.about.rstrip()}\n"""\n\n{source.text}')


def _facts_of(device: Device) -> Fields:
    """What every device of an architecture has in common."""
    names = ("kind", "arch", "warp_size", "fp8_dtype", "compute_capability", "shared_memory_bytes")
    return {("Device", name): getattr(device, name) for name in names}


def _with_table(source: Source, space: Space, varying: Sequence[str]) -> Source:
    """With a look-up in the table, of the fields that vary, where the template chose by itself."""
    by_hand = source.functions()[space.choice_for.__name__]
    if not varying:
        text = f"\n\ndef {by_hand.name}() -> {space.choice.__name__}:\n    return {space.choice.__name__}()\n\n"
        calls = [n for n in ast.walk(source.tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
                 and n.func.id == by_hand.name]  # fmt: skip
        emptied = [source.put(call, f"{by_hand.name}()") for call in calls]
        return source.edited([[_replaced(source, by_hand, text)], *([edit] for edit in emptied)])
    problem = ast.unparse(by_hand.args.args[0].annotation or ast.Name("Problem"))
    text = TABLE.format(choice=space.choice.__name__, choice_for=by_hand.name, facts=space.facts.__name__,
                        problem=problem)  # fmt: skip
    chosen = "(" + "".join(f'"{name}", ' for name in varying).rstrip() + ")"
    text = text.replace("_CHOSEN", chosen if len(chosen) < 30 else "CHOSEN")
    named = "" if len(chosen) < 30 else f"\n\nCHOSEN = {chosen}\n"
    source = source.edited([[_replaced(source, by_hand, named + text)]])
    return Source(source.text.replace("\n\n", f"\n\n{TABLE_IMPORTS}", 1))


def _replaced(source: Source, node: ast.stmt, text: str) -> Edit:
    first, last, _ = source.cut(node)
    return first, last, text


def _with_supports(source: Source, device: Device) -> Source:
    """With a KERNEL of the right origin that says what it was generated for."""
    kernel = next(n for n in source.tree.body if isinstance(n, ast.Assign) and source.of(n.targets[0]) == "KERNEL")
    call = kernel.value
    assert isinstance(call, ast.Call)
    given = {k.arg: k for k in call.keywords}
    edits = [source.put(given["origin"], "origin=Origin.GENERATED")]
    otherwise, name = "None", "supports"
    if "supports" in given:
        own = source.of(given["supports"].value)
        otherwise, name = f"{own}(problem, device)", "supports" if own != "supports" else "supports_here"
        edits.append(source.put(given["supports"], f"supports={name}"))
    else:
        last = source.span(call.keywords[-1])[1]
        edits.append((last, last, f", supports={name}"))
    start = source.starts[source.rows(kernel)[0] - 1]
    edits.append((start, start, SUPPORTS.format(arch=device.arch, name=name, otherwise=otherwise).lstrip("\n") + "\n"))
    return source.edited([edits])


def _imported_numbers(source: Source, folder: Path) -> dict[str, int]:
    """Integers that the file imports from its family's problem."""
    import importlib

    module: ModuleType = importlib.import_module(f"kernels.{folder.name}.problem")
    names = [alias.name for node in source.tree.body if isinstance(node, ast.ImportFrom) and node.module == "problem"
             for alias in node.names]  # fmt: skip
    return {name: getattr(module, name) for name in names if type(getattr(module, name, None)) is int}


def _settled(source: Source, known: Fields, more: Sequence[Pass]) -> Source:
    """After every pass, again and again, until nothing changes."""
    passes: tuple[Pass, ...] = (
        fold_expressions, fold_branches, branch_launches, spread, split_pairs, propagate, drop_unused, end_tuples,
        *more, drop_unread,
    )  # fmt: skip
    for _ in range(MOST_ROUNDS):
        before = source.text
        for one in (fold_fields(known), *passes):
            source = source.edited(one(source))
        found = constant_fields(source)
        known = {**known, **found}
        source = drop_fields(source.edited(fold_fields(known)(source)), found)
        source = drop_fields(source, unread_fields(source))
        if source.text == before:
            return source
    raise RuntimeError(f"Specialising does not settle after {MOST_ROUNDS} rounds.")


def _laid_out(text: str) -> str:
    """As the project's formatter has it, without imports and locals that nothing uses."""
    common = ["--isolated", "--line-length", "120", "--target-version", "py310"]
    fixing = ["check", "--fix-only", "--unsafe-fixes", "--quiet", "--select", RUFF_RULES, *common]
    skipping = ["--config", "format.skip-magic-trailing-comma=true"]
    for arguments in (fixing, ["format", "--quiet", *common, *skipping]):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", "generated.py", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if "No module named ruff" in done.stderr:
            raise RecordError("`kernelgate generate` lays its files out with ruff: pip install 'kernelgate[generate]'.")
        if done.returncode:
            raise RuntimeError(f"ruff {arguments[0]} refuses a generated file: {done.stderr.strip()}")
        text = done.stdout
    return text
