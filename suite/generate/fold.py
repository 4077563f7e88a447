"""Constants are folded and branches on them resolved. Every pass reads a source and offers groups of edits."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from .source import (
    Edit,
    Function,
    Group,
    Pass,
    Source,
    bodies,
    class_of,
    host_body,
    is_jit,
    loads,
    parameter_classes,
    walk,
    without,
)  # fmt: skip

Fields = Mapping[tuple[str, str], Any]
"""(class, field) -> what it always holds."""
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}  # fmt: skip
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip


def is_literal(node: ast.expr) -> bool:
    """A plain constant, or a dict of them by name."""
    if isinstance(node, ast.Dict):
        return all(
            k is not None and is_literal(k) and is_literal(v) for k, v in zip(node.keys, node.values, strict=True)
        )
    return isinstance(node, ast.Constant) and not isinstance(node.value, (bytes, complex))


def fold_fields(fields: Fields) -> Pass:
    """A pass that puts values in place of fields that always hold them: `device.kind`, `state.hopper`."""

    def run(source: Source) -> Iterator[Group]:
        returns = {f.name: class_of(f.returns) for f in source.functions().values()}
        returns |= {name: name for name in source.classes()}
        for own, function in _functions_and_methods(source):
            types = parameter_classes(function) | ({"self": own} if own else {})
            for node in walk(function):
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                    called = node.value.func.id if isinstance(node.value.func, ast.Name) else ""
                    types |= {t.id: returns.get(called, "") for t in node.targets if isinstance(t, ast.Name)}
            for node in walk(function):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    key = (types.get(node.value.id, ""), node.attr)
                    if key in fields:
                        text = literal(fields[key])
                        of_it = isinstance(source.parents[node], ast.Attribute)
                        yield [source.put(node, f"({text})" if of_it else text)]

    return run


def _functions_and_methods(source: Source) -> Iterator[tuple[str, Function]]:
    """Functions, and with the name of their class its methods."""
    yield from (("", function) for function in source.functions().values())
    for name, node in source.classes().items():
        yield from ((name, method) for method in node.body if isinstance(method, ast.FunctionDef))


def literal(value: Any) -> str:
    """As it is written; dicts and strings with double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return '"' + repr("'" + value)[2:-1].replace('"', '\\"') + '"'
    return repr(value)


def fold_expressions(source: Source) -> Iterator[Group]:
    """Operations on literals, `and`, `or` and conditional expressions with a literal in the deciding place."""
    for node in source.nodes:
        if isinstance(node, ast.IfExp) and isinstance(node.test, ast.Constant):
            yield [source.put(node, source.of(node.body if node.test.value else node.orelse))]
        elif isinstance(node, ast.IfExp) and _is_same(source, node):
            yield [source.put(node, source.of(node.body))]
        elif isinstance(node, ast.BoolOp) and isinstance(node.values[0], ast.Constant):
            first = node.values[0]
            decided = bool(first.value) == isinstance(node.op, ast.Or)
            rest = source.data[source.span(first)[1] : source.span(node)[1]].decode()  # with its own parentheses
            kept = re.sub(r"^[\s)]*(and|or)\b\s*", "", rest)
            yield [source.put(node, source.of(first) if decided else kept)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and _is_one(node.right):
            text = source.of(node.left)
            yield [source.put(node, f"({text})" if _needs_parentheses(source, node) else text)]
        elif isinstance(node, ast.expr) and not isinstance(node, (ast.Constant, ast.BoolOp)):
            value = _computed(node)
            if value is not None:
                yield [_in_place(source, node, literal(value))]


def _needs_parentheses(source: Source, product: ast.BinOp) -> bool:
    """Whether the left factor would fall apart where the product stands."""
    is_grouped = b")" in source.data[source.span(product.left)[1] : source.span(product.right)[0]]
    return is_grouped and isinstance(source.parents[product], (ast.BinOp, ast.UnaryOp))


def _is_same(source: Source, node: ast.IfExp) -> bool:
    """Whether it makes no difference how it is decided."""
    does_nothing = not any(isinstance(n, (ast.Call, ast.Await, ast.NamedExpr)) for n in walk(node.test))
    return does_nothing and source.of(node.body) == source.of(node.orelse)


def _in_place(source: Source, node: ast.expr, text: str) -> Edit:
    """The edit that puts a literal in place of an expression, and of the parentheses that only it needed."""
    first, last = source.span(node)
    before, after = source.data[:first], source.data[last:]
    grouped = before.endswith(b"(") and after.startswith(b")")
    is_call = before[-2:-1].isalnum() or before[-2:-1] in (b"_", b")", b"]")
    if text.startswith("-"):
        return first, last, text if grouped else f"({text})"
    return (first - 1, last + 1, text) if grouped and not is_call else (first, last, text)


def _computed(node: ast.expr) -> Any:
    """What an operation on literals gives, or None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
        chosen = {"min": min, "max": max}[node.func.id]
        plain = _integers(*node.args) and len(node.args) > 1 and not node.keywords
        return chosen(a.value for a in node.args) if plain else None  # type: ignore[attr-defined]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant):
        return not node.operand.value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY and _integers(node.left, node.right):
        left, right = node.left.value, node.right.value  # type: ignore[attr-defined]
        return (
            None if right == 0 and isinstance(node.op, (ast.Mod, ast.FloorDiv)) else _BINARY[type(node.op)](left, right)
        )
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE:
        left, right = node.left, node.comparators[0]
        if isinstance(left, ast.Constant) and isinstance(right, ast.Constant) and type(left.value) is type(right.value):
            return _COMPARE[type(node.ops[0])](left.value, right.value)
    return None


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value == 1


def _integers(*nodes: ast.expr) -> bool:
    return all(isinstance(n, ast.Constant) and type(n.value) is int for n in nodes)


def fold_branches(source: Source) -> Iterator[Group]:
    """`if` on a literal, and what stands after a `return`."""
    for node in source.nodes:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Constant):
            yield [_resolved(source, node)]
        for block in bodies(node):
            for before, after in pairwise(block):
                if isinstance(before, (ast.Return, ast.Raise)):
                    yield [source.cut(after)]
                    break


def _resolved(source: Source, node: ast.If) -> Edit:
    is_elif = source.of(node).startswith("elif")
    chosen = node.body if isinstance(node.test, ast.Constant) and node.test.value else node.orelse
    first, last = source.starts[node.lineno - 1], source.starts[node.end_lineno or node.lineno]
    indent = " " * node.col_offset
    if is_elif and chosen is node.body:
        return first, last, f"{indent}else:\n{_block(source, chosen)}"
    if len(chosen) == 1 and isinstance(chosen[0], ast.If) and source.of(chosen[0]).startswith("elif"):
        text = _block(source, chosen)
        return first, last, text if is_elif else text.replace("elif", "if", 1)
    if is_elif:
        return first, last, f"{indent}else:\n{_block(source, chosen)}" if chosen else ""
    if chosen:
        return first, last, _block(source, chosen, chosen[0].col_offset - node.col_offset)
    return source.cut(node)


def _block(source: Source, block: list[ast.stmt], dedent: int = 0) -> str:
    """Whole lines of a block, with the comments above its first statement, moved to the left."""
    first = source.rows(block[0])[0]
    lines = [source.line(number) for number in range(first, (block[-1].end_lineno or 0) + 1)]
    return "".join(line[dedent:] if line[:dedent].isspace() else line for line in lines)


def spread(source: Source) -> Iterator[Group]:
    """`f(**{"a": x, **rest})` as `f(a=x, **rest)`; `**options(x)` of a host function that only returns such a dict, and
    `**options(True)` of one that only returns, with what they return."""
    for node in source.nodes:
        if not isinstance(node, ast.Call):
            continue
        elements = [*node.args, *node.keywords]
        for index, keyword in enumerate(elements):
            if not isinstance(keyword, ast.keyword) or keyword.arg:
                continue
            returned = _returned_options(source, keyword.value)
            if returned is not None:
                yield [source.put(keyword, f"**({returned})")]
            if not isinstance(keyword.value, ast.Dict):
                continue
            pairs = list(zip(keyword.value.keys, keyword.value.values, strict=True))
            if all(k is None or (isinstance(k, ast.Constant) and isinstance(k.value, str)) for k, _ in pairs):
                texts = [f"{k.value!s}={source.of(v)}" if isinstance(k, ast.Constant) else f"**{source.of(v)}"
                         for k, v in pairs]  # fmt: skip
                yield [source.put(keyword, ", ".join(texts)) if texts else without(source, elements, index)]


def propagate(source: Source) -> Iterator[Group]:
    """In host functions: a local name that is assigned once, to a literal, a function or a dict of options."""
    functions = source.functions()
    for function in functions.values():
        if is_jit(function):
            continue
        given = parameter_classes(function)
        for node in walk(function):
            if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
                continue
            name, value = node.targets[0].id, node.value
            named = [n for n in walk(function) if isinstance(n, ast.Name) and n.id == name]
            stores = [n for n in named if not isinstance(n.ctx, ast.Load)]
            uses = loads(function, name)
            is_function = isinstance(value, ast.Name) and value.id in functions
            options = isinstance(value, ast.Dict) and all(_is_spread(source, use) for use in uses)
            is_plain = is_literal(value) and not isinstance(value, ast.Dict)  # a dict may be filled later
            is_constant = len(stores) == 1 and name not in given and name not in source.hidden
            if is_constant and (is_plain or is_function or options):
                yield [source.cut(node), *(source.put(use, source.of(value)) for use in uses)]


def _is_spread(source: Source, use: ast.Name) -> bool:
    parent = source.parents[use]
    return isinstance(parent, ast.keyword) and parent.arg is None


def split_pairs(source: Source) -> Iterator[Group]:
    """`a, b = x, y` as two assignments; `a, b = f(c)` of a host function that only returns, with what it returns."""
    for node in source.nodes:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)):
            continue
        names = [t.id for t in node.targets[0].elts if isinstance(t, ast.Name)]
        returned = _only_return(source, node.value)
        if returned is not None:
            yield [source.put(node.value, returned)]
        elif isinstance(node.value, ast.Tuple) and _splits(source, node, node.value, names):
            indent = "\n" + " " * node.col_offset
            pairs = zip(names, node.value.elts, strict=True)
            yield [source.put(node, indent.join(f"{name} = {source.of(value)}" for name, value in pairs))]


def _splits(source: Source, node: ast.Assign, values: ast.Tuple, names: list[str]) -> bool:
    """Whether parting them helps to fold something and changes nothing."""
    is_dict_or_function = any(
        isinstance(v, ast.Dict) or (isinstance(v, ast.Name) and v.id in source.functions()) for v in values.elts
    )
    return is_dict_or_function and len(values.elts) == len(names) and not any(loads(values, name) for name in names)


def _returned_options(source: Source, call: ast.expr) -> str | None:
    """The text of a dict that a host function only returns, or of what else it returns for literals."""
    returned = _only_return(source, call)
    if returned is None or not isinstance(call, ast.Call):
        return None
    is_dict = isinstance(ast.parse(f"({returned})", mode="eval").body, ast.Dict)
    return returned if is_dict or all(isinstance(a, ast.Constant) for a in call.args) else None


def _only_return(source: Source, call: ast.expr) -> str | None:
    """The text of what a host function returns, with a call's arguments; None where it does more than that."""
    called = host_body(source, call)
    if called is None or not isinstance(call, ast.Call):
        return None
    function, body = called
    plain = not call.keywords and all(isinstance(a, (ast.Name, ast.Constant)) for a in call.args)
    if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None or not plain:
        return None
    value = body[0].value
    given = {a.arg: source.of(b) for a, b in zip(function.args.args, call.args, strict=True)}
    names = [n for n in walk(value) if isinstance(n, ast.Name) and n.id in given]
    return source.part(*source.span(value), [source.put(name, given[name.id]) for name in names])
