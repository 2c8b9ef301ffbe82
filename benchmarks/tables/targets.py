"""What the shipped method is to reach, in points and percent, and whether it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.every_class import summary
from benchmarks.tables.page import NONE, grid, met, spread
from benchmarks.tables.rows import Estimate, Row, beside_retrain, estimate


@dataclass(frozen=True)
class Limits:
    """The least changes, and for some settings the most that may be left of the class; None where none is set."""

    mean: float  # Acc_rt against the original, over all cases
    worst: float  # the same, of the worst case
    worst_class: float  # of a single retained class in any case
    windows: int | None = None  # forget windows still answered with the class, of either side, in any case
    h_mean_gap: float | None = None  # H-Mean behind retrain's, in the mean


LIMITS: Final[Mapping[str, Limits]] = {
    "cwru": Limits(0.0, -0.2, -1.0, windows=1, h_mean_gap=0.1),
    "cwru-noise": Limits(0.0, -0.5, -5.0),
    "cwru-load": Limits(-0.2, -1.0, -5.0),
    "rig": Limits(-0.2, -1.0, -5.0),
    "dsads": Limits(-0.2, -1.0, -5.0),
}


def answered(rows: Sequence[Row], side: str) -> int:
    """Most forget windows of one case still answered with their class; ``side`` is ``f`` (training) or ``ft``."""
    return max(round(float(row[f"acc_{side}"]) * float(row[f"n_{side}"]) / 100) for row in rows)


def verdicts(setting: str, rows: Sequence[Row]) -> str:
    """A Markdown table of one method's figures (means with their interval), their targets, and whether they are met."""
    figures, limits = summary(list(rows)), LIMITS.get(setting)
    figures |= {f"answered_{side}": answered(rows, side) for side in ("f", "ft")}
    beside = beside_retrain(rows)
    margins = {name: estimate(beside, column).margin for name, column in _MEANS.items()}
    body = [_line(words, name, figures, margins, limits) for words, name in _FIGURES.items()]
    return grid(("figure", "measured", "target", ""), body)


_FIGURES: Final = {
    "Acc_f, worst case: windows": "answered_f",
    "Acc_ft, worst case: windows": "answered_ft",
    "Acc_rt against the original, mean": "retained_change_mean",
    "Acc_rt against the original, worst case": "retained_change_worst",
    "worst single retained class": "class_change_worst",
    "H-Mean behind retrain, mean": "h_mean_gap_to_retrain",
}
_MEANS: Final = {"retained_change_mean": "retained_change", "h_mean_gap_to_retrain": "h_mean_gap"}


def _line(
    words: str, name: str, figures: Mapping[str, Any], margins: Mapping[str, float | None], limits: Limits | None
) -> list[str]:
    value = figures[name]
    shown = str(value) if name.startswith("answered") else spread(Estimate(value, margins.get(name)))
    if name == "class_change_worst":
        shown += f" ({figures['class_change_worst_where']})"
    if limits is None:
        return [words, shown, NONE, NONE]
    least = {
        "retained_change_mean": limits.mean,
        "retained_change_worst": limits.worst,
        "class_change_worst": limits.worst_class,
    }
    if name in least:
        return [words, shown, f">= {least[name]:g}", met(value >= least[name])]
    most = limits.h_mean_gap if name == "h_mean_gap_to_retrain" else limits.windows
    return [words, shown, NONE, NONE] if most is None else [words, shown, f"<= {most:g}", met(value <= most)]
