"""The connection to the broker. The paho thread hands messages over and does nothing else.

Rules, each from something paho or a broker does:

- One paho client per connection. paho would re-send every unacknowledged publish at once after a reconnect, and a late
  acknowledgement could hit a re-used message id. A new client forgets both; the broker redelivers every window that
  was not acknowledged, and the agent publishes its retained topics again.
- A window is acknowledged when the broker has acknowledged its diagnosis. ``Receive Maximum`` bounds what is in flight.
- After a loss the first attempt comes at a random moment of the next seconds, and then one every so many seconds: so
  a plant's gateways come back evenly, however long their broker was away. Waits that begin short and grow bunch them.
- An exception in a callback would end paho's thread: what a message can cause is caught. With a thread ends the agent.
- A client certificate, or a CA, that was renewed is taken up by connecting again.
- MQTT 5 first; a broker that refuses it, hangs up on it or does not answer is tried with 3.1.1 next.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.mqtt_client import BrokerAddress, connect, make_client, tls, tls_stamp
from edge_agent.mqtt_link import (
    MOST_OUTWARD,
    Connected,
    Disconnected,
    Door,
    Dropped,
    Link,
    Message,
    PublishRefused,
    Receipt,
)

log = structlog.get_logger(__name__)

HAND_OVER_S: Final = 2.0  # how long a message waits for room in the inbox
SPREAD_S, LONGEST_WAIT_S = 5.0, 30.0  # between attempts: at first, and when there were many
MANY: Final = 12
OTHER_VERSION_S: Final = 0.5
CONNACK_S: Final = 5.0
SHORT_LIFE_S: Final = 5.0  # a connection that ends sooner does not reset the back-off
REFUSED_S, MOST_REFUSED = 60.0, 4096
BROKER: Final = "broker"  # name of the thread
OUTWARD: Final = "-out"  # behind the client id, of the connection that the agent publishes by
TOO_MANY: Final = "Receive maximum exceeded"  # why a broker hangs up that holds us to its own


class Broker:
    """Keeps a connection up, in a thread of its own, until ``stop``.

    Args:
        first: says of a topic whether its messages go before windows.
        will: topic and payload, which the broker publishes, retained, when the agent vanishes.
        chance: spreads the attempts to connect.
        kept: those of the subscriptions whose retained message is wanted.
        stale: subscriptions of earlier starts, which a session at the broker may still hold.
    """

    def __init__(
        self,
        address: BrokerAddress,
        subscriptions: Sequence[str],
        door: Door,
        first: Callable[[str], bool],
        will: tuple[str, bytes],
        chance: random.Random,
        kept: Collection[str] = (),
        stale: Sequence[str] = (),
    ) -> None:
        self._address, self._subscriptions, self._door = address, subscriptions, door
        self._first, self._will, self._chance, self._kept, self._stale = first, will, chance, kept, stale
        self._link: Link | None = None  # the one that the broker has accepted
        self._refused_until_s: dict[str, float] = {}  # topics that the broker's ACL forbids
        self._most_outward = MOST_OUTWARD
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_connected, name=BROKER, daemon=True)

    @property
    def keeps_windows(self) -> bool:
        """Whether the broker sends again, on the next connection, what was not acknowledged on this one."""
        return self._address.session_expiry_s > 0

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Wait for the broker to acknowledge what was published, then disconnect."""
        deadline_s, link = time.monotonic() + timeout_s, self._link
        while link is not None and link.waiting and not link.lost.is_set() and time.monotonic() < deadline_s:
            time.sleep(0.005)
        self._stopping.set()
        if link is not None:
            link.lost.set()
        self._thread.join(timeout_s)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Publish if connected. What matters is published again on the next connection, so nothing is queued here."""
        link = self._link
        return link is not None and link.send(topic, payload, qos, None, retain=retain)

    def answer(self, receipt: Receipt | None, topic: str, payload: bytes) -> bool:
        """Publish at QoS 1, and acknowledge ``receipt`` once the broker has acknowledged that."""
        link = self._link
        if link is None:
            return False
        if self._refused_until_s.get(topic, 0.0) > time.monotonic():
            self._door.tell(PublishRefused(f"{topic}: refused before"))
            if receipt is not None:
                receipt.acknowledge()
            return True
        return link.send(topic, payload, 1, receipt, retain=False)

    def reconnect(self) -> None:
        """Connect anew: the broker sends again what was not acknowledged."""
        link = self._link
        if link is not None:
            link.inward.disconnect()

    def _remember_refused(self, topic: str, reason: str) -> None:
        """Some brokers cut the connection after a publish that their ACL forbids, so it is not repeated for a while."""
        if len(self._refused_until_s) >= MOST_REFUSED:
            self._refused_until_s.clear()
        self._refused_until_s[topic] = time.monotonic() + REFUSED_S
        self._door.tell(PublishRefused(f"{topic}: {reason}"))

    def _keep_connected(self) -> None:
        attempts, before = 0, ""
        protocol = "5" if self._address.protocol == "auto" else self._address.protocol
        while not self._stopping.is_set():
            before, link = protocol, self._connect(protocol)
            if link is not None:
                started_s = time.monotonic()
                self._stay(link)
                if link.accepted and time.monotonic() > started_s + SHORT_LIFE_S:
                    attempts = 0
                protocol = self._next_protocol(protocol, link)
            # The other version is for the same broker, which is there.
            older = before == "5" and protocol == "3.1.1"
            self._stopping.wait(OTHER_VERSION_S if older else self._pause_s(attempts))
            attempts += 1

    def _pause_s(self, attempts: int) -> float:
        """How long to wait before the next attempt, after so many in vain."""
        if attempts == 0:
            return self._chance.uniform(0.0, SPREAD_S)
        return (SPREAD_S if attempts < MANY else LONGEST_WAIT_S) * self._chance.uniform(0.9, 1.1)

    def _next_protocol(self, protocol: str, link: Link) -> str:
        if link.choked:  # the message would come again and again; without MQTT 5's properties it can be read
            log.warning("message.garbled", protocol=protocol, remedy="reconnecting with MQTT 3.1.1")
            return "3.1.1"
        if self._address.protocol != "auto":
            return self._address.protocol
        # Back to 5 after each 3.1.1: it may be another broker by now.
        return "3.1.1" if protocol == "5" and link.too_new else "5"

    def _connect(self, protocol: str) -> Link | None:
        """Open both connections, the outward one first, or tell why they cannot be opened."""
        inward_at = self._address
        outward_at = replace(inward_at, client_id=f"{inward_at.client_id}{OUTWARD}", session_expiry_s=0)
        link, stamp = None, tls_stamp(inward_at)
        try:
            link = Link(make_client(inward_at, protocol), make_client(outward_at, protocol), self._remember_refused)
            link.tls_stamp = stamp
            link.outward.will_set(self._will[0], self._will[1], qos=1, retain=True)
            link.outward.max_inflight_messages_set(self._most_outward)
            self._listen(link, protocol)
            connect(link.outward, outward_at, protocol)
            link.outward.loop_start()
            if self._in_time(link, link.outward_decided) and not link.lost.is_set():
                connect(link.inward, inward_at, protocol)
                link.inward.loop_start()
                self._in_time(link, link.decided)
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            self._door.tell(Disconnected(f"cannot connect to {inward_at.host}:{inward_at.port}: {error}"))
            if link is not None:
                link.close(orderly=True)
            return None
        return link

    def _in_time(self, link: Link, decided: threading.Event) -> bool:
        """Wait for the broker's answer to a CONNECT; a broker that gives none has no use for the link."""
        if decided.wait(CONNACK_S):
            return True
        self._door.tell(Disconnected(f"no CONNACK within {CONNACK_S:g} s"))
        link.too_new = True  # it may wait for the rest of a packet that it reads as another version's
        link.end()
        return False

    def _stay(self, link: Link) -> None:
        """Wait until the connection ends."""
        while not link.lost.wait(1.0) and not self._stopping.is_set():
            if tls_stamp(self._address) != link.tls_stamp and self._renewed():
                break
        orderly = self._stopping.is_set() or not link.lost.is_set()
        self._link = None
        link.close(orderly=orderly)

    def _renewed(self) -> bool:
        """Whether the certificates that have changed can be used; one file may be written before the other."""
        try:
            tls(self._address)
        except OSError:
            return False
        log.info("certificate.renewed", cert_file=str(self._address.cert_file), ca_file=str(self._address.ca_file))
        return True

    def _listen(self, link: Link, protocol: str) -> None:
        def on_connect(client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, properties: Any) -> None:
            if client is link.outward:
                link.most_outward = getattr(properties, "ReceiveMaximum", MOST_OUTWARD)
            self._on_connack(link, protocol, client, flags, reason)

        def on_subscribe(_: Client, __: Any, ___: int, reasons: list[ReasonCode], ____: Any) -> None:
            pairs = zip(self._subscriptions, reasons, strict=False)
            refused = tuple(topic for topic, reason in pairs if reason.is_failure)
            if refused:
                log.error("subscription.refused", code="E_BROKER", topics=refused)
            self._door.tell(Connected(protocol, link.session_present, refused))

        def on_disconnect(_: Client, __: Any, flags: DisconnectFlags, reason: ReasonCode, ___: Any) -> None:
            self._on_disconnect(link, flags, reason)

        for client in (link.inward, link.outward):
            client.on_connect, client.on_disconnect = on_connect, on_disconnect
        link.inward.on_subscribe = on_subscribe
        link.inward.on_message = self._on_message

    def _on_connack(self, link: Link, protocol: str, client: Client, flags: ConnectFlags, reason: ReasonCode) -> None:
        if reason.is_failure:
            link.too_new = reason == "Unsupported protocol version"
            self._door.tell(Disconnected(f"the broker refuses the connection: {reason}"))
            link.end()
        elif client is link.outward:
            link.outward_decided.set()
        else:
            if self._stale and flags.session_present:
                client.unsubscribe(list(self._stale))
            client.subscribe([(topic, _options(protocol, topic in self._kept)) for topic in self._subscriptions])
            self._link, link.accepted = link, True
            link.session_present = bool(flags.session_present)
            link.decided.set()

    def _on_disconnect(self, link: Link, flags: DisconnectFlags, reason: ReasonCode) -> None:
        if self._link is link:
            self._link = None
        # paho hangs up on properties that the broker let pass, such as U+FEFF in a user property.
        if reason == "Protocol error" and not flags.is_disconnect_packet_from_server and link.accepted:
            link.choked = True
        if reason == TOO_MANY:  # paho does not look at it; mosquitto says 20 and takes any number
            self._most_outward = min(self._most_outward, link.most_outward)
        if not link.decided.is_set():
            link.too_new = True  # it hung up on our CONNECT, as old brokers do with a version they do not know
        if not link.lost.is_set():
            self._door.tell(Disconnected(str(reason)))
        link.end()

    def _on_message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        try:
            receipt = Receipt(client, message.mid, message.qos)
            arrived = Message(message.topic, bytes(message.payload), message.retain, time.monotonic(), receipt)
            if self._door.put(arrived, first=self._first(arrived.topic), timeout_s=HAND_OVER_S if message.qos else 0):
                return
            if message.qos == 0:
                self._door.tell(Dropped())
            else:  # it comes back only on the next connection, so that is what we ask for
                log.error("inbox.overflowed", capacity=self._address.in_flight, remedy="reconnecting")
                client.disconnect()
        except Exception:  # it would end paho's thread: see the module's head
            log.exception("message.lost", topic_bytes=len(message.payload))


def _options(protocol: str, kept: bool) -> Any:
    if protocol != "5":
        return 1
    # retainAsPublished: a command published as retained must be seen to be so, also while we are subscribed.
    handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if kept else SubscribeOptions.RETAIN_DO_NOT_SEND
    return SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=handling)
