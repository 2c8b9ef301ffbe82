"""How figures look and are written: the same bytes from the same numbers, and no meaning in a hue alone.

Colours are those of Okabe and Ito (2008) and three darker ones, told apart by the colour-blind; where several meet,
markers or line styles differ as well. ``Figure`` is used without pyplot: nothing stays open.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREY: Final = "#777777"
COLOURS: Final = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", VERMILION, "#8C6D00", "#882255", GREY)
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "d")  # a star is left for what stands out
STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "edge-agent",  # ids in an SVG are hashes of it and of what they name
    "svg.fonttype": "path",
    "figure.dpi": 100,
}
DPI: Final = 150


def styled() -> AbstractContextManager[None]:
    """To draw and to write in: the style of all figures, whatever somebody's matplotlibrc says."""
    return style.context(["default", STYLE])


def blank(width_in: float, height_in: float) -> Figure:
    """An empty figure of a size in inches, which lays its axes out by itself."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def panels(figure: Figure, rows: int, columns: int, *, same_y: bool = False) -> list[Axes]:
    """Axes row by row."""
    axes = figure.subplots(rows, columns, squeeze=False, sharey=same_y, sharex=same_y)
    return [one for line in axes for one in line]


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path``.png and ``path``.svg without a date or a version in them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        file = path.with_name(f"{path.name}.{kind}")
        figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
        written.append(file)
    return written
