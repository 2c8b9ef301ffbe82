"""F2: how much repeats differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plans import REPEATED, REPEATS
from benchmarks.settings import MODEL_SEEDS, SETTINGS
from benchmarks.tables import figures
from benchmarks.tables.page import Content, Table, grid, number, section
from benchmarks.tables.rows import Row, numbers, of_paper_class, runs, settings_of, title, where, windows_behind

METRICS: Final = {"acc_ft": "Acc_ft, %", "acc_rt": "Acc_rt, %"}


def make(results: Path) -> Content:
    """One figure for each setting in which methods were repeated."""
    seeds = [str(seed) for seed in range(REPEATS)]
    rows = where(runs(results), model_seed=str(MODEL_SEEDS[0]), seed=seeds, method=REPEATED)
    repeats = {setting: _repeated(of_paper_class(rows, setting)) for setting in settings_of(rows)}
    done = {setting: methods for setting, methods in repeats.items() if methods}
    sections = [_section(setting, methods) for setting, methods in done.items()]
    used = [row for methods in done.values() for repeated in methods.values() for row in repeated]
    missing = [title(method) for method in REPEATED if not any(method in methods for methods in done.values())]
    return Content(sections, used, missing, {f"f2_{name}": _boxes(methods) for name, methods in done.items()})


def _repeated(rows: list[Row]) -> dict[str, list[Row]]:
    """The methods that have a row for every seed."""
    sides = {method: where(rows, method=method) for method in REPEATED}
    return {method: side for method, side in sides.items() if len(side) == REPEATS}


def _section(setting: str, methods: Mapping[str, Sequence[Row]]) -> str:
    body = []
    for method, rows in methods.items():
        cells = [number(float(way(numbers(rows, name)))) for name in METRICS for way in (np.min, np.median, np.max)]
        body.append([title(method), *cells])
    head = ("method", *(f"{name} {way}" for name in ("Acc_ft", "Acc_rt") for way in ("least", "median", "most")))
    behind = windows_behind(row for rows in methods.values() for row in rows)
    return section(f"{SETTINGS[setting].title}: {SETTINGS[setting].paper_class}", grid(head, body), behind)


def _boxes(methods: Mapping[str, Sequence[Row]]) -> Figure:
    figure = figures.blank(8.0, 1.0 + 0.3 * len(methods))
    names = [title(method) for method in methods]
    axes_of = zip(figures.panels(figure, 1, len(METRICS)), METRICS.items(), strict=True)
    for column, (axes, (metric, label)) in enumerate(axes_of):
        values = [numbers(rows, metric) for rows in methods.values()]
        boxes = axes.boxplot(values, orientation="horizontal", patch_artist=True, widths=0.6, whis=(0, 100))
        for box in boxes["boxes"]:
            box.set_facecolor("#BBD7EA")
        for median in boxes["medians"]:
            median.set(color=figures.VERMILION, linewidth=2)
        axes.set_yticks(range(1, len(names) + 1), names if column == 0 else [""] * len(names))
        axes.invert_yaxis()
        axes.set_xlabel(label)
    return figure


TABLE: Final = Table(
    "f2",
    "F2: repeats",
    f"""{REPEATS} unlearning seeds on one original (model {MODEL_SEEDS[0]}) and the paper's class. Boxes reach from the
first to the third quartile, whiskers to the least and the most, the line is the median.""",
    "python -m benchmarks.run f2",
    make,
)
