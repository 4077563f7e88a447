"""The report's table of origins."""

from __future__ import annotations

from statistics import geometric_mean

from suite.report.origins import COMPARED, origins_section
from suite.report.pool import Pool
from suite.selftest.synthetic_run import make_run


def test_a_row_is_the_mean_ratio_of_the_fastest_of_each_origin() -> None:
    pool = Pool([make_run()])
    shown = origins_section(pool)
    assert shown is not None
    lines = [line for line in shown.splitlines() if line.startswith("|")][2:]
    ratios = []
    for problem in pool.problems:
        best = {o: [row.median_us for row in pool.rows_of(problem) if row.origin == o] for o in COMPARED}
        if best["hand"] and best["vendor"]:
            ratios.append(min(best["vendor"]) / min(best["hand"]))
    (mla,) = [line.split("|") for line in lines if "mla" in line]
    assert mla[6 - 1].strip() == f"{geometric_mean(ratios):.3f}×"


def test_one_origin_alone_is_no_section() -> None:
    run = make_run()
    run["kernels"] = {kernel: facts | {"origin": "reference"} for kernel, facts in run["kernels"].items()}
    assert origins_section(Pool([run])) is None
