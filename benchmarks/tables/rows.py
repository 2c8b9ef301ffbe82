"""What tables read: rows of the committed CSV files, and what is said of many of them.

**Which rows.** Of ``runs.csv``: test windows only, never the surrogate model on which settings were chosen, and of two
rows about the same run the later one; a row under the settings that the code has now goes before one under others.

**Interval.** ``estimate`` is a mean with a 95 % interval by Student's t. Its observations are the original networks:
classes and unlearning seeds of one are averaged first, since they share its weights and are no independent draws. Three
originals leave two degrees of freedom (factor 4.30, so intervals are wide), and one has no interval. Where one original
has classes that another has not, the mean is over all rows and has no interval: it would mix the two differences.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy import stats

from benchmarks import models
from benchmarks.measures import depth
from benchmarks.methods import ALL
from benchmarks.plans import REFERENCES
from benchmarks.runs import RUNS, Run
from benchmarks.settings import SETTINGS, SURROGATE_SEED

Row = dict[str, str]
Case = tuple[str, str, str, str]  # setting, forget classes, seed and digest of the original
CONFIDENCE: Final = 0.95
NETWORKS: Final = {"original": "Original", "retrain": "Retrain", "other_retrain": "Retrain, other seed"}  # no methods
SAME_RUN: Final = ("setting", "forget", "method", "model_seed", "seed", "architecture")


def read(path: Path) -> list[Row]:
    """Every row in the file's order but those of the surrogate model; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("model_seed") != str(SURROGATE_SEED)]


def runs(folder: Path, architecture: str | None = models.ARCHITECTURE) -> list[Row]:
    """The rows of ``folder/runs.csv`` that tables may show, of one architecture or (None) of all."""
    kept: dict[tuple[str, ...], Row] = {}
    for row in read(folder / RUNS.name):
        key = tuple(row[name] for name in SAME_RUN)
        if row["part"] == "test" and (key not in kept or current(row) or not current(kept[key])):
            kept[key] = row
    return [_told(row) for row in kept.values() if architecture in (None, row["architecture"])]


def _told(row: Row) -> Row:
    """A network that answers nothing right, of any class, gives no numbers: training ran away, and it forgot nothing.

    Rows say so by themselves since ``measures.samples.known``; older ones have 0 % of the forget windows, and a depth.
    """
    if any(float(row[f"acc_{side}"]) for side in ("f", "r", "ft", "rt")):
        return row
    return row | {"acc_f": "100.0", "acc_ft": "100.0"} | dict.fromkeys(depth.COLUMNS, "")


def current(row: Row) -> bool:
    """Whether the code would give the row's run the same id now: no default of the method has changed since.

    Rows of other files than ``runs.csv`` do not say what would be needed to tell.
    """
    if "changed" not in row:
        return True
    run = Run(
        row["setting"],
        tuple(row["forget"].split("+")),
        row["method"],
        int(row["model_seed"]),
        int(row["seed"]),
        tuple(json.loads(row["changed"]).items()),
        row["architecture"],
        part=row["part"],
    )
    try:
        return run.id == row["run"]
    except TypeError:  # a setting that the method no longer has
        return False


def not_run(wanted: Iterable[Run], rows: Iterable[Row]) -> list[str]:
    """How many runs of a plan have no row, in words, for each setting."""
    held = {tuple(row.get(name, "") for name in SAME_RUN) for row in rows}
    counts, total = Counter[str](), Counter[str]()
    for about in dict.fromkeys(tuple(str(run.describe()[name]) for name in SAME_RUN) for run in wanted):
        total[about[0]] += 1
        counts[about[0]] += about not in held
    return [f"{count} of {total[name]} runs on {SETTINGS[name].title}" for name, count in counts.items() if count]


def where(rows: Iterable[Row], **columns: str | Iterable[str]) -> list[Row]:
    """The rows whose columns have the given text, or one of several."""
    wanted = {name: {texts} if isinstance(texts, str) else set(texts) for name, texts in columns.items()}
    return [row for row in rows if all(row[name] in texts for name, texts in wanted.items())]


def having(rows: Iterable[Row], column: str) -> list[Row]:
    """The rows that have a figure there."""
    return [row for row in rows if row.get(column)]


def numbers(rows: Iterable[Row], column: str) -> list[float]:
    """The figures of a column."""
    return [float(row[column]) for row in rows]


def of_paper_class(rows: Iterable[Row], setting: str) -> list[Row]:
    """The rows of a setting in which the class is forgotten that the paper forgets, from one original of each seed."""
    return of_one_original(where(rows, setting=setting, forget=SETTINGS[setting].paper_class))


def original(row: Row) -> tuple[str, str]:
    """Seed and digest of the network that forgot."""
    return row["model_seed"], row.get("original", "")


def of_one_original(rows: Sequence[Row]) -> list[Row]:
    """Of the networks that one seed has made on different machines, only the one that most rows are about."""
    counts = Counter((_recipe(row), original(row)) for row in rows)
    kept = {recipe: one for (recipe, one), _count in reversed(counts.most_common())}
    return [row for row in rows if kept[_recipe(row)] == original(row)]


def _recipe(row: Row) -> tuple[str, str, str]:
    return row["setting"], row.get("architecture", ""), row["model_seed"]


def windows_behind(rows: Iterable[Row]) -> str:
    """How many windows stand behind the accuracies of these rows, in words."""
    rows, counts = list(rows), []
    for name in ("n_f", "n_r", "n_ft", "n_rt"):
        found = sorted({int(row[name]) for row in rows})
        counts.append(f"{name} {found[0]}" + (f" to {found[-1]}" if len(found) > 1 else ""))
    return f"Windows behind each accuracy: {', '.join(counts)}."


def beside_retrain(rows: Iterable[Row]) -> list[Row]:
    """The rows with two more figures: Acc_rt less retrain's (``to_retrain``), retrain's H-Mean less ``h_mean``."""
    return [
        row
        | {"to_retrain": str(float(row["acc_rt"]) - float(row["retrain_acc_rt"]))}
        | {"h_mean_gap": str(float(row["retrain_h_mean"]) - float(row["h_mean"]))}
        for row in rows
    ]


def case(row: Row) -> Case:
    """What methods share when they are compared; rows older than the digest are all about one set of originals."""
    return row["setting"], row["forget"], *original(row)


def by_case(rows: Iterable[Row]) -> dict[Case, list[Row]]:
    """Rows by case; one case has several where a method ran with several seeds."""
    grouped = defaultdict(list)
    for row in rows:
        grouped[case(row)].append(row)
    return dict(grouped)


def shared(rows: Sequence[Row], methods: Iterable[str]) -> list[Row]:
    """The rows of these methods, of the cases that every one of them has: what can be compared row by row."""
    sides = {method: where(rows, method=method) for method in methods}
    cases = [set(by_case(side)) for side in sides.values()]
    common = set.intersection(*cases) if cases else set()
    return [row for side in sides.values() for row in side if case(row) in common]


def settings_of(rows: Iterable[Row]) -> list[str]:
    """The settings that have rows, in the order of ``SETTINGS``."""
    present = {row["setting"] for row in rows}
    return [name for name in SETTINGS if name in present]


def methods_of(rows: Iterable[Row]) -> list[str]:
    """The methods that have rows, in the order of the tables."""
    present = {row["method"] for row in rows}
    return [name for name in (*NETWORKS, *ALL) if name in present]


def title(method: str) -> str:
    """A method's name as in tables."""
    return NETWORKS[method] if method in NETWORKS else ALL[method].title


def data(method: str) -> str:
    """What a method is given: ``reference`` for what is no method, else ``forget`` or ``forget + retain``."""
    if method in (*NETWORKS, *REFERENCES):
        return "reference"
    return "forget + retain" if ALL[method].needs == "retain" else "forget"


def retain_free(methods: Iterable[str]) -> list[str]:
    """Those that make do with the forget set; references are none of them."""
    return [method for method in methods if data(method) == "forget"]


@dataclass(frozen=True)
class Estimate:
    """A mean, and the half-width of its 95 % interval; None where there is none."""

    mean: float
    margin: float | None


def estimate(rows: Sequence[Row], column: str) -> Estimate:
    """Mean and interval of a column over the original networks; no interval where they have not the same classes."""
    groups, classes = defaultdict(list), defaultdict(set)
    for row in rows:
        groups[original(row)].append(float(row[column]))
        classes[original(row)].add((row["setting"], row["forget"]))
    if len({frozenset(some) for some in classes.values()}) > 1:
        return Estimate(float(np.mean(numbers(rows, column))), None)
    return student([float(np.mean(group)) for group in groups.values()])


def student(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval of independent observations."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None)
    factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Estimate(mean, factor * float(np.std(values, ddof=1)) / len(values) ** 0.5)


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share in [0, 1], by Wilson's score, which holds for shares of 0 and 1 as well."""
    interval = stats.binomtest(hits, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def duels(rows: Sequence[Row], first: str, second: str, column: str = "h_mean") -> tuple[int, int, int]:
    """In how many cases the first method has the greater figure, the same, and the smaller one."""
    won = level = lost = 0
    for group in by_case(shared(rows, (first, second))).values():
        own, other = (np.mean(numbers(where(group, method=method), column)) for method in (first, second))
        won, level, lost = won + (own > other), level + (own == other), lost + (own < other)
    return won, level, lost


def sign_test(won: int, lost: int) -> float:
    """Two-sided p of so uneven a result, were winning and losing equally likely; cases that are level say nothing."""
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def mean_ranks(rows: Sequence[Row], column: str = "h_mean") -> tuple[dict[str, float], int]:
    """Mean rank of each method, 1 for the greatest figure, and over how many cases.

    Ranks are taken within each case that all methods have, on the mean over unlearning seeds; equal figures share the
    mean of their ranks.
    """
    methods = methods_of(rows)
    ranks = []
    for group in by_case(shared(rows, methods)).values():
        means = [np.mean(numbers(where(group, method=method), column)) for method in methods]
        ranks.append(stats.rankdata(-np.array(means), method="average"))
    if not ranks:
        return {}, 0
    return dict(zip(methods, np.mean(ranks, axis=0).tolist(), strict=True)), len(ranks)
