"""How much may be written to the disk: flash memory of a gateway wears out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0
_ACCOUNT: Final = Path("/proc/self/io")


class Budget:
    """An allowance that grows evenly over the day, up to an hour's worth.

    It begins empty, as every restart would else hand out some more.

    Args:
        per_day: bytes.
        clock: seconds, monotonic.
    """

    def __init__(self, per_day: int, clock: Callable[[], float]) -> None:
        self._rate, self._clock = per_day / DAY_S, clock
        self._left, self._counted_s = 0.0, clock()

    @property
    def left(self) -> bool:
        """Whether something may be written that can be done without."""
        now_s = self._clock()
        self._left = min(self._left + self._rate * (now_s - self._counted_s), self._rate * HOUR_S)
        self._counted_s = now_s
        return self._left > 0

    def spend(self, written_bytes: int) -> None:
        """Count what was written; the last piece may leave a debt."""
        self._left -= written_bytes


def bytes_written() -> int | None:
    """What this process and its ended children have sent to block devices, as Linux counts it; None elsewhere."""
    try:
        lines = _ACCOUNT.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), None)
