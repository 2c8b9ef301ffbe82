"""T3: one, two and three classes forgotten at once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks import plans
from benchmarks.methods import METHODS
from benchmarks.settings import SETTINGS
from benchmarks.tables import harm, paper, targets
from benchmarks.tables.every_class import SHIPPED
from benchmarks.tables.page import Content, Table, grid, optional, section
from benchmarks.tables.rows import (
    Row,
    data,
    methods_of,
    not_run,
    original,
    runs,
    settings_of,
    shared,
    title,
    where,
    windows_behind,
)


def make(results: Path) -> Content:
    """One section for each setting in which several classes were forgotten at once."""
    rows = where(runs(results), seed="0", method=("retrain", *METHODS))
    several = [row for row in rows if classes(row) > 1]
    used: list[Row] = []
    sections, absent = [], not_run(plans.t3(), rows)
    for setting in settings_of(several):
        together = where(several, setting=setting)
        members = {name for row in together for name in row["forget"].split("+")}
        alone = where(rows, setting=setting, forget=members, method=methods_of(together))
        originals = {original(row) for row in together}
        alone = [row for row in alone if original(row) in originals]
        alone = shared(alone, [method for method in methods_of(alone) if method != SAME_ALONE])
        used += [*alone, *together]
        sections.append(_section(setting, [*alone, *together]))
        if lacking := members - {row["forget"] for row in alone}:
            absent.append(f"{len(lacking)} of {len(members)} classes by themselves on {SETTINGS[setting].title}")
    return Content([*sections, _of_paper()] if sections else [], used, absent)


# Of one class, own labels are all labels: DELETE is DELETE-all, and only the latter is run on every class.
SAME_ALONE: Final = "delete"


def classes(row: Row) -> int:
    """How many classes were forgotten at once."""
    return len(row["forget"].split("+"))


def _section(setting: str, rows: list[Row]) -> str:
    retrained, body, parts = harm.retrained_of(rows), [], []
    for count in sorted({classes(row) for row in rows}):
        of_count = [row for row in rows if classes(row) == count]
        for method in methods_of(of_count):
            own = where(of_count, method=method)
            body.append([str(count), title(method), data(method), *harm.cells(own, retrained), str(len(own))])
        shipped = where(of_count, method=SHIPPED)
        if count > 1 and shipped:
            parts += [f"{title(SHIPPED)}, {count} classes at once:", targets.verdicts(setting, shipped)]
            parts.append(harm.against_retrain(shipped, retrained))
    table = grid(("classes", "method", "data", *harm.HEAD, "cases"), body)
    return section(SETTINGS[setting].title, table, windows_behind(rows), *parts)


def _of_paper() -> str:
    head = ("method", *(f"{count}: {name}" for count in (1, 5, 10) for name in ("Acc_ft ↓", "Acc_rt ↑")))
    body = [[title(method), *map(optional, line)] for method, line in paper.T3.items()]
    return section(f"The paper's table 3: CIFAR-100, 1, 5 and 10 classes ({paper.SOURCE})", grid(head, body))


TABLE: Final = Table(
    "t3",
    "T3: several classes at once",
    f"""Unlearning seed 0. The lines for one class are about those of the classes that occur among several which every
method forgot from the same originals; DELETE is DELETE-all there. Acc_f and Acc_ft count windows answered with their
own class, not with another of the forgotten.
{harm.EXPLAINED}""",
    "python -m benchmarks.run t3 every",
    make,
)
