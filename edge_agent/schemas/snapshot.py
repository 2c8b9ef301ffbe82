"""What the agent shows of itself to those who ask: made by the main thread once a second, read by any other."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

# Upper edges, in seconds, of the latency's histogram.
EDGES_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Latency:
    """A histogram of how long windows waited for their diagnosis, from their arrival on."""

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES_S) + 1)
        self.sum_s = 0.0

    def observe(self, latency_s: float) -> None:
        """Count one window."""
        self.counts[bisect_left(EDGES_S, latency_s)] += 1
        self.sum_s += latency_s


@dataclass(frozen=True)
class Running:
    """The forget job at work."""

    phase: str
    progress: float


@dataclass(frozen=True)
class ModelSnapshot:
    """One model that the agent serves; a replica's has no cache and no commands. Times are monotonic seconds."""

    release: str
    release_name: str
    provider: str  # of ONNX Runtime, that runs it
    precision: str
    adopted_s: float
    masked: tuple[str, ...]
    cached: Mapping[str, int] = field(default_factory=dict)  # windows, by class
    slot_bytes: int = 0  # that each of them takes
    commands: Mapping[str, int] = field(default_factory=dict)  # by status
    running: Running | None = None


@dataclass(frozen=True)
class Snapshot:
    """The agent at the end of a turn. Times are monotonic seconds."""

    turn_s: float
    busy_s: float  # in which the main thread did not wait for messages, since it started
    online: bool
    refused: tuple[str, ...]  # subscriptions that the broker does not grant
    counters: Mapping[str, int]  # of all models together
    latency_counts: tuple[int, ...]  # per edge of EDGES_S, and above the last
    latency_sum_s: float
    inbox_depth: int
    inbox_capacity: int
    models: Mapping[str, ModelSnapshot]
    clock_synchronised: bool | None
