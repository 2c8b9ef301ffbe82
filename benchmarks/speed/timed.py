"""CPU time of work in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LASTS_S: Final = 0.5


def cpu_us(work: Callable[[], object], windows: int) -> float:
    """CPU microseconds per window of work on so many windows, repeated for a while after a first time."""
    work()
    used_s, started_s, count = time.process_time(), time.monotonic(), 0
    while time.monotonic() < started_s + LASTS_S:
        work()
        count += windows
    return 1e6 * (time.process_time() - used_s) / count
