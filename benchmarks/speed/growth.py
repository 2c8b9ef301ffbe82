"""How speed changes with the number of assets, of channels, and of samples per window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.speed import consumers
from benchmarks.speed.figures import Figure
from benchmarks.speed.load import OWN, load
from benchmarks.speed.plan import Plan, say
from edge_agent.commands.train import train_release
from edge_agent.core.dreams import DreamSettings
from edge_agent.core.training import TrainingSettings
from edge_agent.core.types import Dataset, Split

PART: Final = "growth"
WIDTH: Final = 16
RATE_HZ, CHANNELS, LENGTH = 100.0, 9, 1024
LATENCY_S: Final = 3.0
BYTES: Final = 40_000_000  # of windows in one drain


@dataclass(frozen=True)
class Point:
    """One setting; two of the three are as usual."""

    name: str
    assets: int = 1
    channels: int = CHANNELS
    length: int = LENGTH

    @property
    def size(self) -> int:
        """Bytes of a window."""
        return 4 * self.channels * self.length


USUAL: Final = Point("1 assets")
ASSETS: Final = tuple(Point(f"{count} assets", assets=count) for count in (4, 16, 64))
SHAPES: Final = (
    *(Point(f"{count} channels", channels=count) for count in (1, 3, 32)),
    *(Point(f"{count} samples", length=count) for count in (256, 4096, 8192)),
)


def measure(plan: Plan, folder: Path) -> Iterator[Figure]:
    """Each point with a broker and an agent of its own."""
    release = plan.releases[min(plan.releases)]
    for point in (USUAL, *ASSETS[2 if plan.quick else 0 :]):
        yield from _at(point, release, folder / point.name.replace(" ", "-"), plan.rounds)
    for point in () if plan.quick else SHAPES:
        here = folder / point.name.replace(" ", "-")
        yield from _at(point, _untrained(point, here / "release"), here, plan.rounds)


def _at(point: Point, release: Path, folder: Path, rounds: int) -> Iterator[Figure]:
    generator = np.random.default_rng(0)
    payloads = [generator.standard_normal(point.size // 4, "<f4").tobytes() for _ in range(32)]
    assets = [f"{OWN}{number}" for number in range(point.assets)]
    with (
        load(folder / "broker", payloads) as (port, offered),
        consumers.agent(folder / "agent", port, release) as agent,
    ):
        count = min(2000, max(100, BYTES // point.size))
        typical = offered.drains(agent, count, rounds, assets)
        late_ms = offered.latencies_ms(agent, RATE_HZ, round(LATENCY_S * RATE_HZ), assets)
    p99_ms = float(np.percentile(late_ms, 99))
    words = f"{typical.per_s:.0f} windows/s, {typical.cpu_us:.0f} us CPU per window, p99 {p99_ms:.1f} ms"
    say(f"{point.name}: {words}")
    yield from typical.figures(PART, "agent", point.name)
    yield Figure(PART, "agent", point.name, "p99_ms", p99_ms)


def _untrained(point: Point, folder: Path) -> Path:
    """A release for windows of that shape; what it answers means nothing."""
    generator = np.random.default_rng(0)
    windows = generator.standard_normal((8, point.channels, point.length), np.float32)
    split = Split(windows, np.arange(8) % 4)
    names = tuple(f"c{number}" for number in range(point.channels))
    data = Dataset("noise", ("a", "b", "c", "d"), names, 5120.0, "m/s^2", "draw", split, split, split)
    few = DreamSettings(typical=1, soft=0, border=0, batch=4)
    train_release(data, folder, width=WIDTH, seed=0, settings=TrainingSettings(epochs=1), dream_settings=few)
    return folder
