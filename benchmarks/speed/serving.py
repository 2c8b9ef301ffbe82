"""Serving against its limits: windows per second, CPU per window and memory at three widths, latency at one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.speed import consumers, node_red
from benchmarks.speed.consumers import Consumer, Starter
from benchmarks.speed.figures import Figure
from benchmarks.speed.load import Drained, Load, load
from benchmarks.speed.plan import Plan, say
from edge_agent.adapters.onnx_session import OnnxModel

PART: Final = "serving"
STARTERS: Final[Mapping[str, Starter]] = {
    "agent": consumers.agent,
    "bare_loop": consumers.bare_loop,
    "node_red": consumers.through_node_red,
}
RATE_HZ: Final = 100.0  # windows per second, for latency
LATENCY_WIDTH: Final = 32
WINDOWS: Final = {16: 2000, 32: 1200, 64: 400}  # of one drain: about a second and a half
BATCHES: Final = (1, 8, 32)
MODEL_S: Final = 0.5


def measure(plan: Plan, folder: Path) -> Iterator[Figure]:
    """Everything of this part."""
    with load(folder / "broker", plan.payloads) as (port, offered):
        yield from _broker_alone(plan, offered, port)
        for width, release in plan.releases.items():
            yield from _model_alone(plan, width, release)
            yield from _against_each_other(plan, offered, port, width, release, folder / f"width-{width}")


def _broker_alone(plan: Plan, offered: Load, port: int) -> Iterator[Figure]:
    with consumers.bare_broker(port) as consumer:
        rounds = [offered.drain(consumer, max(WINDOWS.values())).per_s for _ in range(plan.rounds)]
    yield Figure(PART, "bare_broker", "", "windows_per_s", statistics.median(rounds))


def _model_alone(plan: Plan, width: int, release: Path) -> Iterator[Figure]:
    """Limit (b): the best batch on one thread and on two."""
    content = (release / "model.onnx").read_bytes()
    windows = np.stack([np.frombuffer(one, "<f4").reshape(9, -1) for one in plan.payloads[: max(BATCHES)]])
    for threads in (1, 2):
        model = OnnxModel(content, threads)
        rate = max(_rate(model, windows[:batch]) for batch in BATCHES)
        say(f"width {width}: model alone, {threads} threads: {rate:.0f} windows/s")
        yield Figure(PART, "bare_model", f"width {width}", f"windows_per_s_{threads}_threads", rate)


def _rate(model: OnnxModel, windows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    model.logits(windows)
    started_s, count = time.monotonic(), 0
    while time.monotonic() < started_s + MODEL_S:
        model.logits(windows)
        count += len(windows)
    return count / (time.monotonic() - started_s)


def _against_each_other(
    plan: Plan, offered: Load, port: int, width: int, release: Path, folder: Path
) -> Iterator[Figure]:
    """The same windows for each in turn, round by round, so that whatever else the machine does meets all of them."""
    at, count = f"width {width}", WINDOWS[width]
    with ExitStack() as running:
        all_of_them = [
            running.enter_context(start(folder / name, port, release))
            for name, start in STARTERS.items()
            if name != "node_red" or node_red.why_not() is None
        ]
        for consumer in all_of_them:
            offered.drain(consumer, count)  # the first round also fills caches and warms allocators
        rounds = [[offered.drain(consumer, count) for consumer in all_of_them] for _ in range(plan.rounds)]
        for consumer, drained in zip(all_of_them, zip(*rounds, strict=True), strict=True):
            typical, rss_mib = Drained.median(drained), consumer.rss_mib()
            words = f"{typical.per_s:.0f} windows/s, {typical.cpu_us:.0f} us CPU per window, {rss_mib:.0f} MiB"
            say(f"{at}: {consumer.name} {words}")
            yield from typical.figures(PART, consumer.name, at)
            yield Figure(PART, consumer.name, at, "rss_mib", rss_mib)
        if width in (LATENCY_WIDTH, plan.only_width):
            for consumer in all_of_them:
                yield from _latency(plan, offered, consumer, at)


def _latency(plan: Plan, offered: Load, consumer: Consumer, at: str) -> Iterator[Figure]:
    count, used_s = round(plan.latency_s * RATE_HZ), consumer.cpu_s()
    late_ms = offered.latencies_ms(consumer, RATE_HZ, count)
    values = {f"p{share}_ms": float(np.percentile(late_ms, share)) for share in (50, 99)}
    values["paced_cpu_us_per_window"] = 1e6 * (consumer.cpu_s() - used_s) / count
    words = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
    say(f"{at}: {consumer.name} at {RATE_HZ:g}/s: {words}")
    for quantity, value in values.items():
        yield Figure(PART, consumer.name, at, quantity, value)
