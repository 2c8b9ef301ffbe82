"""T4: what each part of the edit does, as published and as shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.methods import ABLATIONS
from benchmarks.settings import SETTINGS
from benchmarks.tables import harm, paper
from benchmarks.tables.page import NONE, Content, Table, grid, optional, section, spread
from benchmarks.tables.rows import (
    Row,
    case,
    estimate,
    having,
    methods_of,
    runs,
    settings_of,
    shared,
    title,
    where,
    windows_behind,
)

BASES: Final = {"pte_published": "ablation_published_", "pte": "ablation_shipped_"}
BESIDE: Final = ("retrain", "head_surgery")
DEPTH: Final = {"steps_to_relearn": "steps to relearn ↑", "answered_pgd_0_1_sigma": "answered, push of 0.1 sigma ↓"}


def make(results: Path) -> Content:
    """Two tables for each setting that has ablations: those of the published edit, and those of the shipped one."""
    rows = where(runs(results), method=(*BESIDE, *BASES, *ABLATIONS))
    varied = where(rows, method=ABLATIONS)
    done = settings_of(varied)
    missing = [title(method) for method in ABLATIONS if not where(varied, method=method)]
    wanted = {(case(row), row["seed"]) for row in varied}
    used = [row for row in rows if (case(row), row["seed"]) in wanted]
    sections = [_section(setting, where(used, setting=setting)) for setting in done]
    return Content([*sections, _of_paper()] if sections else [], used, missing)


def _section(setting: str, rows: list[Row]) -> str:
    parts = []
    for base, prefix in BASES.items():
        names = [method for method in ABLATIONS if method.startswith(prefix)]
        varied = where(rows, method=names)
        if varied:
            wanted = {(case(row), row["seed"]) for row in varied}
            same = [row for row in where(rows, method=(*BESIDE, base)) if (case(row), row["seed"]) in wanted]
            parts.append(_table([*same, *varied], base, names))
    return section(SETTINGS[setting].title, *parts, windows_behind(rows))


def _table(rows: list[Row], base: str, names: list[str]) -> str:
    retrained = harm.retrained_of(rows)
    order = [name for name in (*BESIDE, base, *names) if name in methods_of(rows)]
    deep, body = {column: _alike(rows, column) for column in DEPTH}, []
    for method in order:
        own = where(rows, method=method)
        depth = [_deep(where(deep[column], method=method), column) for column in DEPTH]
        name = f"**{title(method)}**" if method == base else title(method)
        body.append([name, *harm.cells(own, retrained), *depth, str(len(own))])
    return grid(("method", *harm.HEAD, *DEPTH.values(), "runs"), body)


def _alike(rows: list[Row], column: str) -> list[Row]:
    """The rows with a depth, of cases that all lines with one have: references have it of more classes."""
    deep = having(rows, column)
    return shared(deep, methods_of(deep))


def _deep(rows: list[Row], column: str) -> str:
    return spread(estimate(rows, column)) if rows else NONE


def _of_paper() -> str:
    head = ("method", "Acc_f ↓", "Acc_r ↑", "Acc_ft ↓", "Acc_rt ↑")
    body = [[title(method), *map(optional, line)] for method, line in paper.T4.items()]
    return section(f"The paper's table 4: CIFAR-100 ({paper.SOURCE})", grid(head, body))


TABLE: Final = Table(
    "t4",
    "T4: ablations",
    f"""One thing changed at a time, on the cases and seeds that the ablations were run on. {harm.EXPLAINED} The last
columns, over the cases that all lines have them of, tell an edit that only hides the class: steps of fine-tuning on 50
of its windows until half of the test windows are answered right, and the percentage of forget windows answered with the
class after a small push toward it. A network whose training ran away, so that it gives no numbers, has forgotten
nothing.""",
    "python -m benchmarks.run t4 every",
    make,
)
