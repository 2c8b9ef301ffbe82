"""F3: accuracy epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.settings import SETTINGS
from benchmarks.tables import figures
from benchmarks.tables.page import Content, Table, grid, number, section
from benchmarks.tables.rows import (
    Row,
    methods_of,
    numbers,
    of_one_original,
    of_paper_class,
    read,
    runs,
    settings_of,
    title,
    where,
    windows_behind,
)

FILE: Final = "epochs.csv"
COLUMNS: Final = 4
LINES: Final = (("acc_rt", "Acc_rt", figures.BLUE, "-"), ("acc_ft", "Acc_ft", figures.VERMILION, "--"))


def make(results: Path) -> Content:
    """One figure for each setting, one panel for each method."""
    rows = latest(of_one_original(read(results / FILE)))
    sides = {setting: where(rows, setting=setting) for setting in settings_of(rows)}
    known = runs(results)
    sections = [_section(setting, side, of_paper_class(known, setting)) for setting, side in sides.items()]
    return Content(sections, rows, figures={f"f3_{setting}": _curves(side) for setting, side in sides.items()})


def latest(rows: Sequence[Row]) -> list[Row]:
    """Of each original, method and seed the rows of the run that was written last, if it is whole.

    A run's rows are written from its last epoch to the first, so that one without epoch 0 is not whole.
    """
    last = {_who(row): _run(row) for row in rows if row["epoch"] == "0"}
    return [row for row in rows if last.get(_who(row)) == _run(row)]


def _who(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in ("setting", "method", "model_seed", "seed"))


def _run(row: Row) -> str:
    return row["run"].removesuffix(f"-{row['epoch']}")


def epochs(rows: Sequence[Row], column: str) -> dict[int, list[float]]:
    """The figures of all runs at each epoch."""
    numbered = sorted({int(row["epoch"]) for row in rows})
    return {epoch: numbers(where(rows, epoch=str(epoch)), column) for epoch in numbered}


def _section(setting: str, rows: list[Row], known: list[Row]) -> str:
    """``known`` tell the windows of the same case."""
    body = []
    for method in methods_of(rows):
        forgotten, retained = (list(epochs(where(rows, method=method), name).items()) for name in ("acc_ft", "acc_rt"))
        last, values = forgotten[-1]
        lowest = min(float(np.mean(one)) for _epoch, one in retained)
        cells = [float(np.mean(values)), float(np.mean(retained[-1][1])), lowest]
        body.append([title(method), str(last), *map(number, cells), str(len(values))])
    head = ("method", "last epoch", "Acc_ft there", "Acc_rt there", "lowest Acc_rt", "runs that far")
    behind = [windows_behind(known)] if known else []
    return section(SETTINGS[setting].title, grid(head, body), *behind)


def _curves(rows: list[Row]) -> Figure:
    methods = methods_of(rows)
    height = -(-len(methods) // COLUMNS)
    figure = figures.blank(9.0, 0.6 + 1.8 * height)
    axes = figures.panels(figure, height, COLUMNS, same_y=True)
    for one, method in zip(axes, methods, strict=False):
        _panel(one, where(rows, method=method))
        one.set_title(title(method))
    for one in axes[len(methods) :]:
        one.remove()
    for one in axes[: len(methods)][-COLUMNS:]:  # nothing below
        one.tick_params(labelbottom=True)
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel("percent", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(LINES))
    return figure


def _panel(axes: Axes, rows: list[Row]) -> None:
    for column, label, colour, style in LINES:
        values = epochs(rows, column)
        axes.plot(list(values), [np.mean(one) for one in values.values()], style, color=colour, label=label)
        least, most = ([float(way(one)) for one in values.values()] for way in (np.min, np.max))
        axes.fill_between(list(values), least, most, color=colour, alpha=0.2, linewidth=0)
    axes.set_ylim(-3, 103)


TABLE: Final = Table(
    "f3",
    "F3: accuracy by epoch",
    """Test accuracy after each pass over the forget set, in percent: lines are means over originals and unlearning
seeds, bands reach from the least to the most of them. Epoch 0 is the original; rivals go on for 20 epochs whatever was
tuned; the last point is the network that the method returned. A run that stops early is in no later mean.""",
    "python -m benchmarks.run f3",
    make,
)
