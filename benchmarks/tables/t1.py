"""T1: pictures, the paper's first table, at a size that two cores can train."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.plans import OF_TABLE_1
from benchmarks.settings import IMAGES
from benchmarks.tables import paper
from benchmarks.tables.page import Content, Table
from benchmarks.tables.rows import Row, runs, title, where
from benchmarks.tables.t6 import compared

ARCHITECTURE: Final = "resnet18_2d"


def make(results: Path) -> Content:
    """One section for each picture setting that has rows."""
    rows = where(runs(results, ARCHITECTURE), method=OF_TABLE_1)
    sections: list[str] = []
    used: list[Row] = []
    missing: list[str] = []
    for setting, about in IMAGES.items():
        own = where(rows, setting=setting, forget=about.paper_class)
        if own:
            sections.append(compared(setting, own, OF_TABLE_1, paper.T1.get(setting.removesuffix("-full"), {})))
            used += own
            missing += [title(method) for method in OF_TABLE_1 if not where(own, method=method)]
    return Content(sections, used, missing)


TABLE: Final = Table(
    "t1",
    "T1: pictures",
    f"""One original network, in percent. Numbers in italics are those of table 1 of the paper ({paper.SOURCE}): full
CIFAR-10 and a ResNet-18 of width 64. Ours is smaller in both, unless a section is about all pictures, and nothing is
tuned, so compare orders, not values. The shipped edit runs without its views, which are windows moved in time: a
picture's rows do not move so. The other columns are those of T6.""",
    "python -m benchmarks.run t1",
    make,
)
