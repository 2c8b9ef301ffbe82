"""Where the time of one window goes: each stage alone, in batches as large as the agent takes them.

What the agent burns beyond the sum of its stages is MQTT both ways, and handing over between threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.speed import consumers
from benchmarks.speed.figures import Figure
from benchmarks.speed.load import load
from benchmarks.speed.plan import Plan, say
from benchmarks.speed.timed import cpu_us
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.adapters.windows import WindowCache
from edge_agent.budget import Budget
from edge_agent.core.types import Window
from edge_agent.live import LiveModel
from edge_agent.reservoir import Source
from edge_agent.schemas import messages
from edge_agent.schemas.windows import examine, read
from edge_agent.settings import Serving
from edge_agent.vault import Vault

PART: Final = "breakdown"
DRAINED: Final = 2000
TURNS: Final = 5


def measure(plan: Plan, folder: Path) -> Iterator[Figure]:
    """Of each width: the stages in this process, then the CPU that the agent takes for all of it."""
    for width, release in plan.releases.items():
        at = f"width {width}"
        stages = _stages(plan.payloads, release, folder / f"store-{width}")
        whole_us = _whole_us(plan, release, folder / f"agent-{width}", max(200, DRAINED * 16 // width // 2))
        stages["mqtt"] = whole_us - sum(stages.values())
        for name, value in stages.items():
            say(f"{at}: {name} {value:.0f} us of {whole_us:.0f}")
            yield Figure(PART, name, at, "us_per_window", value)


def _stages(payloads: list[bytes], release: Path, folder: Path) -> dict[str, float]:
    """CPU microseconds per window of each stage."""
    settings = Serving()
    batch = settings.max_batch
    store = ReleaseStore(folder, Vault(folder))
    live = LiveModel(store, settings.threads, settings.max_abs, batch)
    loaded = live.load(store.get(store.add(release).digest))
    live.swap(loaded)
    some = payloads[:batch]
    windows = [read("machine", payload, live.spec, "raw", number) for number, payload in enumerate(some)]
    samples = np.stack([window.samples for window in windows])
    answers = [answer for answer in live.answer(samples) if answer is not None]
    pairs = list(zip(windows, answers, strict=True))
    model_us, more_us = _one_and_more(lambda: loaded.model.logits(samples), lambda: live.answer(samples), batch)
    return {
        "read": cpu_us(lambda: [read("machine", payload, live.spec, "raw", 0) for payload in some], batch),
        "examine": cpu_us(lambda: examine(np.stack([window.samples for window in windows]), live.spec), batch),
        "model": model_us,
        "answer": more_us,
        "cache": _cached_us(live, windows, folder),
        "json": cpu_us(lambda: [messages.dump(messages.diagnosis(*pair, "d" * 64, (), 1.0)) for pair in pairs], batch),
    }


def _one_and_more(one: Callable[[], object], with_more: Callable[[], object], windows: int) -> tuple[float, float]:
    """CPU microseconds of one piece of work, and how much more another takes that contains it: turn by turn."""
    pairs = [(cpu_us(one, windows), cpu_us(with_more, windows)) for _ in range(TURNS)]
    return statistics.median(first for first, _ in pairs), statistics.median(both - first for first, both in pairs)


def _cached_us(live: LiveModel, windows: list[Window], folder: Path) -> float:
    """Of offering a window of a class that has its share already, with what is written now and then."""
    budget = Budget(10**18, time.monotonic)
    cache = WindowCache(
        folder / "cache", Vault(folder), consumers.PER_CLASS, 1 << 30, 0, budget, np.random.default_rng(0)
    )
    cache.fit(live.card.classes, windows[0].samples.shape)
    number = count()

    def offer() -> None:
        for window in windows:
            cache.offer(live.card.classes[0], replace(window, seq=next(number)), Source.SENDER)

    for _ in range(100):
        offer()
    return cpu_us(offer, len(windows))


def _whole_us(plan: Plan, release: Path, folder: Path, count: int) -> float:
    with (
        load(folder / "broker", plan.payloads) as (port, offered),
        consumers.agent(folder / "agent", port, release) as one,
    ):
        offered.drain(one, count)
        return statistics.median(offered.drain(one, count).cpu_us for _ in range(plan.rounds))
