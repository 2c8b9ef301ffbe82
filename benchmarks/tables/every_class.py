"""Every class forgotten in turn: the shipped method against its targets, and against its nearest rivals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks import plans
from benchmarks.methods import CONTROLS, METHODS
from benchmarks.plans import CLASSES
from benchmarks.settings import MODEL_SEEDS, SETTINGS
from benchmarks.tables import harm, targets
from benchmarks.tables.page import NONE, Content, Table, grid, met, number, points, section
from benchmarks.tables.rows import (
    Case,
    Row,
    beside_retrain,
    by_case,
    case,
    data,
    duels,
    mean_ranks,
    methods_of,
    not_run,
    numbers,
    original,
    retain_free,
    runs,
    settings_of,
    shared,
    sign_test,
    title,
    where,
    windows_behind,
)

SHIPPED: Final = "pte"


def make(results: Path) -> Content:
    """One section for each setting in which the shipped method has forgotten something."""
    rows = [
        row
        for row in where(runs(results), seed="0", method=("retrain", *METHODS, *CONTROLS))
        if "+" not in row["forget"]
    ]
    done = settings_of(where(rows, method=SHIPPED))
    sections = [_section(setting, where(rows, setting=setting)) for setting in done]
    return Content(sections, where(rows, setting=done), not_run(plans.every_setting(), runs(results)))


def cases(setting: str) -> int:
    """How many cases there are: every class, from every original."""
    return len(CLASSES[setting]) * len(MODEL_SEEDS)


def _section(setting: str, rows: list[Row]) -> str:
    """Several methods are compared without the class on which rivals were tuned; the targets are about every class."""
    shipped = where(rows, method=SHIPPED)
    originals = len({original(row) for row in shipped})
    count = f"{len(shipped)} of {cases(setting)} cases ({len(CLASSES[setting])} classes, {originals} originals)"
    surrogate, retrained = SETTINGS[setting].surrogate, harm.retrained_of(rows)
    rivals = _compared([row for row in rows if row["forget"] != surrogate])
    parts = [
        f"**{title(SHIPPED)}**: {count}. {windows_behind(shipped)}",
        targets.verdicts(setting, shipped),
        harm.against_retrain(shipped, retrained),
        _class_by_class(shipped, retrained),
    ]
    if rivals:
        parts += [f"**Methods**, every class but {surrogate}, on which rivals were tuned:", _comparison(rivals)]
        parts.append(_standing(rivals))
    return section(SETTINGS[setting].title, *parts)


def _compared(rows: list[Row]) -> list[Row]:
    """The rows of methods that forgot more than one class of an original: else one class counted as many times."""
    forgotten = defaultdict(set)
    for row in rows:
        forgotten[row["method"], original(row)].add(row["forget"])
    return [row for row in rows if len(forgotten[row["method"], original(row)]) > 1]


def _comparison(rows: list[Row]) -> str:
    """Over the cases that all of the methods have; a reference may lack some of them."""
    compared = shared(rows, [method for method in methods_of(rows) if data(method) != "reference"])
    cases_of_all = by_case(compared)
    rows = [row for row in rows if case(row) in cases_of_all]
    retrained = harm.retrained_of(rows)
    ranks, _cases = mean_ranks(where(rows, method=retain_free(methods_of(rows))))
    body = []
    for method in methods_of(rows):
        own = where(rows, method=method)
        rank = number(ranks[method]) if method in ranks else NONE
        body.append([title(method), data(method), *harm.cells(own, retrained), rank, str(len(own))])
    return grid(("method", "data", *harm.HEAD, "rank", "cases"), body)


def _standing(rows: list[Row]) -> str:
    """The targets that are about other methods."""
    lines = []
    ranks, _cases = mean_ranks(where(rows, method=retain_free(methods_of(rows))))
    if SHIPPED in ranks and len(ranks) > 1:
        best = min(ranks.values())
        words = f"best mean rank in H-Mean among the {len(ranks)} retain-free methods here"
        lines.append(f"- {words}: {met(ranks[SHIPPED] <= best)}")
        told = _duels(rows, [name for name in ranks if name != SHIPPED])
        lines.append(f"- H-Mean in the cases that both have, won, level and lost: {told}")
    both_kinds, cases_of_all = mean_ranks([row for row in rows if data(row["method"]) != "reference"])
    if len(both_kinds) > len(ranks):
        order = sorted(both_kinds.items(), key=lambda one: one[1])
        told = ", ".join(f"{title(method)} {number(rank)}" for method, rank in order)
        lines.append(f"- mean rank with the retain-using methods, {cases_of_all} cases: {told}")
    using = [method for method in methods_of(rows) if data(method) == "forget + retain"]
    both = shared(rows, (SHIPPED, *using)) if using else []
    if both:
        own, *theirs = (min(numbers(where(both, method=method), "class_change_worst")) for method in (SHIPPED, *using))
        others = ", ".join(f"{title(method)} {points(worst)}" for method, worst in zip(using, theirs, strict=True))
        words = f"worst class at least level with the best of the retain-using methods here ({points(own)}; {others})"
        lines.append(f"- {words}: {met(own >= max(theirs))}")
    return "\n".join(lines)


def _duels(rows: list[Row], rivals: list[str]) -> str:
    told = []
    for method in rivals:
        won, level, lost = duels(rows, SHIPPED, method)
        told.append(f"{title(method)} {won}, {level}, {lost} (p {sign_test(won, lost):.2f})")
    return "; ".join(told)


def _class_by_class(rows: list[Row], retrained: Mapping[Case, Row]) -> str:
    body = []
    for forget in CLASSES[rows[0]["setting"]]:
        own = where(rows, forget=forget)
        if not own:
            continue
        worst = min(own, key=lambda row: float(row["class_change_worst"]))
        changes = numbers(own, "retained_change")
        body.append([
            forget,
            number(max(numbers(own, "acc_ft"))),
            points(sum(changes) / len(changes)),
            points(min(changes)),
            f"{points(float(worst['class_change_worst']))} ({worst['worst_class']}, original {worst['model_seed']})",
            points(min(numbers(beside_retrain(own), "to_retrain"))),
            harm.worst_class_to_retrain(own, retrained),
            str(len(own)),
        ])  # fmt: skip
    return grid((
        *("forgotten class", "Acc_ft max", "Acc_rt change", "worst", "worst retained class"),
        *("worst to retrain", "worst class to retrain", "originals"),
    ), body)  # fmt: skip


TABLE: Final = Table(
    "every_class",
    "Every class, forgotten in turn",
    f"""The published method shows one class per data set. Here every class is forgotten, from several originals; a case
is one class and one original, unlearning seed 0. First the shipped method against its targets, over all classes,
and class by class; then beside retrain, head surgery and the nearest rivals, over the cases that all the methods
have. The two of the last stage are controls: rivals under what the shipped method is held to, one stage, frozen
norms, an end once no forget window is answered. They tell how much of a difference is the method. {harm.EXPLAINED}
`rank` is the mean rank in H-Mean among the methods without retained data; `p` is of a two-sided sign test, and too
small, for classes of one original are no independent draws.""",
    "python -m benchmarks.run every",
    make,
)
