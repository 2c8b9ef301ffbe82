"""What one run measures, and how long it takes for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STARTED_S: Final = time.monotonic()


@dataclass(frozen=True)
class Plan:
    """The whole run, or the quick one.

    Attributes:
        releases: a release of the simulated rig for each width.
        payloads: raw windows for them.
        rounds: of each throughput; the median counts.
        latency_s: how long windows come at a steady rate.
        starts: of the agent; the median counts.
    """

    releases: Mapping[int, Path]
    payloads: list[bytes]
    rounds: int
    latency_s: float
    starts: int
    quick: bool

    @property
    def only_width(self) -> int | None:
        """The width, if there is one."""
        return next(iter(self.releases)) if len(self.releases) == 1 else None


def say(words: str) -> None:
    """Progress, on standard error."""
    print(f"{time.monotonic() - STARTED_S:6.0f} s  {words}", file=sys.stderr, flush=True)
