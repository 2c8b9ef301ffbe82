"""Windows for a consumer: as many as it takes, or at a steady rate; and when its answers came."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from paho.mqtt.client import Client, MQTTMessage

from benchmarks.machine import undisturbed
from benchmarks.speed.consumers import Consumer
from benchmarks.speed.figures import Figure
from benchmarks.stream import paced
from edge_agent import rig
from edge_agent.commands.client import ToolClient, connected
from edge_agent.commands.local import LocalBroker, free_port, wait_until
from edge_agent.mqtt_client import BrokerAddress

DIFFERENT: Final = 256  # windows, sent in turn
ANSWERED_S: Final = 120.0
OWN: Final = "load-"  # begins the names of its assets: answers to what others send are none of its business
ASSETS: Final = (f"{OWN}0",)


def rig_windows() -> list[bytes]:
    """Raw windows of the simulated rig, 9 x 1024 little-endian float32."""
    takes = islice(rig.stream(np.random.default_rng(0)), DIFFERENT)
    return [np.ascontiguousarray(take.samples, "<f4").tobytes() for take in takes]


@dataclass(frozen=True)
class Drained:
    """How fast a queue of windows was answered."""

    per_s: float
    cpu_us: float  # of the consumer, per window

    @staticmethod
    def median(rounds: Sequence[Drained]) -> Drained:
        """Of each number by itself."""
        return Drained(*(statistics.median(getattr(one, name) for one in rounds) for name in ("per_s", "cpu_us")))

    def figures(self, part: str, subject: str, at: str) -> Iterator[Figure]:
        """Both numbers, as they are kept."""
        yield Figure(part, subject, at, "windows_per_s", self.per_s)
        yield Figure(part, subject, at, "cpu_us_per_window", self.cpu_us)


class Load:
    """Sends windows, and hears the answers of all consumers."""

    def __init__(self, ear: ToolClient, mouth: ToolClient, payloads: Sequence[bytes]) -> None:
        self._mouth, self.payloads = mouth.client, payloads
        self._heard_s: defaultdict[str, list[float]] = defaultdict(list)  # by the base of the topics
        self._acknowledged = 0
        ear.client.on_message = self._on_message
        mouth.client.on_publish = self._on_publish
        ear.subscribe(["edge/+/diagnosis/+"], qos=0)

    def drain(self, consumer: Consumer, count: int, assets: Sequence[str] = ASSETS) -> Drained:
        """Queue windows while the consumer is stopped, let it go on, and see how long it takes."""
        awaited = len(self._heard_s[consumer.base]) + count // consumer.per_answer
        target = self._acknowledged + count
        os.kill(consumer.pid, signal.SIGSTOP)
        try:
            for number in range(count):
                self._send(consumer, number, assets)
            wait_until(lambda: self._acknowledged >= target, "the broker has them", ANSWERED_S)
            used_s, started_s = consumer.cpu_s(), time.monotonic()
        finally:
            os.kill(consumer.pid, signal.SIGCONT)
        per_s = count / (self._answered(consumer, awaited)[-1] - started_s)
        return Drained(per_s, 1e6 * (consumer.cpu_s() - used_s) / count)

    def drains(self, consumer: Consumer, count: int, rounds: int, assets: Sequence[str] = ASSETS) -> Drained:
        """The median of some rounds, after one that fills caches and warms allocators."""
        self.drain(consumer, count, assets)
        return Drained.median([self.drain(consumer, count, assets) for _ in range(rounds)])

    def latencies_ms(
        self,
        consumer: Consumer,
        per_s: float,
        count: int,
        assets: Sequence[str] = ASSETS,
        until: Callable[[], bool] = lambda: False,
    ) -> list[float]:
        """From publish to diagnosis, at a steady rate; answers come in the order of the windows."""
        first, sent_s = len(self._heard_s[consumer.base]), []
        for number in paced(count, per_s):
            if until():
                break
            sent_s.append(time.monotonic())
            self._send(consumer, number, assets)
        heard_s = self._answered(consumer, first + len(sent_s))[first:]
        return [1000 * (heard - sent) for sent, heard in zip(sent_s, heard_s, strict=True)]

    def _send(self, consumer: Consumer, number: int, assets: Sequence[str]) -> None:
        topic = f"{consumer.base}/windows/{assets[number % len(assets)]}"
        self._mouth.publish(topic, self.payloads[number % len(self.payloads)], qos=1)

    def _answered(self, consumer: Consumer, count: int) -> list[float]:
        """When it answered, once there are so many answers; polled, for a wake-up with each would cost much CPU."""
        heard_s = self._heard_s[consumer.base]
        wait_until(lambda: len(heard_s) >= count, f"{consumer.name} has answered", ANSWERED_S)
        return heard_s[:count]

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        base, asset = message.topic.split("/diagnosis/")
        if asset.startswith(OWN):
            self._heard_s[base].append(time.monotonic())

    def _on_publish(self, *_: Any) -> None:
        self._acknowledged += 1


@contextmanager
def load(folder: Path, payloads: Sequence[bytes]) -> Iterator[tuple[int, Load]]:
    """A broker, its port, and a load that is connected to it."""
    broker = LocalBroker(folder, free_port())
    ear, mouth = (BrokerAddress("127.0.0.1", broker.port, name, in_flight=1000) for name in ("ear", "mouth"))
    try:
        with undisturbed(), connected(ear) as hearing, connected(mouth) as speaking:
            yield broker.port, Load(hearing, speaking, payloads)
    finally:
        broker.stop()
