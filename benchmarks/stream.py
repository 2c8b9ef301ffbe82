"""Windows to a broker at a steady rate, and every message that comes back, with its time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.client import Client, MQTTMessage

from benchmarks.machine import undisturbed
from edge_agent.commands.client import connected
from edge_agent.core.types import Float32, Window
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.topics import Topics
from edge_agent.schemas.windows import encode


@dataclass(frozen=True)
class Sent:
    """One published window."""

    index: int  # of the window in its split
    sent_s: float
    part: str


@dataclass(frozen=True)
class Answer:
    """One diagnosis as it came."""

    seq: int
    name: str
    masked: tuple[str, ...]
    release: str
    heard_s: float
    order: int  # among all messages heard


@dataclass
class Record:
    """All that was sent and heard."""

    sent: dict[int, Sent] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    statuses: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)  # time, order, content
    refused: list[dict[str, Any]] = field(default_factory=list)

    def of(self, part: str) -> list[tuple[Sent, Answer]]:
        """The first answer to each window of one part."""
        first: dict[int, Answer] = {}
        for answer in self.answers:
            first.setdefault(answer.seq, answer)
        pairs = ((sent, first.get(seq)) for seq, sent in self.sent.items() if sent.part == part)
        return [(sent, answer) for sent, answer in pairs if answer is not None]

    def lost(self) -> int:
        """Windows without any answer."""
        return len(self.sent.keys() - {answer.seq for answer in self.answers})

    def repeated(self) -> int:
        """Answers beyond the first to a window."""
        return len(self.answers) - len({answer.seq for answer in self.answers})


class Stream:
    """Publishes windows of one asset, and records what the agent publishes."""

    def __init__(self, client: Client, topics: Topics, rate_hz: float, unit: str) -> None:
        self._client, self._topics, self._rate_hz, self._unit = client, topics, rate_hz, unit
        self.record = Record()
        self._order = 0
        self._changed = threading.Condition()

    def send(self, index: int, samples: Float32, part: str, label: str | None = None) -> None:
        """Publish one window at QoS 1."""
        seq = len(self.record.sent)
        payload = encode(Window("machine", "bench", seq, 0, label, samples), self._rate_hz, self._unit)
        self.record.sent[seq] = Sent(index, time.monotonic(), part)
        self._client.publish(self._topics.windows("machine"), payload, qos=1)

    def stock(self, name: str, windows: Iterable[Float32]) -> None:
        """Publish windows of one class with their label, for the cache; returns once they are answered."""
        for number, samples in enumerate(windows):
            self.send(number, samples, "stock", name)
            if number % 512 == 511:
                self.settle(60)
        self.settle(60)

    def command(self, topic: str, payload: bytes) -> float:
        """Publish a command; returns when."""
        self._client.publish(topic, payload, qos=1)
        return time.monotonic()

    def settle(self, timeout_s: float) -> None:
        """Wait until every window has been answered."""
        with self._changed:
            self._changed.wait_for(lambda: self.record.lost() == 0, timeout_s)

    def on_message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        """Record one message of the agent."""
        now_s, topic = time.monotonic(), message.topic
        client.ack(message.mid, message.qos)
        content = json.loads(message.payload)
        with self._changed:
            self._order += 1
            if topic.endswith("/diagnosis/machine"):
                row = content["seq"], content["class"], tuple(content["masked"]), content["release"]
                self.record.answers.append(Answer(*row, now_s, self._order))
            elif topic.endswith("/refused"):
                self.record.refused.append(content)
            else:
                self.record.statuses.append((now_s, self._order, content))
            self._changed.notify_all()


@contextmanager
def stream(port: int, base: str, rate_hz: float, unit: str) -> Iterator[Stream]:
    """A connected stream."""
    topics = Topics(base)
    with undisturbed(), connected(BrokerAddress("127.0.0.1", port, f"bench-{time.monotonic_ns()}")) as tool:
        made = Stream(tool.client, topics, rate_hz, unit)
        tool.client.on_message = made.on_message
        tool.subscribe([topics.diagnosis("machine"), topics.refused, f"{base}/unlearn/+/status"])
        yield made


def paced(count: int, per_s: float) -> Iterator[int]:
    """0 .. count - 1, each when it is due; a late one comes at once."""
    start_s = time.monotonic()
    for number in range(count):
        while (wait_s := start_s + number / per_s - time.monotonic()) > 0:
            time.sleep(wait_s)
        yield number
