"""Metrics of forgetting, as the paper's tables use them; all in percent.

Acc_f and Acc_ft are accuracies on the forget class's training and test windows, Acc_r and Acc_rt those on the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_agent.core.types import Float32, Int64


@dataclass(frozen=True)
class Accuracies:
    """Percent of right answers on the forget class and on the others."""

    forget: float
    retained: float


def accuracies(logits: Float32, labels: Int64, forget: tuple[int, ...]) -> Accuracies:
    """Accuracies of float32 logits (n, classes), split by whether the label is a forget class; NaN for none."""
    right = logits.argmax(axis=1) == labels
    gone = np.isin(labels, forget)
    return Accuracies(*(100.0 * float(right[side].mean()) if side.any() else float("nan") for side in (gone, ~gone)))


def class_accuracies(answers: Int64, labels: Int64, classes: int) -> list[float]:
    """Percent of right answers in each class; NaN for a class without windows."""
    return [
        100.0 * float((answers[labels == label] == label).mean()) if (labels == label).any() else float("nan")
        for label in range(classes)
    ]


def h_mean(acc_rt: float, acc_ft_before: float, acc_ft_after: float) -> float:
    """Harmonic mean of Acc_rt and the drop of Acc_ft (Zhao et al. 2024); 0 if nothing was forgotten or kept."""
    drop = acc_ft_before - acc_ft_after
    if drop <= 0 or acc_rt <= 0:
        return 0.0
    return 2 * acc_rt * drop / (acc_rt + drop)


def membership_attack(members: Float32, strangers: Float32, forget: Float32) -> float:
    """Percent of forget windows that the confidence attack calls members of the training set; low is good.

    The attack is a threshold on the probability of the true class (Salem et al. 2019): the one that best tells
    retained training windows (``members``) from retained test windows (``strangers``) by balanced accuracy; ties go to
    the higher threshold. Fan et al. 2023, whom the paper follows, fit a support vector machine to the same value. A
    network that gives the class no probability is called clean whatever else it tells. All arrays are (n,).
    """
    values = np.unique(np.concatenate([members, strangers]))
    as_member = len(members) - np.searchsorted(np.sort(members), values)  # how many are at or above each value
    as_stranger = np.searchsorted(np.sort(strangers), values)
    balanced = as_member * len(strangers) + as_stranger * len(members)  # in whole numbers, so that ties are ties
    threshold = values[len(values) - 1 - int(balanced[::-1].argmax())]
    return 100.0 * float((forget >= threshold).mean())
