"""A small MQTT client for the command-line tools: publish, listen, wait."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.core.errors import Misconfigured, Unreachable
from edge_agent.mqtt_client import BrokerAddress, connect, make_client

CONNECT_S = 10.0
LONGEST_EXPIRY_S = 0xFFFFFFFF


@dataclass(frozen=True)
class Heard:
    """A message with a JSON payload; ``content`` is None where it is something else."""

    topic: str
    content: Any
    retained: bool
    payload: bytes = field(repr=False)


class ToolClient:
    """A connected client; what it subscribed to arrives in ``heard``."""

    def __init__(self, client: Client, protocol: str) -> None:
        self.client, self._protocol = client, protocol
        self.heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self.lost = False  # whether the broker has hung up since
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect

    def subscribe(self, topics: Sequence[str], qos: int = 1) -> None:
        """Listen to topics and wait until the broker has confirmed it.

        Raises:
            Unreachable: ``E_BROKER``, it did not, or refuses one of them.
        """
        confirmed: queue.SimpleQueue[list[ReasonCode]] = queue.SimpleQueue()
        self.client.on_subscribe = lambda _, __, ___, reasons, ____: confirmed.put(reasons)
        options: Any = SubscribeOptions(qos=qos) if self._protocol == "5" else qos
        self.client.subscribe([(topic, options) for topic in topics])
        try:
            reasons = confirmed.get(timeout=CONNECT_S)
        except queue.Empty as error:
            raise Unreachable("E_BROKER", "the broker does not confirm a subscription") from error
        for topic, reason in zip(topics, reasons, strict=False):
            if reason.is_failure:
                raise Unreachable("E_BROKER", f"the broker refuses the subscription to {topic}: {reason}")

    def publish(self, topic: str, payload: bytes, expires_s: float | None = None) -> None:
        """Publish at QoS 1 and wait for the acknowledgement.

        Args:
            expires_s: how long the broker may keep it for somebody who is away (MQTT 5).

        Raises:
            Unreachable: ``E_BROKER``, none came, or the broker's access list forbids it.
        """
        acknowledged: queue.SimpleQueue[tuple[int, ReasonCode]] = queue.SimpleQueue()
        self.client.on_publish = lambda _, __, mid, reason, ___: acknowledged.put((mid, reason))
        properties = None
        if expires_s is not None and self._protocol == "5":
            properties = Properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = max(1, min(int(expires_s), LONGEST_EXPIRY_S))
        sent = self.client.publish(topic, payload, qos=1, properties=properties)
        deadline_s = time.monotonic() + CONNECT_S
        try:
            while (answer := acknowledged.get(timeout=max(0.0, deadline_s - time.monotonic())))[0] != sent.mid:
                pass
        except queue.Empty as error:
            raise Unreachable("E_BROKER", f"the broker does not acknowledge what was published on {topic}") from error
        if answer[1].is_failure:
            raise Unreachable("E_BROKER", f"the broker refuses what was published on {topic}: {answer[1]}")

    def pending(self) -> Iterator[Heard]:
        """What has arrived already."""
        while not self.heard.empty():
            yield self.heard.get()

    def listen(self, timeout_s: float) -> Iterator[Heard]:
        """What arrives within ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                yield self.heard.get(timeout=left_s)
            except queue.Empty:
                return

    def _on_disconnect(self, *_: Any) -> None:
        self.lost = True

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        try:
            content = json.loads(message.payload.decode())  # given bytes, json takes UTF-16 as well
        except (ValueError, RecursionError):  # the latter for brackets without end
            content = None
        self.heard.put(Heard(message.topic, content, message.retain, bytes(message.payload)))
        if message.qos:
            self.client.ack(message.mid, message.qos)


@contextmanager
def connected(address: BrokerAddress) -> Iterator[ToolClient]:
    """Connect with MQTT 5, or 3.1.1 where the broker speaks only that.

    Raises:
        Unreachable: ``E_BROKER`` with what the broker, or the network, said.
        Misconfigured: ``E_CONFIG``, a certificate cannot be used.
    """
    problem = ""
    address = replace(address, session_expiry_s=0)  # a tool leaves nothing behind at the broker
    for protocol in ("5", "3.1.1") if address.protocol == "auto" else (address.protocol,):
        try:
            client = make_client(address, protocol)
        except OSError as error:
            raise Misconfigured("E_CONFIG", str(error)) from error
        answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        client.on_connect = lambda _, __, ___, reason, ____, answers=answers: answers.put(
            str(reason) if reason.is_failure else ""
        )
        client.on_disconnect = lambda *_, answers=answers: answers.put("the broker hung up")
        try:
            connect(client, address, protocol)
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            raise Unreachable("E_BROKER", f"{address.host}:{address.port}: {error}") from error
        client.loop_start()
        try:
            problem = answers.get(timeout=CONNECT_S)
        except queue.Empty:
            problem = f"no CONNACK within {CONNECT_S:g} s"
        if not problem:
            try:
                yield ToolClient(client, protocol)
            finally:
                client.disconnect()
                client.loop_stop()
            return
        client.disconnect()
        client.loop_stop()
    raise Unreachable("E_BROKER", f"{address.host}:{address.port}: {problem}")
