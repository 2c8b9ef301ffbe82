"""F5: features of the networks, by t-SNE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.settings import SETTINGS
from benchmarks.tables import figures
from benchmarks.tables.page import Content, Table, grid, section
from benchmarks.tables.rows import Row, methods_of, numbers, read, title, where

FILE: Final = "tsne.csv"
FORGOTTEN: Final = SETTINGS["cwru"].paper_class
COLUMNS: Final = 3
COLOURS_OF: Final = ("black", *figures.COLOURS)  # the forgotten class first


def make(results: Path) -> Content:
    """One panel for each network."""
    rows = read(results / FILE)
    if not rows:
        return Content([])
    body = [[title(method), str(len(where(rows, method=method)))] for method in methods_of(rows)]
    text = section(f"{SETTINGS['cwru'].title}: {FORGOTTEN}", grid(("network", "windows"), body))
    return Content([text], rows, figures={"f5": _scatter(rows)})


def _scatter(rows: list[Row]) -> Figure:
    methods = methods_of(rows)
    height = -(-(len(methods) + 1) // COLUMNS)  # one place is the legend's
    figure = figures.blank(9.0, 3.0 * height)
    axes = figures.panels(figure, height, COLUMNS)
    names = [FORGOTTEN, *sorted({row["label"] for row in rows} - {FORGOTTEN})]
    looks = dict(zip(names, zip(COLOURS_OF, figures.MARKERS, strict=False), strict=False))
    for one, method in zip(axes, methods, strict=False):
        _panel(one, where(rows, method=method), looks)
        one.set_title(title(method))
    for one in axes[len(methods) :]:
        one.axis("off")
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center", ncols=2, markerscale=2)
    return figure


def _panel(axes: Axes, rows: list[Row], looks: Mapping[str, tuple[str, str]]) -> None:
    """Windows as the network answers them; those of the forgotten class are stars, on top of the others."""
    for name, (colour, marker) in looks.items():
        answered = where(rows, **{"class": name})
        staying = [row for row in answered if row["label"] != FORGOTTEN]
        _points(axes, staying, colour, marker, 9, name)
        _points(axes, where(answered, label=FORGOTTEN), colour, "*", 30, "", edge="black")
    _points(axes, [], "white", "*", 30, f"a window of {FORGOTTEN}", edge="black")
    axes.set_xticks([])
    axes.set_yticks([])


def _points(axes: Axes, rows: list[Row], colour: str, marker: str, size: int, label: str, edge: str = "none") -> None:
    axes.scatter(
        numbers(rows, "x"), numbers(rows, "y"), s=size, c=colour, marker=marker, label=label or "_",
        edgecolors=edge, linewidths=0.5, rasterized=True,
    )  # fmt: skip


TABLE: Final = Table(
    "f5",
    "F5: features",
    f"""Penultimate features of CWRU test windows in two dimensions, by t-SNE for each network by itself. Colour and
marker say what the network answers; stars are the windows of {FORGOTTEN}, the forgotten class, filled in the colour of
their answer. Distances between groups mean little in t-SNE: look at which groups mix.""",
    "python -m benchmarks.run f5",
    make,
)
