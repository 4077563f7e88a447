"""Which function is launched, decided at run time: each gets a launch of its own, with what is constant there."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from .fold import literal
from .source import Edit, Group, Pass, Source, bodies, host_body, loads, parameter_classes, walk
from .table import Row, in_common


def branch_launches(source: Source) -> Iterator[Group]:
    """`f, options = chosen(state)` and the one statement that uses them as an `if` with a launch in each branch.

    `chosen` is a host function of the form `if test: return a, b` and then `return c, d`.
    """
    for node in source.nodes:
        for block in bodies(node):
            for index, statement in enumerate(block):
                if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Tuple):
                    continue
                ways = _ways(source, statement.value)
                if ways is None:
                    continue
                names = [t.id for t in statement.targets[0].elts if isinstance(t, ast.Name)]
                users = [s for s in block[index + 1 :] if any(loads(s, name) for name in names)]
                if len(users) == 1:
                    yield [source.cut(statement, comments=False), _branched(source, users[0], names, *ways)]


def _ways(source: Source, call: ast.expr) -> tuple[str, list[str], list[str]] | None:
    """(test, what is returned if it holds, what else) of a call to a function that only chooses, or None."""
    called = host_body(source, call)
    if called is None or not isinstance(call, ast.Call):
        return None
    function, body = called
    same = [source.of(a) for a in call.args] == [a.arg for a in function.args.args] and not call.keywords
    if len(body) != 2 or not same or not isinstance(body[0], ast.If) or body[0].orelse:
        return None
    first, second = _returned(source, body[0].body), _returned(source, body[1:])
    return (source.of(body[0].test), first, second) if first and second else None


def _returned(source: Source, block: Sequence[ast.stmt]) -> list[str]:
    if len(block) == 1 and isinstance(block[0], ast.Return) and isinstance(block[0].value, ast.Tuple):
        return [source.of(value) for value in block[0].value.elts]
    return []


def _branched(source: Source, user: ast.stmt, names: list[str], test: str, first: list[str], second: list[str]) -> Edit:
    start = source.starts[user.lineno - 1]
    end = source.starts[user.end_lineno or user.lineno]
    indent = " " * user.col_offset
    texts = []
    for values in (first, second):
        named = zip(names, values, strict=True)
        text = source.part(start, end, [source.put(use, value) for name, value in named for use in loads(user, name)])
        texts.append("".join(f"    {line}" for line in text.splitlines(keepends=True)))
    return start, end, f"{indent}if {test}:\n{texts[0]}{indent}else:\n{texts[1]}"


def fold_within_branches(choice: str, rows: Sequence[Row]) -> Pass:
    """A pass: in the branch of `if state.x`, what all rows with that x have in common is constant.

    `state` is of a class that takes fields of the class `choice` over as they are.
    """

    def run(source: Source) -> Iterator[Group]:
        taken = _taken_over(source, choice)
        for function in source.functions().values():
            types = parameter_classes(function)
            for node in walk(function):
                if isinstance(node, ast.If):
                    for edit in _folded(source, node, types, taken, rows):
                        yield [edit]

    return run


def _folded(
    source: Source, node: ast.If, types: Mapping[str, str], taken: Mapping[tuple[str, str], str], rows: Sequence[Row]
) -> Iterator[Edit]:
    tests = node.test.values if isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And) else [node.test]
    switches = [name for test in tests if (name := _choice(test, types, taken))]
    chosen = [row["use"] for row in rows if all(row["use"][name] is True for name in switches)]
    if not switches or not chosen:
        return
    constant = in_common(chosen)
    for statement in node.body:
        for read in walk(statement):
            name = _choice(read, types, taken)
            if name in constant:
                yield source.put(read, literal(constant[name]))


def _choice(node: ast.AST, types: Mapping[str, str], taken: Mapping[tuple[str, str], str]) -> str:
    """The field of the choice that an expression reads, or nothing."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return taken.get((types.get(node.value.id, ""), node.attr), "")
    return ""


def _taken_over(source: Source, choice: str) -> dict[tuple[str, str], str]:
    """(class, field) -> the field of the choice that it always is."""
    found: dict[tuple[str, str], str] = {}
    for function in source.functions().values():
        own = {name for name, of in parameter_classes(function).items() if of == choice}
        for call in walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in source.classes():
                for keyword in call.keywords:
                    value = keyword.value
                    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id in own:
                        found[call.func.id, keyword.arg or ""] = value.attr
    return found
