"""``edge-agent simulate``: windows of a data set or of the simulated rig, at a rate, to a broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edge_agent import rig
from edge_agent.commands.client import Heard, connected
from edge_agent.core.errors import Misconfigured
from edge_agent.core.types import Dataset, Float32, Window
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.topics import Topics
from edge_agent.schemas.windows import encode


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
    *,
    rate: float,
    count: int | None,
    labels: bool,
    on_turn: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Publish ``count`` windows (or for ever) at ``rate`` windows per second, and count what comes back."""
    topics, outcome = Topics(base), Outcome()
    boot = f"sim-{time.time_ns():x}"
    truth: dict[int, str] = {}
    with connected(address) as client:
        client.subscribe([topics.diagnosis(asset)])
        start_s = time.monotonic()
        for seq, (name, samples, rpm) in enumerate(source.windows):
            if count is not None and seq >= count:
                break
            while (wait_s := start_s + seq / rate - time.monotonic()) > 0:
                time.sleep(min(wait_s, 0.05))
            truth[seq] = name
            window = Window(asset, boot, seq, time.time_ns(), name if labels else None, samples, rpm=rpm)
            client.client.publish(topics.windows(asset), encode(window, source.rate_hz, source.unit), qos=1)
            outcome.sent += 1
            _take(client.pending(), boot, truth, outcome)
            on_turn(outcome)
        deadline_s = time.monotonic() + 5.0
        while truth and time.monotonic() < deadline_s:
            _take(client.listen(0.1), boot, truth, outcome)
    return outcome


def _take(heard: Iterable[Heard], boot: str, truth: dict[int, str], outcome: Outcome) -> None:
    """Count the diagnoses of our own windows, each once."""
    for one in heard:
        content = one.content
        if isinstance(content, dict) and content.get("boot") == boot and content.get("seq") in truth:
            outcome.answered += 1
            outcome.right += truth.pop(content["seq"]) == content["class"]
