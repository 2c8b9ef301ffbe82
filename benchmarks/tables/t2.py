"""T2: the same edits on transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.methods import METHODS
from benchmarks.plans import UNLEARNING_SEEDS
from benchmarks.settings import SETTINGS
from benchmarks.tables import paper
from benchmarks.tables.page import NONE, Content, Table, grid, optional, points, section, spread
from benchmarks.tables.rows import (
    Row,
    data,
    estimate,
    methods_of,
    numbers,
    of_one_original,
    runs,
    settings_of,
    title,
    where,
    windows_behind,
)

ARCHITECTURES: Final = {"resnet18_1d": "ResNet-18-1D", "vit_1d": "ViT-S-1D style", "swin_1d": "Swin-T-1D style"}
TRANSFORMERS: Final = tuple(ARCHITECTURES)[1:]
METRICS: Final = ("acc_f", "acc_r", "acc_ft", "acc_rt", "h_mean")
HEAD: Final = ("method", "data", "Acc_f ↓", "Acc_r ↑", "Acc_ft ↓", "Acc_rt ↑", "H-Mean ↑", "worst class ↑", "runs")


def make(results: Path) -> Content:
    """One section for each setting and architecture."""
    seeds = map(str, UNLEARNING_SEEDS)
    rows = where(runs(results, None), seed=seeds, method=("original", "retrain", *METHODS), architecture=ARCHITECTURES)
    others = where(rows, architecture=TRANSFORMERS)
    used: list[Row] = []
    sections = []
    for setting in settings_of(others):
        wanted = where(others, setting=setting)
        names = {row["forget"] for row in wanted}
        comparable = of_one_original(where(rows, setting=setting, forget=names, method=methods_of(wanted)))
        sections.append(_section(setting, comparable))
        used += comparable
    missing = [ARCHITECTURES[name] for name in TRANSFORMERS if not where(others, architecture=name)]
    return Content(sections, used, missing)


def _section(setting: str, rows: list[Row]) -> str:
    parts = []
    for architecture, name in ARCHITECTURES.items():
        of_it = where(rows, architecture=architecture)
        if of_it:
            body = [_line(method, where(of_it, method=method)) for method in methods_of(of_it)]
            body += [_paper_line(method, line) for method, line in paper.T2.get(architecture, {}).items()]
            parts += [f"**{name}**", grid(HEAD, body)]
    forgotten = ", ".join(sorted({row["forget"] for row in rows}))
    return section(f"{SETTINGS[setting].title}: {forgotten}", *parts, windows_behind(rows))


def _paper_line(method: str, line: paper.Line) -> list[str]:
    return [f"*the paper, CIFAR-10: {title(method)}*", "", *(f"*{cell}*" for cell in map(optional, line)), "", "", ""]


def _line(method: str, rows: list[Row]) -> list[str]:
    cells = [spread(estimate(rows, metric)) for metric in METRICS]
    if method == "original":
        cells[METRICS.index("h_mean")] = NONE
    return [
        title(method),
        data(method),
        *cells,
        points(min(numbers(rows, "class_change_worst"))),
        str(len(rows)),
    ]


TABLE: Final = Table(
    "t2",
    "T2: other backbones",
    f"""Means over originals and unlearning seeds, in percent, ± the 95 % interval over originals (Student's t). The
ResNet's lines are about the same classes and methods. Numbers in italics are those of table 2 of the paper
({paper.SOURCE}): CIFAR-10 and two-dimensional backbones, so compare orders, not values. `worst class` is the single
retained class that lost most, in points of test accuracy against the original, over all runs. Nothing was tuned
here: rivals run with what was tuned on the ResNet and its batch norm, which these have not, so that a poor figure
of theirs says little. Dreams of these backbones are held to statistics that training kept for them (decision 0011),
which the paper's second constraint, no intervention during training, would not allow.""",
    "python -m benchmarks.run t2 t6",
    make,
)
