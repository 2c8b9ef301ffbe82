"""Where CPU went in the serving process and in a forget job, commit by commit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes

from benchmarks.speed.figures import rows_of
from benchmarks.speed.profiles import ELSEWHERE, FORGETTING, SERVING
from benchmarks.tables import figures
from benchmarks.tables.page import Content, Table, grid, made_with, section

FILE: Final = "profiles.csv"
SHOWN: Final = 12  # functions of each profile; the others are summed up
TITLES: Final = {SERVING: "Serving: CPU us per window", FORGETTING: "A forget job: CPU seconds"}
REST: Final = "everything else"

Column = dict[str, float]


def make(results: Path) -> Content:
    """A table for each profile, its columns the commits in the order of the file, and bars of both."""
    rows = rows_of(results / FILE)
    if not rows:
        return Content([])
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    tables = {profile: _table(rows, profile, commits) for profile in TITLES}
    sections = [f"Measured on {made_with(rows[-1])}."]
    sections += [section(TITLES[profile], _grid(table, commits)) for profile, table in tables.items()]
    figure = figures.blank(7.2, 6.4)
    for axes, (profile, table) in zip(figures.panels(figure, len(tables), 1), tables.items(), strict=True):
        _bars(axes, table, commits, TITLES[profile])
    return Content(sections, figures={"profiles": figure})


def _table(rows: Sequence[dict[str, str]], profile: str, commits: Sequence[str]) -> dict[str, list[float]]:
    """Values by function and commit: those that took most at any commit, then the sum of the others."""
    by_commit: dict[str, Column] = {commit: {} for commit in commits}
    for row in rows:
        if row["profile"] == profile:
            by_commit[row["commit"]][row["function"]] = float(row["value"])
    most = {
        function: max(column.get(function, 0.0) for column in by_commit.values())
        for function in dict.fromkeys(function for column in by_commit.values() for function in column)
        if function != ELSEWHERE
    }
    shown = sorted(most, key=lambda function: -most[function])[:SHOWN]
    table = {function: [by_commit[commit].get(function, 0.0) for commit in commits] for function in shown}
    table[REST] = [
        sum(value for function, value in by_commit[commit].items() if function not in shown) for commit in commits
    ]
    return table


def _grid(table: dict[str, list[float]], commits: Sequence[str]) -> str:
    totals = [sum(column) for column in zip(*table.values(), strict=True)]
    body = [[words, *(f"{value:.3g}" for value in values)] for words, values in [*table.items(), ("all", totals)]]
    return grid(("function", *commits), body)


def _bars(axes: Axes, table: dict[str, list[float]], commits: Sequence[str], title: str) -> None:
    """Horizontal bars, those of one function beside each other."""
    thick = 0.8 / len(commits)
    for number, commit in enumerate(commits):
        places = [row + thick * (number - (len(commits) - 1) / 2) for row in range(len(table))]
        values = [values[number] for values in table.values()]
        axes.barh(places, values, thick, label=commit, color=figures.COLOURS[number], hatch="///" * (number % 2))
    axes.set_yticks(range(len(table)), list(table), fontsize=6.5)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_title(title)
    axes.legend(fontsize=7)


TABLE: Final = Table(
    "profiles",
    "Profiles",
    """Samples of py-spy at width 16, on the packaged release. A sample counts for the innermost function of the agent
or of paho: what it calls in numpy, ONNX Runtime or torch is its own. The first column is the code before any change
that was made for speed (commit acff9ab), the last the newest; docs/speed.md tells what changed between them.""",
    "python -m benchmarks.speed.profiles",
    make,
)
