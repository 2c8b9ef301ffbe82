"""Counting, refusing and showing: nothing that is refused or fails goes by unseen."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from edge_agent.adapters.mqtt import Broker
from edge_agent.core.errors import EdgeAgentError, StorageFailed
from edge_agent.mqtt_link import Message
from edge_agent.schemas.messages import COUNTERS, dump

log = structlog.get_logger(__name__)

SHOWN_PER_S: Final = 10
FAILURES_PER_LINE: Final = 600
COUNTED_FROM_0: Final = tuple(name for name in COUNTERS if name != "bytes_written" and "<" not in name)
_PROCESS: Final = Counter(storage_failures=0)  # of the whole process, whichever part it was


class Tally:
    """The counters of the agent, and the lines that refused messages get.

    Args:
        topic: where the lines go.
    """

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker, self._topic = broker, topic
        # There from the start: an alert goes by an increase, which the first value of a series is none of.
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTED_FROM_0, 0))
        self._shown = 0

    def refuse(self, message: Message, error: EdgeAgentError) -> None:
        """Acknowledge, count, show: a message never acknowledged would stall the stream."""
        self.show(message, error)
        acknowledge(message)

    def show(self, message: Message, error: EdgeAgentError) -> None:
        """Count what is wrong with a message, and publish a line about it, never its payload."""
        self.counters[f"refused_{error.code}"] += 1
        if self._shown < SHOWN_PER_S:
            self._shown += 1
            line = {
                "topic": message.topic[:200],
                "code": error.code,
                "reason": error.reason,
                "bytes": len(message.payload),
                "digest": hashlib.sha256(message.payload).hexdigest()[:16],
            }
            self._broker.publish(self._topic, dump(line), qos=0)
            log.warning("message.refused", **line)

    def failed(self, counter: str, event: str, code: str, reason: str) -> None:
        """Count a failure that stops nothing; one log line for the first and then for every 600th says enough."""
        if self.counters[counter] % FAILURES_PER_LINE == 0:
            log.error(event, code=code, reason=reason, count=self.counters[counter] + 1)
        self.counters[counter] += 1

    def next_second(self) -> None:
        """Lines may be shown again."""
        self._shown = 0


@contextmanager
def tolerant() -> Iterator[None]:
    """A disk that cannot be written must not keep the agent from serving."""
    try:
        yield
    except StorageFailed as error:
        storage_failed(error)


def storage_failed(error: StorageFailed, **more: float) -> None:
    """Count and log a write that failed and is tried again."""
    _PROCESS["storage_failures"] += 1
    log.error("storage.failed", code=error.code, reason=error.reason, **more)


def storage_failures() -> int:
    """How many there were."""
    return _PROCESS["storage_failures"]


def acknowledge(message: Message) -> None:
    """Tell the broker that a message is done with."""
    if message.receipt is not None:
        message.receipt.acknowledge()
