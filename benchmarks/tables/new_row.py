"""How soon a class is back once every network has the same new row of the head."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.plans import new_row
from benchmarks.settings import SETTINGS
from benchmarks.tables.page import Content, Table, grid, number, section
from benchmarks.tables.rows import Row, methods_of, not_run, numbers, read, settings_of, shared, title, where

FILE: Final = "new_row.csv"
HEAD: Final = ("network", "steps ↑", "fewest", "relearned from 5 ↓", "relearned from 50 ↓", "classes")


def make(results: Path) -> Content:
    """One section for each setting, over the classes that all networks have."""
    rows = read(results / FILE)
    told = {setting: where(rows, setting=setting) for setting in settings_of(rows)}
    done = {setting: shared(of_it, methods_of(of_it)) for setting, of_it in told.items()}
    sections = [section(SETTINGS[setting].title, _table(of_it)) for setting, of_it in done.items() if of_it]
    return Content(sections, [row for of_it in done.values() for row in of_it], not_run(new_row(), rows))


def _table(rows: list[Row]) -> str:
    body = []
    for method in methods_of(rows):
        own = where(rows, method=method)
        steps, five, fifty = (numbers(own, name) for name in ("steps", "relearned_5", "relearned_50"))
        means = [number(sum(figures) / len(figures), 1) for figures in (steps, five, fifty)]
        body.append([title(method), means[0], f"{min(steps):.0f}", *means[1:], str(len(own))])
    return grid(HEAD, body)


TABLE: Final = Table(
    "new_row",
    "How soon a class is back with a new row of the head",
    """The table of depth lets every network relearn with the head that it has, where an edit that drove the class's row
far down has a lead over one that did not, whatever their features know. Here the row is made anew for all alike, as
the mean of the rows of the other classes, so that what is left in the features decides. `steps` of fine-tuning on
50 windows of the class until half of its test windows are answered right, in the mean over the classes and at the
fewest; `relearned` is the percentage of them after 15 steps on so many windows. Retrain never saw the class: what
comes back as late as there is forgotten, and later is only unlike it. Head alone is the shipped edit that leaves
all features as they are.""",
    "python -m benchmarks.new_row",
    make,
)
