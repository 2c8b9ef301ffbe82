"""The pair of connections: a window is acknowledged when the broker has its diagnosis, and no sooner."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from benchmarks.adversity.proxy import Proxy
from edge_agent.adapters.mqtt import LONGEST_WAIT_S, MANY, SPREAD_S, Broker
from edge_agent.commands.client import connected
from edge_agent.commands.local import LocalBroker
from edge_agent.mqtt_client import BrokerAddress, tls_stamp
from edge_agent.mqtt_link import Link, Receipt
from tests.plant import wait_until

MESSAGE_IDS = 65_535


class Inward(Client):
    """A client that notes what it is to acknowledge, and has no broker to tell."""

    def __init__(self) -> None:
        super().__init__(CallbackAPIVersion.VERSION2)
        self.acknowledged: list[int] = []

    def ack(self, mid: int, qos: int) -> MQTTErrorCode:  # noqa: ARG002 as paho has it
        """Note it."""
        self.acknowledged.append(mid)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


@pytest.fixture
def proxy(broker: LocalBroker) -> Iterator[Proxy]:
    made = Proxy(broker.port, lambda *_: None)
    yield made
    made.stop()


def test_a_window_is_not_acknowledged_before_the_broker_has_its_diagnosis_whatever_was_sent_before(
    proxy: Proxy,
) -> None:
    # paho calls on_publish for QoS 0 too. What it said was kept, and taken for the answer to the next publish with
    # the same message id, 65,535 publishes later: that window was acknowledged at once, and lost if the link broke.
    inward = Inward()
    with connected(BrokerAddress("127.0.0.1", proxy.port, "outward")) as out:
        link = Link(inward, out.client, lambda *_: None)
        for _ in range(MESSAGE_IDS):
            assert link.send("refused", b"", 0, None, retain=False)
        wait_until(lambda: not link.waiting)
        proxy.hold()
        assert link.send("diagnosis", b"", 1, Receipt(inward, 7, 1), retain=False)
        assert inward.acknowledged == []
        proxy.mend()
    assert inward.acknowledged == []


def test_certificates_that_cannot_be_looked_at_do_not_end_the_thread_that_looks() -> None:
    # A folder that was closed for a moment, while a certificate was renewed, ended it.
    nowhere = Path("x" * 300)  # too long for a name: an OSError that Path.exists lets through
    assert tls_stamp(BrokerAddress("127.0.0.1", 1883, "a", ca_file=nowhere)) == ((),)


def test_agents_come_back_to_a_broker_one_by_one_and_wait_longer_after_many_attempts() -> None:
    address = BrokerAddress("127.0.0.1", 1883, "a")
    door: Any = None  # nobody knocks
    broker = Broker(address, [], door, lambda _: False, ("status", b""), random.Random(1))
    first = [broker._pause_s(0) for _ in range(200)]
    assert 0.0 <= min(first) < 0.5
    assert 4.5 < max(first) <= SPREAD_S
    for attempts, wait_s in ((1, SPREAD_S), (MANY - 1, SPREAD_S), (MANY, LONGEST_WAIT_S), (1000, LONGEST_WAIT_S)):
        waits = [broker._pause_s(attempts) for _ in range(200)]
        assert 0.9 * wait_s <= min(waits) < 0.93 * wait_s
        assert 1.07 * wait_s < max(waits) <= 1.1 * wait_s


def test_a_window_is_acknowledged_when_the_broker_has_its_diagnosis(broker: LocalBroker) -> None:
    inward = Inward()
    with connected(BrokerAddress("127.0.0.1", broker.port, "outward")) as out:
        link = Link(inward, out.client, lambda *_: None)
        assert link.send("diagnosis", b"", 1, Receipt(inward, 7, 1), retain=False)
        wait_until(lambda: inward.acknowledged == [7])
        assert not link.waiting
