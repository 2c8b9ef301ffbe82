"""What passes between the broker's connection and the rest of the agent, and one such connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

MOST_OUTWARD: Final = 65_535  # on their way at once: as many windows as come in, at most, and no packet of ours is held


@dataclass(frozen=True)
class Message:
    """One MQTT message as it arrived, and the receipt with which it is acknowledged."""

    topic: str
    payload: bytes = field(repr=False)
    retained: bool
    received_s: float  # monotonic
    receipt: Receipt | None = None


@dataclass(frozen=True)
class Receipt:
    """Names one delivery on one connection; on another connection it acknowledges nothing."""

    client: Client
    message_id: int
    qos: int

    def acknowledge(self) -> None:
        """Tell the broker that the message is done with."""
        if self.qos:
            self.client.ack(self.message_id, self.qos)


@dataclass(frozen=True)
class Connected:
    """The broker accepted the connection; retained topics must be published again.

    Attributes:
        refused: subscriptions that its access list does not grant.
    """

    protocol: str
    session_present: bool
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Disconnected:
    """The connection ended or could not be made."""

    reason: str


@dataclass(frozen=True)
class PublishRefused:
    """The broker refused a publish, by its ACL or quota."""

    reason: str


@dataclass(frozen=True)
class Dropped:
    """A QoS 0 message found no room."""


Event = Connected | Disconnected | PublishRefused | Dropped


class Door(Protocol):
    """Where the paho thread hands over (the inbox)."""

    def put(self, message: Message, *, first: bool, timeout_s: float) -> bool:
        """Hand over a message; False if there was no room in time."""

    def tell(self, event: Event) -> None:
        """Hand over an event about the connection."""


@dataclass(frozen=True)
class _Sent:
    """A publish that the broker has not acknowledged yet."""

    topic: str
    receipt: Receipt | None


class Link:
    """Two connections that live and end together: windows and commands come in by one, what we publish goes out by one.

    A broker sends far more windows than we have room for (mosquitto 2.0.11 does not keep to Receive Maximum once it is
    acknowledged to). Reading them is then held back, by TCP, and acknowledgements of what we publish would wait behind
    them on the same connection.

    The PUBACK of a message may come before ``publish()`` has returned its id. Whoever comes second finds the other's
    entry, by ``setdefault``, which is atomic. A lock would deadlock: paho calls ``on_publish`` with the mutex held
    that ``publish()`` takes.
    """

    def __init__(self, inward: Client, outward: Client, refused: Callable[[str, str], None]) -> None:
        self.inward, self.outward, self._refused = inward, outward, refused
        self.waiting: dict[int, _Sent | ReasonCode] = {}  # by message id
        self.decided = threading.Event()  # the broker has accepted, refused or hung up
        self.outward_decided = threading.Event()  # the same, of the outward connection alone
        self.accepted = self.session_present = self.too_new = self.choked = False
        self.most_outward = MOST_OUTWARD  # on their way at once, as the broker says (MQTT 5, Receive Maximum)
        self.lost = threading.Event()
        self.tls_stamp: tuple[object, ...] = ()  # of the certificates that it was made with
        outward.on_publish = self._on_publish

    def send(self, topic: str, payload: bytes, qos: int, receipt: Receipt | None, *, retain: bool) -> bool:
        """Publish; acknowledge ``receipt`` once the broker has acknowledged that."""
        info = self.outward.publish(topic, payload, qos, retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        # At QoS 0 as well: paho calls ``on_publish`` when it has written, and ids come round again.
        sent = _Sent(topic, receipt)
        reason = self.waiting.setdefault(info.mid, sent)
        if isinstance(reason, ReasonCode):
            self._done(info.mid, sent, reason)
        return True

    def _on_publish(self, _: Client, __: Any, mid: int, reason: ReasonCode, ___: Any) -> None:
        sent = self.waiting.setdefault(mid, reason)
        if isinstance(sent, _Sent):
            self._done(mid, sent, reason)

    def _done(self, mid: int, sent: _Sent, reason: ReasonCode) -> None:
        del self.waiting[mid]
        if reason.is_failure:
            self._refused(sent.topic, str(reason))
        if sent.receipt is not None:  # also of a refused diagnosis: left open, its window would block the stream
            sent.receipt.acknowledge()

    def end(self) -> None:
        """It cannot be used any more."""
        self.lost.set()
        self.outward_decided.set()
        self.decided.set()

    def close(self, *, orderly: bool) -> None:
        """End paho's threads.

        Args:
            orderly: send DISCONNECT where it is still up. Else the broker publishes our will: one of the two was lost,
                and nobody knows whether we come back.
        """
        for client in (self.outward, self.inward):
            connection: Any = client.socket()
            if orderly or connection is None:
                client.disconnect()
            else:
                with suppress(OSError):
                    # Not TLS's own, which takes the encryption away under the hands of paho's thread.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            client.loop_stop()
