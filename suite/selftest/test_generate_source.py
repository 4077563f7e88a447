"""What a template becomes when everything constant is folded, on small sources; and tables over sizes."""

from __future__ import annotations

import textwrap

import pytest

from suite.generate.branches import branch_launches, fold_within_branches
from suite.generate.fold import fold_branches, fold_expressions, fold_fields, propagate, split_pairs, spread
from suite.generate.merge import merged
from suite.generate.parameters import (
    constant_fields,
    drop_fields,
    drop_unread,
    drop_unused,
    fold_parameters,
    unread_fields,
)  # fmt: skip
from suite.generate.source import Source
from suite.generate.table import Point, look_up, table_of


def settled(text: str, *passes) -> str:
    source, before = Source(textwrap.dedent(text)), ""
    while source.text != before:
        before = source.text
        for one in passes:
            source = source.edited(one(source))
    return source.text


FOLDED = [
    ("x = a if True else b\n", "x = a\n"),
    ("x = {} if a else {}\n", "x = {}\n"),
    ("x = 1 if f() else 1\n", "x = 1 if f() else 1\n"),
    ("x = y * (512 + 64)\n", "x = y * 576\n"),
    ("x = f(512 + 64)\n", "x = f(576)\n"),
    ("x = y - (2 - 5)\n", "x = y - (-3)\n"),
    ("x = max(1, 128 // 16)\n", "x = 8\n"),
    ("x = y % 16 == 0\n", "x = y % 16 == 0\n"),
    ("x = 1 // 0\n", "x = 1 // 0\n"),
    ("x = False and y\n", "x = False\n"),
    ("x = True and y and z\n", "x = y and z\n"),
    ("x = True and (y or z) and (u or v)\n", "x = (y or z) and (u or v)\n"),
    ("x = True or y\n", "x = True\n"),
    ("x = not False\n", "x = True\n"),
    ('x = "hip" == "cuda"\n', "x = False\n"),
    ("x = True == 1\n", "x = True == 1\n"),
    ("f(a, **{'b': c, **d}, e=1)\n", "f(a, b=c, **d, e=1)\n"),
    ("f(a, **({}))\n", "f(a)\n"),
    ("a = 4 if x else 4\n", "a = 4\n"),
]


@pytest.mark.parametrize(("before", "after"), FOLDED, ids=[before.strip() for before, _ in FOLDED])
def test_expressions_fold_and_what_is_not_constant_stays(before, after):
    assert settled(before, fold_expressions, spread) == after


BRANCHES = [
    ("if True:\n    # why\n    a()  # so\nelse:\n    b()\nc()\n", "# why\na()  # so\nc()\n"),
    ("# gone\nif False:\n    a()\nc()\n", "c()\n"),
    ("if False:\n    a()\nelif x:\n    b()\nelse:\n    c()\n", "if x:\n    b()\nelse:\n    c()\n"),
    ("if x:\n    a()\nelif True:\n    b()\nelse:\n    c()\n", "if x:\n    a()\nelse:\n    b()\n"),
    ("if x:\n    a()\nelif False:\n    b()\nelse:\n    c()\n", "if x:\n    a()\nelse:\n    c()\n"),
    ("if x:\n    a()\nelif False:\n    b()\nelif y:\n    c()\n", "if x:\n    a()\nelif y:\n    c()\n"),
    ("def f():\n    if True:\n        return 1\n    return 2\n", "def f():\n    return 1\n"),
    ("def f():\n    if False:\n        g()\n", "def f():\n    pass\n"),
    ("while x:\n    if True:\n        if y:\n            a()\n", "while x:\n    if y:\n        a()\n"),
]


@pytest.mark.parametrize(("before", "after"), BRANCHES)
def test_branches_are_resolved(before, after):
    assert settled(before, fold_branches) == after


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


def test_fields_fold_by_the_type_of_a_name():
    text = "def f(state: Plan, other):\n    return state.way, other.way, state.way.real\n"
    assert settled(text, fold_fields({("Plan", "way"): 3})) == (
        "def f(state: Plan, other):\n    return 3, other.way, (3).real\n"
    )


def test_fields_fold_within_methods_of_their_class():
    text = "class Plan:\n    way: int\n\n    def ways(self):\n        return self.way, self.other\n"
    assert "return 3, self.other" in settled(text, fold_fields({("Plan", "way"): 3}))


def test_what_a_function_only_returns_is_spread():
    options = "def options(state, k):\n    return {'a': state.a, **{'b': k}}\n"
    assert settled(options + "\ndef f(state):\n    g(1, **options(state, 2))\n", spread).endswith(
        "    g(1, a=state.a, b=2)\n"
    )


def test_local_names_are_followed_in_host_code_only():
    host = "def f():\n    options = {'a': 1}\n    way = True\n    g(way, **options)\n"
    assert settled(host, propagate, spread) == "def f():\n    g(True, a=1)\n"
    device = "@triton.jit\ndef f():\n    way = True\n    g(way)\n"
    assert settled(device, propagate) == device
    changed = "def f():\n    way = True\n    way = g()\n    g(way)\n"
    assert settled(changed, propagate) == changed


OPTIONS = """
    def run(x, state):
        f(x, **shared(state, 4), **launch(False), **launch(x))

    def shared(state, warps):
        '''Of both.'''
        return {"n": state.n, "w": warps, **state.more}

    def launch(early):
        return {"pdl": True} if early else {}
"""


def test_options_that_a_function_returns_are_written_out():
    text = settled(OPTIONS, spread, fold_expressions)
    assert "f(x, n=state.n, w=4, **state.more, **launch(x))" in text


CHOSEN = """
    @dataclass
    class Plan:
        fast: bool
        block: int

    def plan(tile: Tile):
        return Plan(fast=tile.fast, block=tile.block)

    def run(state: Plan, interpreted):
        function, options = chosen(state, interpreted)
        function[(state.block,)](1, **options)

    def chosen(state: Plan, interpreted):
        '''Which.'''
        if state.fast and not interpreted:
            return quick, {}
        return slow, {"BLOCK": state.block}

    @triton.jit
    def quick(x): pass
    @triton.jit
    def slow(x, BLOCK): pass
    KERNEL = run, plan
"""


def test_a_choice_of_functions_becomes_a_branch_with_its_own_constants():
    rows = [{"use": {"fast": True, "block": 64}}, {"use": {"fast": False, "block": 64}},
            {"use": {"fast": False, "block": 16}}]  # fmt: skip
    passes = (branch_launches, split_pairs, spread, drop_unused, fold_within_branches("Tile", rows))
    text = settled(CHOSEN, *passes)
    assert "if state.fast and not interpreted:\n        quick[(64,)](1)\n" in text
    assert "else:\n        slow[(state.block,)](1, BLOCK=state.block)" in text
    assert "def chosen" not in text


def test_modules_merge_and_names_that_collide_stay_apart(tmp_path):
    (tmp_path / "_far_part.py").write_text(
        "import math\nfrom ..problem import Inputs\n\nSIZE = 2\n\n\ndef _load(x):\n    return x * SIZE\n\n\n"
        "def far(SIZE):\n    # kept\n    return _load(SIZE) + math.pi\n"
    )
    (tmp_path / "near.py").write_text(
        '"""Doc."""\nfrom ..problem import Inputs\nfrom .problem import Toy\n\nSIZE = 1\n\n\n# before\ndef _load(x):\n'
        "    from ._far_part import far\n\n    return far(SIZE)  # `_far_part.far`\n"
    )
    text = merged(tmp_path, "near").text
    assert text.count("from ...problem import Inputs") == 1
    assert "from ..problem import Toy" in text
    assert "SIZE_PART = 2" in text
    assert "def _load_part(x):\n    return x * SIZE_PART" in text
    assert "def far(SIZE):\n    # kept\n    return _load_part(SIZE) + math.pi" in text
    assert "# before\ndef _load(x):" in text
    assert "return far(SIZE)  # `far`" in text
    assert "import far" not in text


def points(*given) -> list[Point]:
    return [Point({"is_fp8": fp8, "rows": rows}, {"block": block}, weight) for fp8, rows, block, weight in given]


def test_a_table_gives_every_point_its_choice_and_parts_sizes_at_the_geometric_mean():
    rows = table_of(points((False, 16, 1, 1), (False, 64, 2, 1), (False, 256, 2, 1), (True, 16, 3, 1)), {"block": 9})
    assert rows == [
        {"when": {"is_fp8": False, "rows": {"max": 32}}, "use": {"block": 1}},
        {"when": {"is_fp8": False, "rows": {"min": 33}}, "use": {"block": 2}},
        {"when": {"is_fp8": True}, "use": {"block": 3}},
        {"when": {}, "use": {"block": 9}},
    ]
    assert look_up(rows, {"is_fp8": False, "rows": 33}) == {"block": 2}


def test_a_table_of_one_choice_is_one_row():
    assert table_of(points((False, 16, 1, 1), (True, 64, 1, 1)), {"block": 1}) == [{"when": {}, "use": {"block": 1}}]


def test_of_problems_alike_the_heaviest_decides():
    rows = table_of(points((False, 16, 1, 5.0), (False, 16, 2, 7.0)), {"block": 0})
    assert look_up(rows, {"is_fp8": False, "rows": 16}) == {"block": 2}


def test_a_table_needs_a_point():
    with pytest.raises(ValueError, match="at least one problem"):
        table_of([], {})
