"""Parameters that always get the same value, or are never read, leave their functions; so do fields of dataclasses."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .fold import Fields, is_literal, literal
from .source import Edit, Function, Group, Pass, Source, is_jit, is_string, local_names, without

Constants = Mapping[str, Any]
"""Names -> the numbers that they stand for."""


@dataclass(frozen=True)
class _Uses:
    """Calls and launches of a function, and its warps; `escapes` where it is also used in another way."""

    calls: list[ast.Call]
    escapes: bool


def fold_parameters(constants: Constants) -> Pass:
    """A pass that puts a literal in place of a parameter which every call and launch gives it: constexpr ones of
    compiled functions, all of others.

    `constants` are those that the module imports.
    """

    def run(source: Source) -> Iterator[Group]:
        known = {**_own_constants(source), **constants}
        for function in source.functions().values():
            uses = _uses(source, function.name)
            if uses.escapes or not uses.calls:
                continue
            for parameter in function.args.args:
                if _is_foldable(source, function, parameter):
                    yield from _folded(source, function, parameter, uses, known)

    return run


def _is_foldable(source: Source, function: Function, parameter: ast.arg) -> bool:
    if is_jit(function):
        return "constexpr" in ast.unparse(parameter.annotation or ast.Pass())
    stores = (n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return not function.args.defaults and parameter.arg not in source.hidden and parameter.arg not in stores


def _own_constants(source: Source) -> Constants:
    """Names that the module itself gives a number, once."""
    given = [(node.targets[0].id, node.value.value) for node in source.tree.body
             if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
             and isinstance(node.value, ast.Constant) and isinstance(node.value.value, (int, float))]  # fmt: skip
    return dict(given)


def _folded(
    source: Source, function: Function, parameter: ast.arg, uses: _Uses, constants: Constants
) -> Iterator[Group]:
    given = [_given(function, parameter.arg, call) for call in uses.calls]
    values = {_value(source, node, constants) for node in given if node is not None}
    if None in given or len(values) != 1 or None in values:
        return
    (text,) = values
    reads = source.reads_in[function.name].get(parameter.arg, [])
    yield [*_without_parameter(source, function, parameter, uses), *(source.put(read, str(text)) for read in reads)]


def drop_unread(source: Source) -> Iterator[Group]:
    """Parameters that their function does not read, where every call is seen."""
    for function in source.functions().values():
        uses = _uses(source, function.name)
        if uses.escapes or not uses.calls or function.args.defaults:
            continue
        for parameter in function.args.args:
            given = [_given(function, parameter.arg, call) for call in uses.calls]
            read = parameter.arg in source.reads_in[function.name] or parameter.arg in source.hidden
            if not read and None not in given:
                yield _without_parameter(source, function, parameter, uses)


def constant_fields(source: Source) -> dict[tuple[str, str], Any]:
    """(class, field) of dataclasses here that every construction gives the same literal, or leaves at its default."""
    found: dict[tuple[str, str], Any] = {}
    for name, node, calls in _constructed(source):
        given_names = {keyword.arg for call in calls for keyword in call.keywords}
        found |= {(name, f): value for f, value in _defaults(node).items() if f not in given_names}
        for keyword in calls[0].keywords:
            given = [next((k.value for k in call.keywords if k.arg == keyword.arg), None) for call in calls]
            texts = {source.of(value) for value in given if value is not None and is_literal(value)}
            if len(texts) == 1 and None not in given and all(v is not None and is_literal(v) for v in given):
                found[name, keyword.arg or ""] = ast.literal_eval(next(iter(texts)))
    return found


def unread_fields(source: Source) -> dict[tuple[str, str], Any]:
    """(class, field) -> None of dataclasses here whose fields of that name nothing reads."""
    read = {node.attr for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)}
    found: dict[tuple[str, str], Any] = {}
    for name, definition, _ in _constructed(source):
        found |= {(name, field): None for field in _declared(source, definition) if field not in read}
    return found


def _constructed(source: Source) -> Iterator[tuple[str, ast.ClassDef, list[ast.Call]]]:
    """Classes with all their constructions, where each names every field that it gives."""
    for name, definition in source.classes().items():
        calls = _uses(source, name).calls
        if calls and not any(call.args or any(k.arg is None for k in call.keywords) for call in calls):
            yield name, definition, calls


def _declared(source: Source, definition: ast.ClassDef) -> dict[str, ast.AnnAssign]:
    return {source.of(node.target): node for node in definition.body if isinstance(node, ast.AnnAssign)}


def _defaults(node: ast.ClassDef) -> dict[str, Any]:
    """Fields with a literal for their default."""
    given = [(n.target, n.value) for n in node.body if isinstance(n, ast.AnnAssign) and n.value is not None]
    return {target.id: ast.literal_eval(value) for target, value in given
            if isinstance(target, ast.Name) and is_literal(value)}  # fmt: skip


def drop_fields(source: Source, names: Fields) -> Source:
    """Without these fields, where they are declared and where they are given."""
    while groups := [group for name in source.classes() for group in _without_fields(source, name, names)]:
        source = source.edited(groups)
    return source


def _without_fields(source: Source, class_name: str, names: Fields) -> Iterator[Group]:
    declared = _declared(source, source.classes()[class_name])
    gone = [field for field in declared if (class_name, field) in names]
    if len(gone) == len(declared) > 1:
        gone.pop()  # in another round: no edit may leave a class without a statement
    calls = _uses(source, class_name).calls if gone else []
    for field in gone:
        edits = [source.cut(declared[field])]
        for call in calls:
            elements = [*call.args, *call.keywords]
            given = [i for i, e in enumerate(elements) if isinstance(e, ast.keyword) and e.arg == field]
            edits += [without(source, elements, index) for index in given]
        yield edits


def drop_unused(source: Source, kept: str = "KERNEL") -> Iterator[Group]:
    """Definitions of the module that nothing leads to from `kept`."""
    defined = source.defined()
    reached, todo = set(), [kept]
    while todo:
        name = todo.pop()
        if name in defined and name not in reached:
            reached.add(name)
            node = defined[name]
            own = local_names(node) if isinstance(node, ast.FunctionDef) else set()
            todo += [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id not in own]
    for name, node in defined.items():
        if name not in reached and not is_string(node):
            yield [source.cut(node)]


def end_tuples(source: Source) -> Iterator[Group]:
    """A comma behind the last argument of a warp: what is left when others leave is still a tuple."""
    for node in source.nodes:
        function = node.elts[0] if isinstance(node, ast.Tuple) and node.elts else None
        if isinstance(function, ast.Name) and function.id in source.functions():
            arguments = _of_a_warp(node, function)
            close = source.span(arguments)[1] - 1 if arguments else 0
            if arguments and not source.data[:close].rstrip().endswith(b","):
                yield [(close, close, ",")]


def _uses(source: Source, name: str) -> _Uses:
    calls, escapes = [], name in source.hidden
    for use in source.reads.get(name, ()):
        parent = source.parents[use]
        called: ast.AST = use
        if isinstance(parent, ast.Subscript) and parent.value is use:  # fn[grid](...)
            called, parent = parent, source.parents[parent]
        if isinstance(parent, ast.Call) and parent.func is called:
            calls.append(parent)
        elif arguments := _of_a_warp(parent, use):
            calls.append(ast.Call(use, arguments.elts, []))
        elif not _is_annotation(parent, use):
            escapes = True
    return _Uses(calls, escapes)


def _of_a_warp(parent: ast.AST, use: ast.AST) -> ast.Tuple | None:
    """The arguments in `(function, (argument, ...))`, as Gluon's warp_specialize takes them."""
    if isinstance(parent, ast.Tuple) and len(parent.elts) == 2 and parent.elts[0] is use:
        arguments = parent.elts[1]
        return arguments if isinstance(arguments, ast.Tuple) and len(arguments.elts) > 1 else None
    return None


def _is_annotation(parent: ast.AST, use: ast.AST) -> bool:
    return use in (getattr(parent, "annotation", None), getattr(parent, "returns", None))


def _given(function: Function, name: str, call: ast.Call) -> ast.expr | None:
    """What a call passes for a parameter; None where that cannot be seen."""
    position = [a.arg for a in function.args.args].index(name)
    if any(isinstance(a, ast.Starred) for a in call.args):
        return None
    if position < len(call.args):
        return call.args[position]
    return next((k.value for k in call.keywords if k.arg == name), None)


def _value(source: Source, node: ast.expr, constants: Constants) -> str | None:
    if isinstance(node, ast.Name) and node.id in constants and not _is_local(source, node):
        return literal(constants[node.id])
    return source.of(node) if isinstance(node, ast.Constant) else None


def _is_local(source: Source, node: ast.Name) -> bool:
    """Whether a name is one of the function around it, which hides the module's."""
    around: ast.AST = node
    while not isinstance(around, (ast.FunctionDef, ast.Module)):
        around = source.parents[around]
    return isinstance(around, ast.FunctionDef) and node.id in local_names(around)


def _without_parameter(source: Source, function: Function, parameter: ast.arg, uses: _Uses) -> list[Edit]:
    """The edits that take it out of its function, and what is given for it out of every call."""
    position = function.args.args.index(parameter)
    edits = [without(source, function.args.args, position)]
    for call in uses.calls:
        elements = [*call.args, *call.keywords]
        named = (i for i, e in enumerate(elements) if isinstance(e, ast.keyword) and e.arg == parameter.arg)
        index = position if position < len(call.args) else next(named)
        edits.append(without(source, elements, index))
    return edits
