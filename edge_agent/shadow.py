"""Shadow mode: after the gate, the candidate answers the plant's next windows beside the live model, unheard.

Only counts are kept. What is compared is the first of the classes that stay, on windows that the live model gives to
one of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, JobFailed
from edge_agent.core.types import Float32
from edge_agent.settings import Forget

REPORT_EVERY_S: Final = 1.0


class Shadow:
    """One candidate at its trial.

    Args:
        classes: of both models, column by column.
        gone: classes that neither model may name.
        leaving: classes that the candidate has forgotten.
    """

    def __init__(
        self, candidate: OnnxModel, classes: Sequence[str], gone: frozenset[str], leaving: frozenset[str]
    ) -> None:
        self._candidate, self._classes = candidate, classes
        self._leaving = [column for column, name in enumerate(classes) if name in leaving]
        self._gone = [column for column, name in enumerate(classes) if name in gone - leaving]
        self._seen: Counter[str] = Counter()
        self._agreed: Counter[str] = Counter()
        self._started_s = self._reported_s = time.monotonic()
        self._broken: BrokenRelease | None = None

    def compare(self, windows: Float32, logits: Float32) -> None:
        """Let the candidate answer windows (n, channels, length) to which the live model gave logits (n, classes)."""
        try:
            answers = self._candidate.logits(windows)
        except BrokenRelease as error:
            self._broken = error
            return
        mine, sound = _first(logits, self._gone)
        others, finite = _first(answers, self._gone + self._leaving)
        counted = sound & ~np.isin(mine, self._leaving)
        agreed = counted & finite & (mine == others)
        self._seen.update(self._classes[column] for column in mine[counted])
        self._agreed.update(self._classes[column] for column in mine[agreed])

    @property
    def windows(self) -> int:
        """How many were compared."""
        return self._seen.total()

    @property
    def agreement(self) -> float:
        """Share of windows with the same answer; 0 before the first."""
        return self._agreed.total() / max(1, self.windows)

    def complaint(self, settings: Forget) -> EdgeAgentError | None:
        """Why the candidate must not go live, if it must not; with value and limit."""
        wanted, least, passed_s = settings.shadow_windows, settings.shadow_agreement, time.monotonic() - self._started_s
        words = None
        if self.windows >= wanted and self.agreement < least:
            words = f"the new model agrees on {self.agreement:.1%} of {self.windows} live windows, limit {least:.1%}"
        if self.windows < wanted and passed_s > settings.shadow_s:
            words = f"{self.windows} of {wanted} live windows came within {settings.shadow_s:g} s"
        return self._broken or (JobFailed("E_SHADOW", words) if words else None)

    def due(self) -> bool:
        """Whether a report is due; asking for it puts the next one off."""
        late = time.monotonic() >= self._reported_s + REPORT_EVERY_S
        if late:
            self._reported_s = time.monotonic()
        return late

    def report(self) -> dict[str, Any]:
        """What is published."""
        by_class = {name: round(self._agreed[name] / seen, 4) for name, seen in sorted(self._seen.items())}
        return {"windows": self.windows, "agreement": round(self.agreement, 4), "by_class": by_class}


def _first(logits: Float32, hidden: list[int]) -> tuple[Any, Any]:
    """The best column of each row that is not hidden, and whether the row is finite."""
    sound = np.isfinite(logits).all(axis=1)
    shown = logits.copy()
    shown[:, hidden] = -np.inf
    return shown.argmax(axis=1), sound
