"""``edge-agent simulate``: windows of a data set or of the simulated rig, at a rate, to a broker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from paho.mqtt.client import MQTTMessageInfo

from edge_agent import rig
from edge_agent.commands.client import Heard, connected
from edge_agent.core.errors import Misconfigured, Unreachable
from edge_agent.core.types import Dataset, Float32, Window
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.topics import Topics
from edge_agent.schemas.windows import encode

MOST_QUEUED: Final = 256  # windows that the broker has not acknowledged
MOST_AWAITED: Final = 10_000  # windows that an answer is awaited for
SILENCE_S: Final = 5.0  # after the last window no more is expected


@dataclass(frozen=True)
class Source:
    """Windows without end, with their true classes and, where it is known, the speed of the shaft in rpm."""

    rate_hz: float
    unit: str
    windows: Iterator[tuple[str, Float32, float | None]]  # class, window, speed of the shaft


@dataclass
class Outcome:
    """What has come back so far."""

    sent: int = 0
    answered: int = 0
    right: int = 0


def rig_source(only: str | None, generator: np.random.Generator) -> Source:
    """Windows of fresh runs of the simulated rig, of one class or of all in turn."""
    _check_class(only, rig.CLASSES)
    takes = (take for take in rig.stream(generator) if only in (None, take.fault_class))
    return Source(rig.RATE_HZ, "m/s^2", takes)


def _check_class(name: str | None, classes: tuple[str, ...]) -> None:
    if name is not None and name not in classes:
        raise Misconfigured("E_DATA", f"class {name!r} is not in the data; it has {', '.join(classes)}")


def dataset_source(data: Dataset, only: str | None, generator: np.random.Generator) -> Source:
    """The test windows of a data set, of one class or of all, in random order, over and over."""
    _check_class(only, data.classes)

    def windows() -> Iterator[tuple[str, Float32, float | None]]:
        wanted = np.arange(len(data.test))
        if only is not None:
            wanted = wanted[data.test.labels == data.classes.index(only)]
        while True:
            for index in generator.permutation(wanted):
                yield data.classes[data.test.labels[index]], data.test.windows[index], None

    return Source(data.rate_hz, data.unit, windows())


def simulate(
    address: BrokerAddress,
    base: str,
    asset: str,
    source: Source,
    outcome: Outcome,
    *,
    rate: float,
    count: int | None,
    labels: bool,
    on_turn: Callable[[], None] = lambda: None,
) -> None:
    """Publish ``count`` windows (or for ever) at ``rate`` windows per second, and count in ``outcome`` what comes back.

    Raises:
        Unreachable: ``E_BROKER``, it cannot be reached, or has hung up.
    """
    topics = Topics(base)
    boot = f"sim-{time.time_ns():x}"
    truth: dict[int, str] = {}
    queued: deque[MQTTMessageInfo] = deque()
    with connected(address) as client:
        client.subscribe([topics.diagnosis(asset)])
        start_s = time.monotonic()
        for seq, (name, samples, rpm) in enumerate(source.windows):
            if count is not None and seq >= count:
                break
            while (wait_s := start_s + seq / rate - time.monotonic()) > 0:
                time.sleep(min(wait_s, 0.05))
            truth[seq] = name
            truth.pop(seq - MOST_AWAITED, None)  # nobody has answered it
            window = Window(asset, boot, seq, time.time_ns(), name if labels else None, samples, rpm=rpm)
            payload = encode(window, source.rate_hz, source.unit)
            queued.append(client.client.publish(topics.windows(asset), payload, qos=1))
            while len(queued) > MOST_QUEUED and not client.lost and not queued[0].is_published():
                time.sleep(0.001)  # paho itself would take any number of them
            if len(queued) > MOST_QUEUED:
                queued.popleft()
            if client.lost:
                raise Unreachable("E_BROKER", f"the broker hung up after {outcome.sent} windows")
            outcome.sent += 1
            _take(client.pending(), boot, truth, outcome)
            on_turn()
        heard_s, answered = time.monotonic(), outcome.answered
        while truth and time.monotonic() < heard_s + SILENCE_S:
            _take(client.listen(0.1), boot, truth, outcome)
            if outcome.answered > answered:
                heard_s, answered = time.monotonic(), outcome.answered


def _take(heard: Iterable[Heard], boot: str, truth: dict[int, str], outcome: Outcome) -> None:
    """Count the diagnoses of our own windows, each once."""
    for one in heard:
        content = one.content
        if isinstance(content, dict) and content.get("boot") == boot and content.get("seq") in truth:
            outcome.answered += 1
            outcome.right += truth.pop(content["seq"]) == content["class"]
