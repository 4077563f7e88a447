"""Roofline: arithmetic intensity against rate, under the data sheet's roof and the measured one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from .canvas import COLOURS, FAINT, INK, SHAPES, canvas, drawable, key_of_shapes
from .pool import ORIGINS, Pool, Row, best_of
from .roofs import Roof, short_dtype
from .tables import count, plain, rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Transform

_DRAWN_ORIGINS = ORIGINS[:-1]
"""Not the reference: fp32 on plain PyTorch lies so far below that it would squeeze the rest."""
_BESIDE_POINTS = 6.0
_MOST_CLUSTERS = 6
_CLUSTER_GAP = 1.06
"""Intensities within this ratio share a name."""
_NAME_LIMIT_CHARS = 34


def draw_roofline(pool: Pool, problems: Sequence[str], title: str, path: Path) -> None:
    """Write the plot to `path`: the best kernel of each origin on each problem, under all roofs that are known."""
    points = [
        (x, row)
        for problem in problems
        for origin in _DRAWN_ORIGINS
        if (row := best_of(pool.rows_of(problem), [origin])) and (x := _intensity(pool, problem)) and row.tflops
    ]
    dtypes = dict.fromkeys(pool.problems[problem]["compute_dtype"] for problem in problems)
    roofs = [(name, dtype, roof) for dtype in dtypes for name, roof in pool.roofs(dtype).items()]
    clusters = name_clusters({row.problem: x for x, row in points}, pool.labels)
    with canvas(5.4, title, path) as axes:
        axes.set_xscale("log")
        axes.set_yscale("log")
        _limits(axes, points, [roof for _, _, roof in roofs], room_for=len(clusters))
        lines = [_draw_roof(axes, *known) for known in roofs]
        for x, row in points:
            _draw_point(axes, x, row)
        _write_clusters(axes, clusters)
        axes.set_xlabel("arithmetic intensity, FLOP per least byte")
        axes.set_ylabel("TFLOP/s")
        axes.grid(True, which="major", axis="y", color=FAINT, linewidth=0.7)
        _plain_numbers(axes)
        key_of_shapes(axes, [row.origin for _, row in points])
        axes.get_figure().legend(handles=lines, loc="outside lower left", ncols=2)  # type: ignore[union-attr]


def _draw_point(axes: Axes, x: float, row: Row) -> None:
    """Origins of one problem stand side by side, a few points of type apart, so that none hides another."""
    axes.plot(
        [x], [row.tflops], marker=SHAPES[row.origin], color=COLOURS[row.origin], markersize=8, linestyle="",
        markeredgecolor="white", markeredgewidth=0.9, zorder=10 - ORIGINS.index(row.origin),
        transform=axes.transData + _beside(axes, row.origin),
    )  # fmt: skip


def _beside(axes: Axes, origin: str) -> Transform:
    from matplotlib.transforms import ScaledTranslation

    dots = _BESIDE_POINTS * (_DRAWN_ORIGINS.index(origin) - (len(_DRAWN_ORIGINS) - 1) / 2)
    return ScaledTranslation(dots / 72, 0, axes.figure.dpi_scale_trans)


def _intensity(pool: Pool, problem: str) -> float | None:
    flops, num_bytes = pool.problems[problem]["flops"], pool.least_bytes(problem)
    return flops / num_bytes if flops and num_bytes else None


def _limits(axes: Axes, points: Sequence[tuple[float, Row]], roofs: Sequence[Roof], room_for: int) -> None:
    """Every point, the ridge of every roof, and below the points `room_for` lines of text."""
    xs = [x for x, _ in points] + [roof.flops_per_s / roof.bytes_per_s for roof in roofs]
    ys = [row.tflops for _, row in points if row.tflops] + [roof.flops_per_s / 1e12 for roof in roofs]
    top, bottom = max(ys) * 1.6, min(ys) / 1.6
    axes.set_xlim(min(xs) / 2, max(xs) * 4)
    text_share = 0.06 * room_for
    axes.set_ylim(bottom / (top / bottom) ** (text_share / (1 - text_share)), top)


def _draw_roof(axes: Axes, name: str, dtype: str, roof: Roof) -> Line2D:
    """One roof over the whole width; its label tells both peaks."""
    low, high = axes.get_xlim()
    xs = (low, min(max(roof.flops_per_s / roof.bytes_per_s, low), high), high)
    source = "data sheet" if name == "sheet" else name
    peaks = f"{rate(roof.flops_per_s, 'FLOP')} {short_dtype(dtype)}, {rate(roof.bytes_per_s, 'B')}"
    [line] = axes.plot(
        xs, [roof.attainable_flops_per_s(x) / 1e12 for x in xs], color=INK, linewidth=1.4, zorder=2,
        linestyle="solid" if name == "sheet" else (0, (4, 2.5)), label=f"{source}: {peaks}",
    )  # fmt: skip
    return line


def name_clusters(intensities: Mapping[str, float], labels: Mapping[str, str]) -> dict[float, str]:
    """A name for every intensity that problems share, by rising intensity: what their labels have in common.

    Too many to be read are none: then the plot shows dots only.
    """
    ordered = sorted(intensities, key=lambda problem: intensities[problem])
    groups = [ordered[:1]]
    for before, problem in pairwise(ordered):
        if intensities[problem] > intensities[before] * _CLUSTER_GAP:
            groups.append([])
        groups[-1].append(problem)
    if not ordered or len(groups) > _MOST_CLUSTERS:
        return {}
    return {intensities[group[0]]: _common_name([labels[problem] for problem in group]) for group in groups}


def _common_name(labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return plain(labels[0], _NAME_LIMIT_CHARS)
    shared = [token for token in labels[0].split() if all(token in label.split() for label in labels)]
    how_many = count(len(labels), "problem")
    return plain(f"{' '.join(shared)} ({how_many})" if shared else how_many, _NAME_LIMIT_CHARS)


def _write_clusters(axes: Axes, clusters: Mapping[float, str]) -> None:
    """Names stand at the bottom, each on a line of its own, so that they meet neither each other nor a stem."""
    for line, (x, name) in enumerate(clusters.items()):
        height = 0.035 + 0.06 * line
        axes.axvline(x, ymin=height - 0.02, color=FAINT, linewidth=1, zorder=1)
        axes.annotate(
            drawable(name), (x, height), xycoords=("data", "axes fraction"), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=10, zorder=3,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _plain_numbers(axes: Axes) -> None:
    """0.1, 1, 10, 100 instead of powers of ten, and 20 and 50 between them where an axis spans few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 10**2.5 else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
