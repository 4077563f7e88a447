"""What all plots share: size, palette, one key of shapes, and files that do not differ without reason.

matplotlib is imported inside functions and draws straight into files: a report needs no display, and a run without
a report does not pay for the import.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .pool import ORIGINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

WIDTH_INCHES, DOTS_PER_INCH = 8.0, 200
"""A README shows about 800 pixels; twice as many keep it sharp. At this width 10 points are 14 pixels there."""

# Okabe and Ito's palette, which colour-blind readers tell apart; shapes repeat what colours say.
COLOURS = {"hand": "#D55E00", "generated": "#0072B2", "vendor": "#6E6E6E", "reference": "#B8B8B8"}
SHAPES = {"hand": "o", "generated": "D", "vendor": "s", "reference": "v"}
NAMES = {"hand": "hand-tuned", "generated": "generated", "vendor": "vendor library", "reference": "reference (fp32)"}
INK, FAINT = "#24292F", "#D0D7DE"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 10.5, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "legend.frameon": False, "legend.fontsize": 10, "legend.handletextpad": 0.4, "legend.columnspacing": 1.6,
    "figure.facecolor": "white", "savefig.facecolor": "white", "text.parse_math": False,
    "figure.constrained_layout.w_pad": 0.1,
}  # fmt: skip


@contextmanager
def canvas(height_inches: float, title: str, path: Path) -> Iterator[Axes]:
    """Axes to draw on, written to `path` at the end without date or version: equal plots are equal files."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(drawable(title), x=0.012, ha="left", fontsize=12, fontweight="bold")
        yield figure.add_subplot()
        figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def key_of_shapes(axes: Axes, origins: Iterable[str], more: Sequence[Line2D] = ()) -> None:
    """One line of shapes between title and plot."""
    from matplotlib.lines import Line2D

    drawn = set(origins)
    handles = [
        Line2D([], [], linestyle="", marker=SHAPES[origin], color=COLOURS[origin], markersize=8, label=NAMES[origin])
        for origin in ORIGINS
        if origin in drawn
    ]
    # To the left there is room above the names of problems, which may leave the axes narrower than this line.
    axes.legend(
        handles=[*handles, *more], loc="lower right", bbox_to_anchor=(1, 1), ncols=5, borderaxespad=0.4, borderpad=0
    )


def drawable(words: str) -> str:
    """`words` with a question mark for each character that the plots' font may lack."""
    return words.replace("…", "...").encode("latin-1", "replace").decode("latin-1")
