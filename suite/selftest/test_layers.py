"""The architecture, held by reading every import: who may know whom, and what the pytest process never loads."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ABOUT_300_LINES = 320
NOT_OURS = {
    ".git",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "__pycache__",
    ".hypothesis",
    "runs",
    "build",
    "dist",
}

LAYERS = (
    {"kernels"},
    {"record"},  # stands alone: JSON only
    {"device"},
    {"judge", "measure", "emulate"},
    {"selection", "run_journal", "stored_scores", "canary_call"},
    {"ahead", "side_by_side"},
    {"checks"},
    {"bench", "compile_run", "property_checks"},
    {"report", "generate"},
    {"candidate"},
    {"interrupts", "progress", "refused_options", "replay_clock", "summary", "commands", "pytest_plugin"},
    {"cli"},
)
"""Parts of the project, lowest first. A part imports only from its own and from lower ones."""

STDLIB_ONLY = ("suite.judge.evidence", "suite.judge.gate")
NEVER_TORCH = ("suite.judge.evidence", "suite.judge.gate", "suite.record", "suite.report")
HEAVY = {"torch", "triton"}


@dataclass(frozen=True)
class Import:
    """One module that another one imports."""

    importer: str
    line: int
    target: str
    """Absolute and dotted; a submodule of ours where the imported name is one."""
    at_import: bool
    """Executed when the importer is imported: not within a function, not for type checkers only."""

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_modules() -> dict[str, Path]:
    files = [*(ROOT / "kernels").rglob("*.py"), *(ROOT / "suite").rglob("*.py"), ROOT / "conftest.py"]
    return {module_name(path): path for path in files if path.is_file()}


MODULES = find_modules()


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def targets_of(node: ast.Import | ast.ImportFrom, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = package[: len(package) - node.level + 1] if node.level else []
    stem = ".".join([*base, *([node.module] if node.module else [])])
    named = [f"{stem}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else stem for name in named]


def imports_below(nodes: list[ast.stmt], importer: str, package: list[str], at_import: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (Import(importer, node.lineno, target, at_import) for target in targets_of(node, package))
            continue
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        inner = [child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)]
        if function or is_type_checking(node):
            yield from imports_below(list(inner), importer, package, at_import=False)
        elif inner:  # a class, if, try or with: its body runs at import, its functions do not
            bodies = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
            bodies += [handler.body for handler in getattr(node, "handlers", [])]
            for body in bodies:
                yield from imports_below(body, importer, package, at_import)


def imports_of(module: str) -> list[Import]:
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    return list(imports_below(ast.parse(path.read_text()).body, module, package, at_import=True))


IMPORTS = {module: imports_of(module) for module in MODULES}


def everything() -> Iterator[Import]:
    for imports in IMPORTS.values():
        yield from imports


def part_of(module: str) -> str:
    names = module.split(".")
    return names[1] if names[0] == "suite" and len(names) > 1 else names[0]


def is_glue(module: str) -> bool:
    """May use pytest: the plugin, conftest.py, the three tests of kernels and the selftests."""
    return module in ("conftest", "suite.pytest_plugin") or module.startswith(("suite.test_", "suite.selftest"))


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_reader_sees_each_kind_of_import():
    lines = ["import a", "if TYPE_CHECKING:", "    import b", "try:", "    from .c import d", "except E:", "    pass"]
    source = "\n".join([*lines, "def f():", "    import e"])
    found = imports_below(ast.parse(source).body, "p.m", ["p"], at_import=True)
    assert [(i.target, i.at_import) for i in found] == [("a", True), ("b", False), ("p.c", True), ("e", False)]
    assert [i for i in everything() if i.top == "torch"], "not one import of torch was found: the reader is broken"


def test_imports_run_down_the_layers():
    rank = {part: level for level, parts in enumerate(LAYERS) for part in parts}
    ours = [i for i in everything() if i.top in ("kernels", "suite") and not is_glue(i.importer)]
    parts = {part_of(module) for i in ours for module in (i.importer, i.target)} - {"suite"}
    assert parts <= rank.keys(), f"give {sorted(parts - rank.keys())} a place in LAYERS"
    up = [str(i) for i in ours if part_of(i.target) != "suite" and rank[part_of(i.target)] > rank[part_of(i.importer)]]
    assert not up


def test_parts_do_not_import_each_other_in_a_circle():
    edges = {(part_of(i.importer), part_of(i.target)) for i in everything() if i.top in ("kernels", "suite")}
    edges = {(a, b) for a, b in edges if a != b and "suite" not in (a, b)}
    while inner := {(a, b) for a, b in edges if b in {source for source, _ in edges}}:
        if inner == edges:
            pytest.fail(f"these parts import each other in a circle: {sorted(edges)}")
        edges = inner


def test_record_stands_alone():
    allowed = sys.stdlib_module_names | {"suite", "jsonschema", "referencing"}
    foreign = [str(i) for i in everything() if within(i.importer, ("suite.record",)) and i.top not in allowed]
    assert not foreign
    assert not [str(i) for i in everything() if i.importer.startswith("suite.record") and i.top == "kernels"]


def test_statistics_are_pure():
    impure = [
        str(i)
        for i in everything()
        if i.importer in STDLIB_ONLY and i.top not in sys.stdlib_module_names and not i.target.startswith("suite.judge")
    ]
    assert not impure


def test_pytest_stays_in_the_glue():
    assert not [str(i) for i in everything() if i.top in ("pytest", "_pytest", "pluggy") and not is_glue(i.importer)]


def test_kernels_know_nothing_of_the_suite():
    assert not [str(i) for i in everything() if i.importer.startswith("kernels") and i.top in ("suite", "pytest")]


def test_kernels_import_each_other_relatively():
    """Two trees of kernels, head and base, live side by side in one process: an absolute import would mix them."""
    absolute = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for module, path in MODULES.items()
        if module.startswith("kernels")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "kernels" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").partition(".")[0] == "kernels")
    ]
    assert not absolute


def test_no_torch_where_only_records_are_read():
    assert not [str(i) for i in everything() if within(i.importer, NEVER_TORCH) and i.top in HEAVY]


def loaded_with(module: str) -> Iterator[Import]:
    """Every import that happens when `module` is imported, depth first."""
    todo, seen = [module], set()
    while todo:
        current = todo.pop()
        if current in seen or current not in MODULES:
            continue
        seen.add(current)
        todo += [".".join(current.split(".")[:n]) for n in range(1, current.count(".") + 1)]
        for found in (i for i in IMPORTS[current] if i.at_import):
            yield found
            todo.append(found.target)


PROBLEM_MODULES = [
    module
    for module in MODULES
    if module.startswith("kernels.") and module.endswith((".problem", ".properties")) and module.count(".") == 2
]


@pytest.mark.parametrize(
    "module",
    ["kernels.device", "kernels.kernel", "kernels.problem", "kernels.discover", *PROBLEM_MODULES]
    + [m for m in MODULES if (is_glue(m) and "selftest" not in m) or m == "suite.cli"],
)
def test_loading_it_loads_neither_torch_nor_triton(module):
    """What the pytest process imports must not start a GPU's runtime: only workers touch the device."""
    assert not [str(i) for i in loaded_with(module) if i.top in HEAVY]


def our_files(*suffixes: str) -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        foreign = any(part in NOT_OURS or part.startswith((".venv", ".bench", ".rivals")) for part in parts)
        if (
            not foreign
            and path.suffix in suffixes
            and path.is_file()
            and not any(p.endswith(".egg-info") for p in parts)
        ):
            yield path


def test_files_stay_short():
    by_people = (path for path in our_files(".py") if path.parent.name != "generated")
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in by_people}
    assert not {name: lines for name, lines in lengths.items() if lines > ABOUT_300_LINES}


def test_no_text_holds_a_path_of_one_machine():
    machine_path = re.compile(r"(?<![\w.}~])/(?:home|Users|root|work|workspace|tmp|mnt|opt/kg)/\w[^\s\"'`)]*")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in our_files(".py", ".md", ".json", ".toml", ".yml", ".yaml", ".txt", ".sh", ".svg", "")
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        for match in machine_path.finditer(line)
    ]
    assert not found
