"""A Python source that is edited at the places of its syntax tree, so that comments and layout stay."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

Edit = tuple[int, int, str]
"""First byte, byte past the last one, and what stands there instead."""
Group = Sequence[Edit]
"""Edits that make sense together only."""
Function = ast.FunctionDef


@dataclass(frozen=True)
class Source:
    """Text and its tree."""

    text: str

    @cached_property
    def data(self) -> bytes:
        """The text as the tree counts its columns."""
        return self.text.encode()

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All that have a place, see `walk`."""
        return list(walk(self.tree))

    @cached_property
    def starts(self) -> list[int]:
        """First byte of every line, and the end."""
        starts = [0]
        for line in self.data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        return starts

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """Node -> the node that it is part of."""
        return {child: node for node in self.nodes for child in children(node)}

    @cached_property
    def reads(self) -> dict[str, list[ast.Name]]:
        """Where every name is read, outside of f-strings."""
        return _reads(self.nodes)

    @cached_property
    def reads_in(self) -> dict[str, dict[str, list[ast.Name]]]:
        """Function of the module -> name -> where it is read in it."""
        return {function.name: _reads(walk(function)) for function in self.functions().values()}

    @cached_property
    def hidden(self) -> set[str]:
        """Names that are read within f-strings, where they cannot be edited."""
        strings = [node for node in self.nodes if isinstance(node, ast.JoinedStr)]
        return {n.id for string in strings for n in ast.walk(string) if isinstance(n, ast.Name)}

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First byte and byte past the last."""
        first = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        last = self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return first, last

    def of(self, node: ast.AST) -> str:
        """A node's text."""
        first, last = self.span(node)
        return self.data[first:last].decode()

    def put(self, node: ast.AST, text: str) -> Edit:
        """The edit that replaces a node."""
        return (*self.span(node), text)

    def line(self, number: int) -> str:
        """Line `number`, counted from 1, with its end."""
        return self.data[self.starts[number - 1] : self.starts[number]].decode()

    def rows(self, node: ast.stmt, comments: bool = True, docstring: bool = True) -> tuple[int, int]:
        """First and last line of a statement: with decorators, the comments right above and the string below that
        documents an assignment."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        last = node.end_lineno or first
        if docstring and isinstance(node, (ast.Assign, ast.AnnAssign)):
            body = next((b for b in bodies(self.parents[node]) if node in b), [node])
            after = body[body.index(node) + 1 :][:1]
            if after and is_string(after[0]):
                last = after[0].end_lineno or last
        while comments and first > 1 and self.line(first - 1).lstrip().startswith("#"):
            first -= 1
        return first, last

    def cut(self, node: ast.stmt, comments: bool = True) -> Edit:
        """The edit that removes a statement with what belongs to it; its block must not be left empty."""
        first, last = self.rows(node, comments)
        block = next(b for b in bodies(self.parents[node]) if node in b)
        first_row, last_row = self.rows(node, comments=False)
        stays = [s for s in block if s.end_lineno and not first_row <= s.lineno <= last_row]
        indent = " " * node.col_offset
        only = not stays and not isinstance(self.parents[node], ast.Module)
        return self.starts[first - 1], self.starts[last], f"{indent}pass\n" if only else ""

    def edited(self, groups: Iterable[Group]) -> Source:
        """With every group that touches no byte that an earlier group touches; the rest is for another round."""
        accepted: list[Edit] = []
        for group in groups:
            if not any(a[0] < b[1] and b[0] < a[1] for a in group for b in accepted):
                accepted += group
        return Source(self.part(0, len(self.data), accepted)) if accepted else self

    def part(self, first: int, last: int, edits: Iterable[Edit]) -> str:
        """The text between two bytes, with edits that lie there."""
        texts, end = [], last
        for low, high, text in sorted(edits, reverse=True):
            texts += [self.data[high:end].decode(), text]
            end = low
        return "".join(reversed([*texts, self.data[first:end].decode()]))

    def functions(self) -> dict[str, Function]:
        """Functions of the module by name."""
        return {node.name: node for node in self.tree.body if isinstance(node, ast.FunctionDef)}

    def classes(self) -> dict[str, ast.ClassDef]:
        """Classes of the module by name."""
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}

    def defined(self) -> dict[str, ast.stmt]:
        """What the module defines by name: functions, classes and what it assigns."""
        found: dict[str, ast.stmt] = {**self.functions(), **self.classes()}
        for node in self.tree.body:
            if isinstance(node, ast.Assign):
                found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        return found


Pass = Callable[[Source], Iterator[Group]]
"""It reads a source and offers edits."""


def without(source: Source, elements: Sequence[ast.AST], index: int) -> Edit:
    """The edit that takes one element out of a list that commas part."""
    first, last = source.span(elements[index])
    after, before = source.data[last:], source.data[:first].rstrip()
    rest = after.lstrip()
    if rest.startswith(b","):
        end = last + len(after) - len(rest) + 1
        more = source.data[end:]
        return first, end + (len(more) - len(more.lstrip()) if index + 1 < len(elements) else 0), ""
    return (len(before) - 1 if before.endswith(b",") else first), last, ""


def bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks of statements that a node holds."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            yield block


def is_string(node: ast.stmt) -> bool:
    """A docstring, or a string that documents what stands above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def class_of(annotation: ast.expr | None) -> str:
    """The name of the class that a parameter, a result or a field is annotated with, where it is a plain name."""
    return annotation.id if isinstance(annotation, ast.Name) else ""


def parameter_classes(function: Function) -> dict[str, str]:
    """Parameter -> its class, or nothing."""
    return {parameter.arg: class_of(parameter.annotation) for parameter in function.args.args}


def host_body(source: Source, call: ast.AST | None) -> tuple[Function, list[ast.stmt]] | None:
    """The function of the host that is called, and its statements without the docstring; None for all else."""
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        return None
    function = source.functions().get(call.func.id)
    if function is None or is_jit(function):
        return None
    return function, [statement for statement in function.body if not is_string(statement)]


def is_jit(function: Function) -> bool:
    """Whether Triton or Gluon compiles it."""
    return any("jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def local_names(function: Function) -> set[str]:
    """Parameters and names that are assigned in it."""
    names = {a.arg for a in (*function.args.args, *function.args.kwonlyargs, *function.args.posonlyargs)}
    return names | {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Like `ast.walk`, but for what lies within f-strings: before Python 3.12 that has no usable places."""
    todo = deque([node])
    while todo:
        current = todo.popleft()
        yield current
        if not isinstance(current, ast.JoinedStr):
            todo.extend(children(current))


def children(node: ast.AST) -> list[ast.AST]:
    """Like `ast.iter_child_nodes`, but for operators and contexts, which have no places."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = None if name in _WITHOUT_PLACE else getattr(node, name, None)
        if isinstance(value, list):
            found += [item for item in value if isinstance(item, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


_WITHOUT_PLACE = {"ctx", "op", "ops", "id", "attr", "kind", "type_comment"}


def _reads(nodes: Iterable[ast.AST]) -> dict[str, list[ast.Name]]:
    found: dict[str, list[ast.Name]] = {}
    for name in nodes:
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load):
            found.setdefault(name.id, []).append(name)
    return found


def loads(node: ast.AST, name: str) -> list[ast.Name]:
    """Where a name is read below a node."""
    return [n for n in walk(node) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)]
