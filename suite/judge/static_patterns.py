"""Shapes of source that one name does not give away: patched modules, memories keyed by inputs, fall-backs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .static_names import FUNCTIONS, Function, Names, imported, resolve
from .static_rules import HOST_READS, IDENTITIES, OURS, PRODUCT_METHODS, REDUCTIONS, STREAMS, WAITS, Level, find_rule

HASHES = ("hashlib", "zlib.crc32", "zlib.adler32", "builtins.hash", "builtins.id")
CACHES = ("functools.cache", "functools.lru_cache")
MUTATORS = frozenset({"append", "add", "update", "setdefault", "insert", "extend", "appendleft"})
LOOKUPS = frozenset({"get", "setdefault", "pop"})
TENSORS = ("torch.Tensor", "torch.nn.Parameter", "torch.nn.Buffer", "torch.nn.parameter.", "torch._", "torch.utils._")
"""Where classes whose objects are tensors, or look at all that is done to these, come from. Modules and autograd's
functions do neither."""
LAZY = frozenset({"__torch_function__", "__torch_dispatch__", "__getattribute__", "__eq__", "__del__"})


@dataclass(frozen=True)
class Found:
    """A finding before it has its file; of several about one subject the first is shown."""

    line: int
    code: str
    subject: str
    level: Level
    sentence: str


Pattern = Callable[[ast.Module, Names, str], Iterator[Found]]


def patched_modules(tree: ast.Module, names: Names, origin: str) -> Iterator[Found]:
    """Assignments to attributes of what was imported, `setattr` on it, and calls of names that are computed."""
    for node in ast.walk(tree):
        for target in _targets(node):
            name = resolve(target.value, names) if isinstance(target, (ast.Attribute, ast.Subscript)) else None
            if name and not name.startswith("builtins."):
                yield _patched(name, node, target.attr if isinstance(target, ast.Attribute) else None)
        if isinstance(node, ast.Call):
            yield from _indirect(node, names)


def _indirect(node: ast.Call, names: Names) -> Iterator[Found]:
    if resolve(node.func, names) in ("builtins.setattr", "builtins.delattr") and node.args:
        name = resolve(node.args[0], names)
        if name:
            yield _patched(name, node, None)
    called = node.func
    if isinstance(called, ast.Call) and resolve(called.func, names) == "builtins.getattr" and called.args:
        name = resolve(called.args[0], names)
        if name and resolve(called, names) is None:
            why = "which function it calls cannot be read from its source"
            yield Found(node.lineno, "indirect_call", name, "suspicious", f"getattr({name}, ...)(): {why}.")


def _patched(name: str, node: ast.AST, attribute: str | None) -> Found:
    shown = f"{name}.{attribute}" if attribute else name
    line = getattr(node, "lineno", 1)
    if name.startswith(("torch.backends", "triton.knobs", "torch._inductor.config", "torch._dynamo.config")):
        why = "it changes a setting that its rivals run under as well"
        return Found(line, "global_setting", shown, "suspicious", f"{shown} is assigned to: {why}.")
    if name == "os.environ":
        why = "it changes what every kernel here depends on"
        return Found(line, "environment", "os.environ=", "suspicious", f"os.environ is assigned to: {why}.")
    why = "it changes code that others, the judge among them, call"
    return Found(line, "patches_module", shown, "suspicious", f"{shown} is assigned to: {why}.")


def products(tree: ast.Module, names: Names, origin: str) -> Iterator[Found]:
    """`a @ b` and `a.matmul(b)` in host code."""
    if origin not in OURS:
        return
    level: Level = "note" if origin == "generated" else "suspicious"
    compiled = {id(inner) for f in _functions(tree) if _is_jit(f, names) for inner in ast.walk(f)}
    for node in ast.walk(tree):
        operator = isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.MatMult)
        method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_product(node.func, names)
        if (operator or method) and id(node) not in compiled:
            why = "a product of tensors on the host is a library's, unless a compiler lowers it"
            yield Found(
                getattr(node, "lineno", 1), "library_product", "product", level, f"It multiplies matrices: {why}."
            )


def _is_product(called: ast.Attribute, names: Names) -> bool:
    return called.attr in PRODUCT_METHODS and resolve(called, names) is None


def other_streams(tree: ast.Module, names: Names, origin: str) -> Iterator[Found]:
    """Streams of its own: joined again as far as the source tells, or not."""
    waits = any(isinstance(node, ast.Attribute) and node.attr in WAITS for node in ast.walk(tree))
    for node in ast.walk(tree):
        name = resolve(node, names) if isinstance(node, (ast.Attribute, ast.Name)) else None
        if name in STREAMS:
            why = "it waits for streams, too" if waits else "nothing in this file waits for it"
            yield Found(
                getattr(node, "lineno", 1),
                "other_stream",
                "stream",
                "note" if waits else "suspicious",
                f"{name}: {why}.",
            )


def fallbacks(tree: ast.Module, names: Names, origin: str) -> Iterator[Found]:
    """A library called where something failed, or where its failure is caught."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try):
            continue
        inner = [child for part in (*node.body, *node.handlers) for child in ast.walk(part)]
        library = next((name for name in _names_in(inner, names) if _is_library(name)), None)
        if library and origin in OURS:
            why = "a library stands in where the kernel fails, or the other way round"
            yield Found(node.lineno, "fallback", "try", "suspicious", f"try: {library[:100]}: {why}.")
        elif origin in OURS and not any(isinstance(child, ast.Raise) for h in node.handlers for child in ast.walk(h)):
            why = "an error that is caught here never reaches the judge"
            yield Found(node.lineno, "catches_errors", "try", "note", f"try: {why}.")


def _names_in(nodes: Iterable[ast.AST], names: Names) -> Iterator[str]:
    for node in nodes:
        yield from (target for _, target in imported(node))
        name = resolve(node, names) if isinstance(node, (ast.Name, ast.Attribute)) else None
        if name:
            yield name


def _is_library(name: str) -> bool:
    rule = find_rule(name, "hand")
    return rule is not None and rule.code in ("library_call", "library_product")


def memories(tree: ast.Module, names: Names, origin: str) -> Iterator[Found]:
    """What is kept from call to call: counters, tables at module level, results cached by their inputs."""
    functions, state = list(_functions(tree)), _module_names(tree)
    for function in functions:
        if any(_decorator(d, names) in CACHES for d in function.decorator_list) and _takes_tensors(function):
            why = "it remembers results by their input tensors"
            yield Found(function.lineno, "remembers_inputs", function.name, "suspicious", f"{function.name}: {why}.")
        kept = state | {f.name for f in functions} | _mutable_defaults(function)
        kept |= {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
        local = {a.arg for a in function.args.args} - _mutable_defaults(function)
        for node in ast.walk(function):
            yield from _kept_between_calls(node, kept - local, function)
        yield from _keyed_by_inputs(function, names, kept - local)


def _kept_between_calls(node: ast.AST, kept: set[str], function: Function) -> Iterator[Found]:
    if isinstance(node, ast.AugAssign) and _root(node.target) in kept and _is_global(node.target, function):
        name = _root(node.target)
        why = "it can tell one call from another"
        yield Found(node.lineno, "counts_calls", str(name), "suspicious", f"{name} changes with every call: {why}.")
        return
    written = [_root(t) for t in _targets(node) if _is_global(t, function)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
        written.append(_root(node.func.value))
    for name in (w for w in written if w in kept):
        why = "a workspace may be kept there, and so may an answer"
        yield Found(getattr(node, "lineno", 1), "module_state", str(name), "note", f"{name} outlives a call: {why}.")


def _keyed_by_inputs(function: Function, names: Names, kept: set[str]) -> Iterator[Found]:
    """Look-ups and comparisons with what identifies a tensor or its content; alignment tests are not."""
    strong = _tainted(function, names, weak=False)
    weak = _tainted(function, names, weak=True)
    for node in ast.walk(function):
        is_lookup = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOOKUPS
        keyed = False
        if isinstance(node, ast.Subscript):
            found_in = weak if _root(node.value) in kept else strong
            keyed = _identifies(node.slice, names, found_in, weak=_root(node.value) in kept)
        elif is_lookup and isinstance(node, ast.Call):
            in_state = _root(node.func) in kept
            keyed = any(_identifies(a, names, weak if in_state else strong, weak=in_state) for a in node.args[:1])
        elif isinstance(node, ast.Compare):
            sides = [_identifies(side, names, strong, weak=False) for side in (node.left, *node.comparators)]
            keyed = any(sides) and not all(sides)  # of two tensors with each other: whether they share memory
        if keyed:
            why = "it looks something up by an input's address or a digest of its content"
            yield Found(
                getattr(node, "lineno", 1), "remembers_inputs", function.name, "suspicious", f"{function.name}: {why}."
            )


def _tainted(function: Function, names: Names, weak: bool) -> set[str]:
    """Names in a function that were assigned an identity of something."""
    found: set[str] = set()
    for node in ast.walk(function):
        value = node.value if isinstance(node, (ast.Assign, ast.NamedExpr, ast.AnnAssign)) else None
        if value is not None and _identifies(value, names, found, weak):
            found |= {t.id for t in _targets(node) if isinstance(t, ast.Name)}
    return found


def _identifies(node: ast.AST, names: Names, tainted: set[str], weak: bool) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mod, ast.BitAnd)):
        return False  # `data_ptr() % 16`: alignment
    if isinstance(node, ast.Name):
        return node.id in tainted
    if isinstance(node, ast.Attribute) and node.attr in IDENTITIES:
        return True
    if isinstance(node, ast.Call):
        name = resolve(node.func, names) or ""
        if name.startswith(HASHES):
            return True
        called = node.func.attr if isinstance(node.func, ast.Attribute) else name.removeprefix("builtins.")
        if weak and called in HOST_READS and _reduces(node):
            return True
    return any(_identifies(child, names, tainted, weak) for child in ast.iter_child_nodes(node))


def _reduces(node: ast.AST) -> bool:
    return any(isinstance(child, ast.Attribute) and child.attr in REDUCTIONS for child in ast.walk(node))


def lazy_tensors(tree: ast.Module, names: Names, origin: str) -> Iterator[Found]:
    """Classes that are tensors, or that act when they are looked at or freed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            is_tensor = any((resolve(base, names) or "").startswith(TENSORS) for base in node.bases)
            hooks = [f.name for f in node.body if isinstance(f, FUNCTIONS) and f.name in LAZY]
            if is_tensor or hooks:
                what = hooks[0] if hooks else "a tensor of its own kind"
                why = "its objects may compute when the judge looks at them"
                yield Found(node.lineno, "lazy_tensor", node.name, "suspicious", f"class {node.name}, {what}: {why}.")


PATTERNS: tuple[Pattern, ...] = (patched_modules, products, other_streams, fallbacks, memories, lazy_tensors)


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


def _is_jit(function: Function, names: Names) -> bool:
    return any((_decorator(d, names) or "").startswith("triton.") for d in function.decorator_list)


def _decorator(node: ast.expr, names: Names) -> str | None:
    return resolve(node.func if isinstance(node, ast.Call) else node, names)


def _takes_tensors(function: Function) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    told = [ast.unparse(a.annotation) if a.annotation else a.arg for a in arguments]
    return any("Tensor" in text or "Inputs" in text or text == "inputs" for text in told)


def _mutable_defaults(function: Function) -> set[str]:
    arguments = [*function.args.posonlyargs, *function.args.args]
    with_default = zip(reversed(arguments), reversed(function.args.defaults), strict=False)
    return {argument.arg for argument, default in with_default if isinstance(default, (ast.Dict, ast.List, ast.Set))}


def _module_names(tree: ast.Module) -> set[str]:
    return {t.id for node in tree.body for t in _targets(node) if isinstance(t, ast.Name)}


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, (ast.Assign, ast.Delete)):
        return node.targets
    return [node.target] if isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.NamedExpr)) else []


def _root(node: ast.AST) -> str | None:
    """The name that a chain of attributes and subscripts begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_global(target: ast.AST, function: Function) -> bool:
    """Whether an assignment reaches beyond the function: into a container, or a name declared global."""
    if isinstance(target, (ast.Attribute, ast.Subscript)):
        return True
    declared = {
        name for node in ast.walk(function) if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names
    }
    return isinstance(target, ast.Name) and target.id in declared
