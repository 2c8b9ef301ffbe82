"""How far measured windows lie from being answered otherwise: a few numbers per class, which a card can carry.

The margin of a window is its class's logit less another's, of the network as it was trained: less the greatest other
one, or less that of one class. A gateway holds no retained windows; with the distribution of their margins it can tell
what an edit that moves the margins of dreams by so much will cost them. NumPy alone, since the card's schema reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np

from edge_agent.core.types import Float32, Int64

# Shares of a class's windows at which their margins are kept: closer where a small loss is told from none.
LEVELS: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 0.9, 1.0)

FURTHER: Final = 1.5  # the mean fall of windows over that of dreams; 1.1 to 1.45 was measured (decision 0005)
NOBODY: Final = np.float32(-1e30)  # stands for the best of the others where there is none


@dataclass(frozen=True)
class Falls:
    """How far margins have fallen from one network to another, as dreams of one class tell it.

    Attributes:
        nearest: of each dream, to the greatest of all other logits, float32 (n,).
        apart: the mean, times ``FURTHER``, to the logit of each other class that may still be answered, by class.
    """

    nearest: Float32
    apart: dict[int, float]

    @classmethod
    def of(cls, before: Float32, after: Float32, label: int) -> Falls:
        """From logits or log-probabilities (n, classes) on dreams of ``label``, minus infinity where masked."""
        labels = np.full(len(before), label)
        nearest = margins_of(before, labels) - margins_of(after, labels)
        apart = {}
        for other in np.flatnonzero(np.isfinite(before).any(axis=0)).tolist():
            if other != label:
                falls = (before[:, label] - before[:, other]) - (after[:, label] - after[:, other])
                apart[other] = FURTHER * float(falls.mean())
        return cls(nearest, apart)


@dataclass(frozen=True)
class ClassMargins:
    """Held-out windows of one class: the share answered right, and the quantiles at ``LEVELS`` of their margins."""

    recall: float = 0.0
    quantiles: tuple[float, ...] = ()  # to the greatest other logit; none if no window is answered right
    against: tuple[tuple[float, ...], ...] = ()  # to each class's logit; none to its own and to forgotten ones

    def predicted_loss(self, falls: Falls) -> float:
        """Share of the class's windows, in [0, 1], that lose their answer to an edit: the two below, in geometric mean.

        Each errs on its own, so that both must see a loss. An edit moves all windows of a class nearly alike, seen from
        one other class, but not quite; and dreams lie next to other classes than windows.
        """
        return sqrt(self.loss_by_shift(falls) * self.loss_by_chance(falls))

    def loss_by_shift(self, falls: Falls) -> float:
        """Share of the windows that lose it if all fall alike, to the other class that takes most."""
        shares = [self._lost_to(other, fall) for other, fall in falls.apart.items()] if self.quantiles else []
        return self.recall * float(np.max(shares, initial=0.0))

    def loss_by_chance(self, falls: Falls) -> float:
        """Share that lose it if each falls as some dream did to what is next to it, as by rounded weights."""
        return self.recall * _passed(falls.nearest, self.quantiles)

    def after(self, falls: Falls) -> ClassMargins:
        """What is left once margins have fallen; they are never counted as grown.

        So that the losses of several edits, one after the other, add up. Nothing is kept of classes that do not stay.
        """
        if not self.quantiles:
            return self
        left = round(self.recall - self.predicted_loss(falls), 4)
        nearest = _left(self.quantiles, float(falls.nearest.mean()))
        against = (
            _left(own, falls.apart[other]) if other in falls.apart else () for other, own in enumerate(self.against)
        )
        return ClassMargins(left, nearest, tuple(against))

    def _lost_to(self, other: int, fall: float) -> float:
        """Share of the windows answered right; all where margins to a class that stays are not known."""
        return _passed(fall, self.against[other]) if self.against[other] else 1.0


def _passed(falls: Float32 | float, quantiles: tuple[float, ...]) -> float:
    """Share of the margins that are less than a fall, the mean over falls; none of none."""
    return float(np.interp(falls, quantiles, LEVELS, left=0.0, right=1.0).mean()) if quantiles else 0.0


def _left(quantiles: tuple[float, ...], fall: float) -> tuple[float, ...]:
    """The quantiles, after a fall, of the margins that it leaves; all 0 where it leaves none."""
    if not quantiles or fall <= 0.0:
        return quantiles
    lost = _passed(fall, quantiles)
    left = np.interp(lost + (1.0 - lost) * np.array(LEVELS), LEVELS, quantiles) - fall
    return tuple(np.maximum(left, 0.0).round(4).tolist())


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
    return tuple(_of_class(logits[labels == label], label) for label in range(classes))


def _of_class(logits: Float32, label: int) -> ClassMargins:
    """Of windows of one class."""
    margins = margins_of(logits, np.full(len(logits), label))
    right = margins > 0
    if not right.any():
        return ClassMargins()
    apart = logits[right][:, [label]] - logits[right]
    against = [_quantiles(apart[:, other]) if other != label else () for other in range(logits.shape[1])]
    return ClassMargins(round(float(right.mean()), 4), _quantiles(margins[right]), tuple(against))


def _quantiles(margins: Float32) -> tuple[float, ...]:
    return tuple(np.quantile(margins.astype(np.float64), LEVELS).round(4).tolist())
