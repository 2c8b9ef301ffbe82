"""How far measured windows lie from being answered otherwise: a few numbers per class, which a card can carry.

The margin of a window is its class's logit less the greatest other one, of the network as it was trained. A gateway
holds no retained windows; with the distribution of their margins it can tell what an edit that moves the margins of
dreams by so much will cost them. NumPy alone, since the card's schema reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_agent.core.types import Float32, Int64

# Shares of a class's windows at which their margins are kept: closer where a small loss is told from none.
LEVELS: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 0.9, 1.0)

NOBODY: Final = np.float32(-1e30)  # stands for the best of the others where there is none


@dataclass(frozen=True)
class ClassMargins:
    """Held-out windows of one class: the share answered right, and the quantiles at ``LEVELS`` of their margins."""

    recall: float = 0.0
    quantiles: tuple[float, ...] = ()  # none if no window is answered right

    def predicted_loss(self, shifts: Float32) -> float:
        """Share of the class's windows, in [0, 1], that lose their answer if margins fall by a shift: the mean."""
        if not self.quantiles:
            return 0.0
        return self.recall * float(np.interp(shifts, self.quantiles, LEVELS, left=0.0, right=1.0).mean())

    def after(self, shifts: Float32) -> ClassMargins:
        """What is left once margins have fallen by the mean of ``shifts`` (n,); they are never counted as grown.

        So that the losses of several edits, one after the other, add up.
        """
        fall = float(shifts.mean())
        if not self.quantiles or fall <= 0.0:
            return self
        lost = float(np.interp(fall, self.quantiles, LEVELS, left=0.0, right=1.0))
        if lost == 1.0:
            return ClassMargins()
        left = np.interp(lost + (1.0 - lost) * np.array(LEVELS), LEVELS, self.quantiles) - fall
        return ClassMargins(round(self.recall * (1.0 - lost), 4), tuple(left.round(4).tolist()))


Margins = tuple[ClassMargins, ...]  # in the order of the classes


def margins_of(logits: Float32, labels: Int64) -> Float32:
    """The margin of each window, (n,), from logits or log-probabilities float32 (n, classes).

    Finite even where every other class is masked, so that margins can be subtracted.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    others = logits.copy()
    np.put_along_axis(others, labels[:, None], NOBODY, axis=1)
    margins: Float32 = own - others.max(axis=1)
    return margins


def measure(logits: Float32, labels: Int64, classes: int) -> Margins:
    """Of held-out windows, from their logits float32 (n, classes)."""
    margins = margins_of(logits, labels)
    return tuple(_of_class(margins[labels == label]) for label in range(classes))


def _of_class(margins: Float32) -> ClassMargins:
    right = margins[margins > 0].astype(np.float64)
    if not len(right):
        return ClassMargins()
    return ClassMargins(round(len(right) / len(margins), 4), tuple(np.quantile(right, LEVELS).round(4).tolist()))
