"""The wall clock, and how far it can be trusted. Durations and deadlines never use it.

A gateway may start in 1970 and jump by decades when its clock is set. What has to know the date asks for a ``Reading``,
which says whether the kernel holds the clock for synchronised. ``latest`` never goes back: the greatest time that was
seen while synchronised is kept in a file, so that a command that had expired cannot come alive again.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from edge_agent.files import storage, write_atomically

TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
TIMEX_BYTES: Final = 512  # more than any struct timex
KEEP_EVERY_S: Final = 3600.0
FIRST: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Reading:
    """A wall clock time; ``synchronised`` is None where the kernel does not say."""

    utc: datetime
    synchronised: bool | None

    def document(self) -> dict[str, str | bool | None]:
        """For documents: ISO 8601, and whether it can be trusted."""
        return {"utc": self.utc.isoformat(timespec="seconds"), "synchronised": self.synchronised}


def read() -> Reading:
    """The wall clock now."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return Reading(datetime.now(timezone.utc), None if state < 0 else state != TIME_ERROR)


class Clock:
    """The wall clock with a floor that outlives a restart.

    Args:
        path: where the floor is kept; what cannot be read there counts as none.
        read: the wall clock.
    """

    def __init__(self, path: Path, read: Callable[[], Reading] = read) -> None:
        self._path, self._read = path, read
        self._kept_s = float("-inf")
        try:
            self._floor = datetime.fromisoformat(path.read_text())
            self._floor = self._floor if self._floor.tzinfo else FIRST
        except (OSError, ValueError):
            self._floor = FIRST

    def latest(self) -> datetime:
        """Now, or the greatest time known to have passed if that is later."""
        return max(self.now().utc, self._floor)

    def now(self) -> Reading:
        """The wall clock; a synchronised one raises the floor."""
        reading = self._read()
        if reading.synchronised and reading.utc > self._floor:
            self._floor = reading.utc
        return reading

    def keep(self) -> None:
        """Store the floor, at most once an hour.

        Raises:
            StorageFailed: it is as it was before.
        """
        now_s = time.monotonic()
        if now_s < self._kept_s + KEEP_EVERY_S:
            return
        self.now()
        with storage("the clock's floor cannot be stored"):
            write_atomically(self._path, self._floor.isoformat().encode())
        self._kept_s = now_s
