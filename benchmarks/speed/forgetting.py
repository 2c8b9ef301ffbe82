"""One forget command from its message to its certificate: how long, phase by phase, and serving meanwhile."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.machine import ROOT
from benchmarks.speed import consumers
from benchmarks.speed.consumers import Consumer
from benchmarks.speed.figures import Figure
from benchmarks.speed.load import Load, load
from benchmarks.speed.plan import Plan, say
from benchmarks.speed.retraining import CACHED, FORGET, stock
from benchmarks.stream import Stream, stream
from edge_agent import rig
from edge_agent.commands.local import wait_until
from edge_agent.schemas.messages import TERMINAL

PART: Final = "forgetting"
CURVE: Final = (256, 8192)  # cached windows, at the smallest width, beside CACHED
NEXT: Final = "OF-2"
LIMIT_S: Final = 1800.0
RATE_HZ: Final = 100.0
USUAL_TIMES: Final = 2  # as long as other latencies are listened to: of few windows the 99th percentile is chance


@dataclass(frozen=True)
class Forgot:
    """One command, from its message to its last status."""

    seconds: float
    metrics: dict[str, Any]


def measure(plan: Plan, folder: Path) -> Iterator[Figure]:
    """Every width, the curve over cached windows, and what it is measured against."""
    for width, release in plan.releases.items():
        yield from _at_width(plan, width, release, folder / f"width-{width}")
    if not plan.quick:
        release = plan.releases[min(plan.releases)]
        for count in CURVE:
            yield from _with_cached(count, release, folder / f"cached-{count}")
    yield Figure(PART, "idle_torch", "", "rss_mib", _idle_torch_mib())


def fill(link: Stream, name: str, count: int) -> None:
    """Let the agent cache so many windows of a class."""
    link.stock(name, stock(name, count))


def _ended(link: Stream, name: str) -> dict[str, Any] | None:
    """The last status of a command; None while it runs."""
    return next((told for _, _, told in link.record.statuses if _is_end(told, name)), None)


def _is_end(told: dict[str, Any], name: str) -> bool:
    return told["classes"] == [name] and told["status"] in TERMINAL


def successful(link: Stream, name: str, asked_s: float) -> Forgot:
    """What the command came to.

    Raises:
        RuntimeError: it did not succeed.
    """
    wait_until(lambda: _ended(link, name), f"{name} is forgotten", LIMIT_S)
    heard_s, told = next((at_s, told) for at_s, _, told in link.record.statuses if _is_end(told, name))
    if told["status"] != "successful":
        raise RuntimeError(f"forgetting {name}: {told['status']}, {told['code']}: {told['reason']}")
    return Forgot(heard_s - asked_s, told["metrics"])


def _at_width(plan: Plan, width: int, release: Path, folder: Path) -> Iterator[Figure]:
    """Forget a class while windows come steadily, and at the smallest width another while they queue up."""
    at = f"width {width}"
    with (
        load(folder / "broker", plan.payloads) as (port, offered),
        consumers.running_agent(folder / "agent", port, release) as local,
        stream(port, "edge/agent", rig.RATE_HZ, "m/s^2") as link,
    ):
        agent = Consumer("agent", "edge/agent", local.process.pid)
        fill(link, FORGET, CACHED)
        usual_ms = offered.latencies_ms(agent, RATE_HZ, round(USUAL_TIMES * plan.latency_s * RATE_HZ))
        asked_s = link.command(f"edge/agent/unlearn/{FORGET}", b"")
        count = round(LIMIT_S * RATE_HZ)
        late_ms = offered.latencies_ms(agent, RATE_HZ, count, until=lambda: _ended(link, FORGET) is not None)
        done = successful(link, FORGET, asked_s)
        yield from _told(at, done, usual_ms, late_ms)
        yield from _phases(at, link, asked_s)
        if width == min(plan.releases):
            yield from _of_curve(CACHED, done)
            yield from _throughput(plan, offered, agent, link, at)


def _phases(at: str, link: Stream, asked_s: float) -> Iterator[Figure]:
    """Seconds until each phase was first told of; the last is ``done``."""
    first: dict[str, float] = {}
    for heard_s, _, told in link.record.statuses:
        first.setdefault(told["phase"], heard_s - asked_s)
    for phase, seconds in first.items():
        yield Figure(PART, "agent", at, f"{phase}_after_s", seconds)


def _told(at: str, done: Forgot, usual_ms: list[float], late_ms: list[float]) -> Iterator[Figure]:
    usual, late = (float(np.percentile(values, 99)) for values in (usual_ms, late_ms))
    child_s, peak_mib = done.metrics["child_s"], done.metrics["child_peak_mib"]
    say(f"{at}: forgotten in {done.seconds:.1f} s, child {peak_mib:.0f} MiB; p99 {usual:.1f} ms, then {late:.1f} ms")
    for quantity, value in (
        ("seconds", done.seconds),
        ("child_s", child_s),
        ("edit_s", done.metrics["edit_s"]),
        ("steps", done.metrics["steps"]),
        ("child_peak_mib", peak_mib),
        ("p99_ms_before", usual),
        ("p99_ms_meanwhile", late),
        ("longest_ms_before", max(usual_ms)),
        ("longest_ms_meanwhile", max(late_ms)),
    ):
        yield Figure(PART, "agent", at, quantity, float(value))


def _throughput(plan: Plan, offered: Load, agent: Consumer, link: Stream, at: str) -> Iterator[Figure]:
    """Windows per second alone, and while the next class is being forgotten, whose end nobody waits for."""
    fill(link, NEXT, CACHED)
    alone = statistics.median(offered.drain(agent, 2000).per_s for _ in range(plan.rounds))
    meanwhile: list[float] = []
    link.command(f"edge/agent/unlearn/{NEXT}", b"")
    wait_until(lambda: any(told["phase"] == "editing" for _, _, told in link.record.statuses[-1:]), "it edits", 120)
    while _ended(link, NEXT) is None and len(meanwhile) < plan.rounds:
        meanwhile.append(offered.drain(agent, 2000).per_s)
    say(f"{at}: {alone:.0f} windows/s alone, {statistics.median(meanwhile):.0f} while it forgets")
    yield Figure(PART, "agent", at, "windows_per_s_alone", alone)
    yield Figure(PART, "agent", at, "windows_per_s_meanwhile", statistics.median(meanwhile))


def _with_cached(count: int, release: Path, folder: Path) -> Iterator[Figure]:
    """A cache that holds so many windows of the class."""
    settings = f"[cache]\nwindows_per_class = {count}\n"
    with (
        load(folder / "broker", ()) as (port, _),
        consumers.running_agent(folder / "agent", port, release, settings),
        stream(port, "edge/agent", rig.RATE_HZ, "m/s^2") as link,
    ):
        fill(link, FORGET, count)
        done = successful(link, FORGET, link.command(f"edge/agent/unlearn/{FORGET}", b""))
    yield from _of_curve(count, done)


def _of_curve(count: int, done: Forgot) -> Iterator[Figure]:
    used = done.metrics["windows"]
    say(f"{count} cached windows, {used} used: forgotten in {done.seconds:.1f} s")
    yield Figure(PART, "agent", f"{count} cached", "seconds", done.seconds)
    yield Figure(PART, "agent", f"{count} cached", "windows_used", float(used))


def _idle_torch_mib() -> float:
    """Most resident memory of a process that has imported torch and does nothing else."""
    # Not ru_maxrss, which begins with what its parent had at the fork.
    code = "import torch; print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return int(run.stdout) / 1024
