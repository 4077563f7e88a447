"""Tables of choices: a short one over sizes, of what is best for every problem."""

from __future__ import annotations

import pytest

from suite.generate.table import Point, look_up, table_of

pytestmark = pytest.mark.side_by_side


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
