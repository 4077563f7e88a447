"""What a template becomes when everything constant is folded, on small sources; and modules merged into one."""

from __future__ import annotations

import pytest

from suite.generate.branches import branch_launches, fold_within_branches
from suite.generate.fold import fold_branches, fold_expressions, fold_fields, propagate, split_pairs, spread
from suite.generate.merge import merged
from suite.generate.parameters import drop_unused
from suite.selftest.written_files import settled

pytestmark = pytest.mark.side_by_side

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
    ("a = (b + c) * 1 * d\n", "a = (b + c) * d\n"),
    ("a = b * c * 1 * d\n", "a = b * c * d\n"),
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
    may_be_given = "def f(way):\n    if way is None:\n        way = 1\n    g(way)\n"
    assert settled(may_be_given, propagate) == may_be_given
    filled = "def f():\n    options = {'a': 1}\n    options['b'] = 2\n    return options\n"
    assert settled(filled, propagate) == filled
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
