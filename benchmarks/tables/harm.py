"""What methods leave of the class and take from the others, case by case: columns that several tables share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.every_class import summary
from benchmarks.tables.page import NONE, number, points, spread
from benchmarks.tables.rows import Case, Row, beside_retrain, case, estimate, where

HEAD: Final = (
    "Acc_f max", "Acc_ft max", "Acc_rt change", "worst", "worst class",
    "Acc_rt to retrain", "worst to retrain", "worst class to retrain", "H-Mean gap",
)  # fmt: skip
EXPLAINED: Final = """`Acc_f max` and `Acc_ft max` are those of the worst case. Acc_rt and single retained classes, in
points of test accuracy, stand against the original first, then against retrain; `worst` is the worst case, `worst
class` the single class that lost most in any case. `H-Mean gap` is retrain's less the method's, in the mean. ± is the
95 % interval over original networks (Student's t, the classes of one original averaged first)."""


def cells(rows: Sequence[Row], retrained: Mapping[Case, Row]) -> list[str]:
    """The figures under ``HEAD`` of one method's rows."""
    figures = summary(list(rows))
    beside = beside_retrain(rows)
    return [
        number(figures["acc_f_max"]),
        number(figures["acc_ft_max"]),
        spread(estimate(rows, "retained_change"), points),
        points(figures["retained_change_worst"]),
        points(figures["class_change_worst"]),
        spread(estimate(beside, "to_retrain"), points),
        points(min(float(row["to_retrain"]) for row in beside)),
        worst_class_to_retrain(rows, retrained),
        spread(estimate(beside, "h_mean_gap"), points),
    ]


def against_retrain(rows: Sequence[Row], retrained: Mapping[Case, Row]) -> str:
    """The same of one method in words: Acc_rt and single retained classes less retrain's."""
    beside = beside_retrain(rows)
    worst = min(beside, key=lambda row: float(row["to_retrain"]))
    words = (
        f"Against retrain: Acc_rt {spread(estimate(beside, 'to_retrain'), points)} in the mean and "
        f"{points(float(worst['to_retrain']))} at the worst ({worst['forget']}, original {worst['model_seed']})"
    )
    if not (each := _each_to_retrain(rows, retrained)):
        return f"{words}."
    change, name, row = min(each, key=lambda one: one[0])
    return f"{words}; worst class {points(change)} ({name} by {row['forget']}, original {row['model_seed']})."


def worst_class_to_retrain(rows: Sequence[Row], retrained: Mapping[Case, Row]) -> str:
    """The single retained class that is furthest behind retrain in any of the cases."""
    each = _each_to_retrain(rows, retrained)
    return points(min(change for change, _name, _row in each)) if each else NONE


def _each_to_retrain(rows: Sequence[Row], retrained: Mapping[Case, Row]) -> list[tuple[float, str, Row]]:
    """Each retained class of each case: points against retrain, its name, and the case's row."""
    pairs = [(row, class_changes_to_retrain(row, retrained)) for row in rows]
    return [(change, name, row) for row, changes in pairs for name, change in changes.items()]


def retrained_of(rows: Sequence[Row]) -> dict[Case, Row]:
    """Retrain's row of each case."""
    return {case(row): row for row in where(rows, method="retrain")}


def class_changes_to_retrain(row: Row, retrained: Mapping[Case, Row]) -> dict[str, float]:
    """Points of test accuracy of each retained class against retrain; none where retrain's row is not there."""
    if case(row) not in retrained:
        return {}
    base = json.loads(retrained[case(row)]["class_changes"])
    return {name: change - base[name] for name, change in json.loads(row["class_changes"]).items()}
