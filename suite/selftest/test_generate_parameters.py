"""Parameters and fields that are always the same, or that nothing reads, leave small sources."""

from __future__ import annotations

import ast
import textwrap

import pytest

from suite.generate.fold import fold_expressions
from suite.generate.parameters import (
    constant_fields,
    drop_fields,
    drop_unread,
    drop_unused,
    end_tuples,
    fold_parameters,
    unread_fields,
)  # fmt: skip
from suite.generate.source import Source
from suite.selftest.written_files import settled

pytestmark = pytest.mark.side_by_side

JIT = """
    @triton.jit
    def inner(x, BLOCK: tl.constexpr, OTHER: tl.constexpr):
        return x + BLOCK * OTHER  # of a block

    @triton.jit
    def outer(x, unread, BLOCK: tl.constexpr, OTHER: tl.constexpr):
        inner((x), BLOCK, OTHER)

    def run(x):
        outer[(1,)](x, x, BLOCK=64, OTHER=x.n, num_warps=4)
        outer[(2,)]((x), x, BLOCK=64, OTHER=2, num_warps=4)

    KERNEL = run
"""


def test_constant_parameters_leave_their_functions():
    text = settled(JIT, fold_parameters({}), drop_unread)
    assert "def inner(x, OTHER: tl.constexpr):\n    return x + 64 * OTHER  # of a block" in text
    assert "def outer(x, OTHER: tl.constexpr):\n    inner((x), OTHER)" in text
    assert "outer[(1,)](x, OTHER=x.n, num_warps=4)" in text
    assert "outer[(2,)]((x), OTHER=2, num_warps=4)" in text


HIDDEN = """
    BLOCK = 192

    @triton.jit
    def inner(x, BLOCK: tl.constexpr):
        return x + BLOCK

    @triton.jit
    def outer(x, BLOCK: tl.constexpr):
        inner(x, BLOCK)

    def run(x, wide):
        outer[(1,)](x, BLOCK=x.n)
        return more(x, True) + more(x, True)

    def more(x, wide):
        return x + 1 if wide else x

    KERNEL = run
"""


def test_a_parameter_hides_the_constant_of_its_name():
    text = settled(HIDDEN, fold_parameters({}))
    assert "return x + BLOCK" in text
    assert "inner(x, BLOCK)" in text


def test_a_way_that_is_always_gone_leaves_a_host_function():
    text = settled(HIDDEN, fold_parameters({}), fold_expressions)
    assert "more(x) + more(x)" in text
    assert "def more(x):\n    return x + 1\n" in text


def test_warps_of_a_kernel_are_calls():
    text = settled("""
        @gluon.jit
        def warp(x, WHO: gl.constexpr, WIDE: gl.constexpr):
            return x + WHO if WIDE else x

        @gluon.jit
        def kernel(x):
            gl.warp_specialize([(warp, (x, 0, True)), (warp, (x, 1, True))], [4], [24])

        KERNEL = kernel
    """, fold_parameters({}), fold_expressions)  # fmt: skip
    assert "(warp, (x, 0)), (warp, (x, 1))" in text
    assert "return x + WHO\n" in text


@pytest.mark.parametrize("use", ["table = [outer]", 'print(f"{outer}")', "outer[(1,)](*x, BLOCK=64)"])
def test_parameters_stay_where_not_every_call_is_seen(use):
    text = JIT.replace("    KERNEL", f"    {use}\n\n    KERNEL")
    assert "def outer(x, unread, BLOCK: tl.constexpr" in settled(text, fold_parameters({}), drop_unread)


def test_fields_that_are_always_the_same_leave_their_class():
    source = Source(textwrap.dedent('''
        @dataclass
        class Plan:
            size: int
            # a note
            way: bool
            """Which way."""

        def plan(problem):
            return Plan(size=problem.n, way=False)
    '''))  # fmt: skip
    found = constant_fields(source)
    assert found == {("Plan", "way"): False}
    text = drop_fields(source, found).text
    assert "way" not in text
    assert "a note" not in text
    assert "Plan(size=problem.n)" in text


def test_fields_that_nothing_reads_leave_their_class():
    source = Source(textwrap.dedent("""
        @dataclass
        class Plan:
            size: int
            way: bool

        def plan(problem):
            return Plan(size=problem.n, way=problem.way2)

        def run(state):
            return state.size
    """))  # fmt: skip
    assert "way" not in drop_fields(source, unread_fields(source)).text


def test_a_parameter_does_not_keep_the_definition_of_its_name():
    text = "SIZE = 3\n\ndef f(SIZE):\n    return SIZE\n\nKERNEL = f\n"
    assert "SIZE = 3" not in settled(text, drop_unused)


def test_fields_that_keep_their_default_leave_their_class():
    source = Source("class Plan:\n    size: int\n    way: bool = True\n    own: int = 1\n\np = Plan(size=n, own=m)\n")
    assert constant_fields(source) == {("Plan", "way"): True}


def test_constant_parameters_of_host_functions_leave_them():
    text = "def f(x, way):\n    return g(x, way)\n\ndef g(x, way):\n    way = h(way)\n    return way\n\nf(a, True)\n"
    assert settled(text, fold_parameters({})) == (
        "def f(x):\n    return g(x, True)\n\ndef g(x, way):\n    way = h(way)\n    return way\n\nf(a)\n"
    )


WARPS = """
    @gluon.jit
    def fetch(N: gl.constexpr, x, WIDE: gl.constexpr):
        load(x, N, WIDE)

    @gluon.jit
    def run(x):
        gl.warp_specialize([(fetch, (4, x, True)), (fetch, (4, (x), True))], [1], [24])

    KERNEL = run
"""


def test_a_warp_that_keeps_one_argument_is_given_a_tuple():
    text = settled(WARPS, end_tuples, fold_parameters({}))
    assert "def fetch(x):\n    load(x, 4, True)" in text
    assert [ast.unparse(n) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Tuple) and len(n.elts) == 1] == [
        "(x,)", "(x,)"
    ]  # fmt: skip
