"""How the live model does with the plant's windows: what decides, during a probation, whether the parent comes back."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final

JUDGED: Final = 256  # newest windows that are looked at
FEWEST: Final = 32  # before as many have come, nothing is said
MOST_BAD: Final = 0.05  # share of windows without a finite answer
MOST_SLOWER: Final = 4.0  # times the parent's median run time per window; below SLOW_S no time is too long
SLOW_S: Final = 0.02


class Health:
    """The newest windows of one live release."""

    def __init__(self) -> None:
        self._bad: deque[bool] = deque(maxlen=JUDGED)
        self._runs_s: deque[float] = deque(maxlen=JUDGED)

    def note(self, sound: int, bad: int, run_s: float) -> None:
        """Count a run: windows with a finite answer, windows without one, and how long it took together."""
        for outcome, windows in ((False, sound), (True, bad)):
            self._bad.extend([outcome] * windows)
        self._runs_s.extend([run_s / (sound + bad)] * (sound + bad))

    @property
    def usual_s(self) -> float | None:
        """Median run time per window, once enough have come."""
        return median(self._runs_s) if len(self._runs_s) >= FEWEST else None

    def complaint(self, usual_s: float | None = None) -> str | None:
        """What is wrong with the release, with value and limit, or None.

        Args:
            usual_s: the parent's median run time per window, if it is known.
        """
        if len(self._bad) < FEWEST:
            return None
        share = sum(self._bad) / len(self._bad)
        if share > MOST_BAD:
            return f"{share:.0%} of the last {len(self._bad)} windows have no finite answer, at most {MOST_BAD:.0%} may"
        now_s = self.usual_s
        if now_s is not None and usual_s is not None and now_s > max(SLOW_S, MOST_SLOWER * usual_s):
            limit_ms = max(SLOW_S, MOST_SLOWER * usual_s) * 1000
            return f"a window takes {now_s * 1000:.1f} ms, the limit is {limit_ms:.1f} ms"
        return None
