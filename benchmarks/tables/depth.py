"""How deep the class was forgotten, always beside retrain and head surgery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.methods import METHODS
from benchmarks.settings import SETTINGS
from benchmarks.tables.every_class import SHIPPED
from benchmarks.tables.page import NONE, Content, Table, grid, met, number, section, spread
from benchmarks.tables.rows import (
    Estimate,
    Row,
    by_case,
    estimate,
    having,
    methods_of,
    numbers,
    of_paper_class,
    runs,
    settings_of,
    shared,
    title,
    where,
    windows_behind,
)

BESIDE: Final = ("original", "retrain", "other_retrain", "head_surgery", SHIPPED)
JS_SHARE: Final = 0.1  # of the original's divergence from retrain that may be left
DISTANCE: Final = "mia_auc_distance"  # of the mean of AUCs on both sides of 0.5 nothing would be left


def low(value: float) -> float:
    """Low is deep."""
    return value


def high(value: float) -> float:
    """High is deep."""
    return -value


@dataclass(frozen=True)
class Measure:
    """One column of the depth.

    Attributes:
        shallow: less of it is deeper; None where it only explains.
    """

    title: str
    shallow: Callable[[float], float] | None = low
    digits: int = 1


GROUPS: Final[Sequence[Mapping[str, Measure]]] = (
    {
        "linear_probe": Measure("linear probe ↓"),
        "prototype_relearning": Measure("prototypes of 5 windows ↓"),
        "relearned_1": Measure("relearned from 1 ↓"),
        "relearned_5": Measure("relearned from 5 ↓"),
        "relearned_10": Measure("relearned from 10 ↓"),
        "relearned_50": Measure("relearned from 50 ↓"),
        "steps_to_relearn": Measure("steps to relearn ↑", high),
        "relearned_on_retained": Measure("relearned on retained ↓"),
    },
    {
        "answered_snr_20_db": Measure("answered, noise 20 dB ↓"),
        "answered_snr_10_db": Measure("answered, noise 10 dB ↓"),
        "answered_snr_5_db": Measure("answered, noise 5 dB ↓"),
        "answered_pgd_0_1_sigma": Measure("answered, push 0.1 sigma ↓"),
        "answered_pgd_0_3_sigma": Measure("answered, push 0.3 sigma ↓"),
        "answered_int8": Measure("answered, int8 ↓"),
        "answered_int4": Measure("answered, int4 ↓"),
        "codes_changed_int8": Measure("codes changed, int8", None),
        "codes_changed_int4": Measure("codes changed, int4", None),
    },
    {
        "js_to_retrained": Measure("divergence from retrain, bits ↓", digits=4),
        "mia": Measure("called members ↓"),
        DISTANCE: Measure("member AUC, distance from 0.5 ↓", digits=3),
    },
)
MEASURES: Final = {column: measure for group in GROUPS for column, measure in group.items()}


def make(results: Path) -> Content:
    """For each setting: all methods on the paper's class, then every class beside retrain and head surgery."""
    told = where(having(runs(results), "linear_probe"), seed="0", method=(*BESIDE, *METHODS))
    rows = [row | {DISTANCE: str(abs(float(row["mia_auc"]) - 0.5))} for row in told]
    sections = [_section(setting, where(rows, setting=setting)) for setting in settings_of(rows)]
    return Content(sections, rows, [name for name in SETTINGS if name not in settings_of(rows)])


def _section(setting: str, rows: list[Row]) -> str:
    of_paper, parts = of_paper_class(rows, setting), []
    if of_paper:
        parts.append(
            f"{SETTINGS[setting].paper_class}, by all methods of which this was measured. {windows_behind(of_paper)}"
        )
        parts += [_methods(of_paper, group) for group in GROUPS]
    beside = [row for row in shared(rows, BESIDE) if "+" not in row["forget"]]
    if beside:
        count = len(by_case(beside))
        parts += [
            f"All {count} cases that these share, in the mean. {windows_behind(beside)}",
            _beside(beside),
            _divergence(beside),
        ]
    return section(SETTINGS[setting].title, *parts)


def _methods(rows: list[Row], group: Mapping[str, Measure]) -> str:
    body = []
    for method in methods_of(rows):
        own = where(rows, method=method)
        cells = [_cell(estimate(own, column), measure) for column, measure in group.items()]
        body.append([title(method), *cells, str(len(own))])
    return grid(("method", *(measure.title for measure in group.values()), "runs"), body)


def _beside(rows: list[Row]) -> str:
    """One line for each measure, and whether the shipped method is behind head surgery in the mean, and how often."""
    body = []
    for column, measure in MEASURES.items():
        means = [float(np.mean(numbers(where(rows, method=method), column))) for method in BESIDE]
        cells = [number(mean, measure.digits) for mean in means]
        body.append([measure.title, *cells, *_verdict(rows, column, measure)])
    return grid(("measure", *map(title, BESIDE), "not behind head surgery", "cases behind it"), body)


def _verdict(rows: list[Row], column: str, measure: Measure) -> tuple[str, str]:
    if measure.shallow is None:
        return NONE, NONE
    pairs = []
    for group in by_case(rows).values():
        own, surgery = (where(group, method=method)[0] for method in (SHIPPED, "head_surgery"))
        pairs.append((measure.shallow(float(own[column])), measure.shallow(float(surgery[column]))))
    behind = sum(own > surgery for own, surgery in pairs)
    own_mean, surgery_mean = np.mean(pairs, axis=0)
    return met(bool(own_mean <= surgery_mean)), str(behind)


def _divergence(rows: list[Row]) -> str:
    """What is left of the original's divergence, beside what two retrained networks that differ by their seed leave."""
    names = (SHIPPED, "other_retrain", "original")
    own, chance, before = (np.mean(numbers(where(rows, method=name), "js_to_retrained")) for name in names)
    shares = [f"{number(float(100 * left / before), 1)} %" if before > 0 else "more" for left in (own, chance)]
    return (
        f"The shipped method's answers keep {shares[0]} of the original's divergence from retrain, "
        f"target at most {100 * JS_SHARE:g} %: {met(bool(own <= JS_SHARE * before))}. "
        f"A second retrained network, from another seed, keeps {shares[1]}."
    )


def _cell(value: Estimate, measure: Measure) -> str:
    return spread(value, lambda figure: number(figure, measure.digits))


TABLE: Final = Table(
    "depth",
    "Depth of forgetting",
    """Percent of the forget test windows, unlearning seed 0, unless a head says otherwise; ± is the 95 % interval over
originals (Student's t). A network that never saw the class separates it too, where it is unlike the others: read
every figure beside retrain's, and beside head surgery's, which only removes the class's logit. `linear probe` and
`prototypes` tell the class from the penultimate features. Rate and number of steps of relearning were set on test
windows of CWRU's IR007, so that retrain needs about 15 steps and head surgery 2. Every network relearns with the
head that it has, head surgery with a new row of zeros: how far an edit has driven the class's row down counts, and
with that row removed it comes back sooner, in 11 steps where retrain takes 14 (decision 0003, one case). More steps
than retrain's say that a network is unlike retrain, not that it is deeper. What head surgery answers to noise,
pushes and rounding is 0 by construction, so that nothing can be better. `relearned` is the accuracy after 15 steps
on so many windows of the class, `on retained` after a pass over windows of the others alone; `answered` is what
noise, a push toward the class, or rounded weights bring back; `codes changed` is the share of weight codes that are
not the original's. `divergence from retrain` is the Jensen-Shannon divergence of answers; the distance that is a
metric is its square root, of which a greater share is left. `member AUC` tells the class's training windows from
its test windows; 0.5 tells nothing.""",
    "python -m benchmarks.run t6 every t4",
    make,
)
