"""The chaos run's own instruments: a wire that is read right, a proxy that breaks, an oracle that would find a loss."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTMessage

from benchmarks import toy
from benchmarks.adversity.mqtt_wire import Acknowledged, Connection, Packet, Published
from benchmarks.adversity.oracle import Oracle
from benchmarks.adversity.proxy import Proxy
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import read_release
from edge_agent.commands.client import ToolClient, connected
from edge_agent.commands.local import LocalBroker, free_port
from edge_agent.core.errors import Unreachable
from edge_agent.core.types import Window
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.windows import encode
from tests.plant import wait_until

BASE = "edge/toy"
UP, DOWN = True, False


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def packet(head: int, body: bytes) -> bytes:
    return bytes([head]) + varint(len(body)) + body


def text(content: str) -> bytes:
    return len(content.encode()).to_bytes(2, "big") + content.encode()


def connect(version: int) -> bytes:
    return packet(0x10, text("MQTT") + bytes([version, 2, 0, 60]) + (b"\0" if version == 5 else b"") + text("me"))


def publish(topic: str, payload: bytes, mid: int, version: int) -> bytes:
    properties = varint(3) + b"\x01\x01\x00"[:3] if version == 5 else b""
    number = mid.to_bytes(2, "big") if mid else b""
    return packet(0x32 if mid else 0x30, text(topic) + number + properties + payload)


@given(
    st.sampled_from([4, 5]),
    st.lists(st.tuples(st.text(min_size=1, max_size=20), st.binary(max_size=400), st.integers(0, 65535)), max_size=6),
    st.lists(st.integers(1, 50), min_size=1),
)
def test_packets_are_put_together_again_however_they_were_cut(
    version: int, sent: list[tuple[str, bytes, int]], cuts: list[int]
) -> None:
    stream = connect(version) + b"".join(publish(*one, version) + packet(0x40, b"\0\7") for one in sent)
    wire, seen = Connection(), list[Packet]()
    while stream:
        size = cuts[len(seen) % len(cuts)]
        seen += wire.feed(stream[:size], upward=True)
        stream = stream[size:]
    expected = [(Published(*one), Acknowledged(7)) for one in sent]
    assert seen == [packet for pair in expected for packet in pair]


# The oracle


POOL = np.concatenate([toy.windows(label, 2, np.random.default_rng(label)) for label in range(5)])


@pytest.fixture
def oracle(toy_release: Path) -> Oracle:
    made = Oracle(BASE, POOL)
    made.show(read_release(toy_release))
    return made


def sent(oracle: Oracle, seq: int, index: int = 0) -> None:
    """A window comes to the agent, and the broker has acknowledged it to its sender."""
    oracle.books.sent[seq] = index
    oracle.books.taken.add(seq)
    payload = encode(Window("m1", "chaos", seq, 0, None, POOL[index]), toy.RATE_HZ, "m/s^2")
    oracle(1, DOWN, Published(f"{BASE}/windows/m1", payload, seq))


def diagnosed(oracle: Oracle, seq: int, release: Path, name: str | None = None, masked: tuple[str, ...] = ()) -> None:
    """The agent answers it."""
    card = read_release(release).card
    row = OnnxModel((release / "model.onnx").read_bytes(), 1).logits(POOL[[oracle.books.sent.get(seq, 0)]])[0]
    right = card.classes[int(row.argmax())]
    content = {"seq": seq, "class": name or right, "masked": masked, "release": read_release(release).digest}
    oracle(1, UP, Published(f"{BASE}/diagnosis/m1", json.dumps(content).encode(), 1000 + seq))


def test_a_window_that_is_answered_before_it_is_acknowledged_is_not_lost(oracle: Oracle, toy_release: Path) -> None:
    sent(oracle, 1)
    diagnosed(oracle, 1, toy_release)
    oracle(1, DOWN, Acknowledged(1001))
    oracle(1, UP, Acknowledged(1))
    result = oracle.result()
    assert (result["windows"], result["lost"], result["wrong"], result["repeated"]) == (1, 0, 0, 0)


def test_a_window_that_is_acknowledged_before_the_broker_has_its_diagnosis_is_lost(
    oracle: Oracle, toy_release: Path
) -> None:
    sent(oracle, 1)
    diagnosed(oracle, 1, toy_release)
    oracle(1, UP, Acknowledged(1))
    oracle(1, DOWN, Acknowledged(1001))
    assert oracle.result()["lost"] == 1


def test_a_window_that_is_never_answered_is_lost_unless_the_broker_lost_it(oracle: Oracle) -> None:
    for seq in (1, 2):
        sent(oracle, seq)
    oracle.books.at_risk.add(2)
    result = oracle.result()
    assert (result["lost"], result["lost_by_broker"]) == (1, 1)


def test_an_acknowledgement_of_another_connection_does_not_count(oracle: Oracle, toy_release: Path) -> None:
    sent(oracle, 1)
    diagnosed(oracle, 1, toy_release)
    oracle(2, DOWN, Acknowledged(1001))
    assert oracle.result()["lost"] == 1


def test_a_second_answer_is_a_repeat(oracle: Oracle, toy_release: Path) -> None:
    sent(oracle, 1)
    diagnosed(oracle, 1, toy_release)
    diagnosed(oracle, 1, toy_release)
    assert oracle.result()["repeated"] == 1


def test_an_answer_that_the_release_does_not_give_is_wrong(oracle: Oracle, toy_release: Path) -> None:
    sent(oracle, 1, index=0)  # a "hum"
    diagnosed(oracle, 1, toy_release, name="chirp")
    assert oracle.result()["problems"] == ["window 1 was answered with chirp, not hum"]


def test_an_answer_that_names_a_hidden_or_forgotten_class_is_wrong(oracle: Oracle, toy_release: Path) -> None:
    for seq in (1, 2):
        sent(oracle, seq, index=0)
    diagnosed(oracle, 1, toy_release, name="hum", masked=("hum",))
    status = {"status": "successful", "classes": ["hum"]}
    oracle(1, UP, Published(f"{BASE}/unlearn/hum/status", json.dumps(status).encode(), 7))
    diagnosed(oracle, 2, toy_release, name="hum")
    assert oracle.result()["wrong"] == 2


def test_an_answer_to_a_window_that_was_never_sent_is_wrong(oracle: Oracle, toy_release: Path) -> None:
    diagnosed(oracle, 99, toy_release)
    assert oracle.result()["problems"] == ["window 99 was never sent"]


# The proxy


@pytest.fixture
def seen() -> list[tuple[bool, Packet]]:
    return []


@pytest.fixture
def proxy(broker: LocalBroker, seen: list[tuple[bool, Packet]]) -> Iterator[Proxy]:
    made = Proxy(broker.port, lambda _, upward, packet: seen.append((upward, packet)))
    yield made
    made.stop()


@pytest.fixture
def through(proxy: Proxy) -> Iterator[ToolClient]:
    """A client that reaches the broker through the proxy."""
    with connected(BrokerAddress("127.0.0.1", proxy.port, "through")) as client:
        client.subscribe(["echo"])
        yield client


def test_what_passes_is_seen_and_arrives(proxy: Proxy, through: ToolClient, seen: list[tuple[bool, Packet]]) -> None:
    through.publish("echo", b"1")
    assert next(through.listen(10)).content == 1
    topics = [(upward, packet.topic, packet.payload) for upward, packet in seen if isinstance(packet, Published)]
    assert topics == [(UP, "echo", b"1"), (DOWN, "echo", b"1")]
    wait_until(lambda: sum(isinstance(packet, Acknowledged) for _, packet in seen) == 2)


@pytest.mark.parametrize("what", ["cut", "reset"])
def test_a_connection_that_is_cut_or_reset_ends(proxy: Proxy, through: ToolClient, what: str) -> None:
    getattr(proxy, what)()
    wait_until(lambda: not through.client.is_connected())
    if what == "cut":
        assert not _reaches(proxy)
        proxy.mend()
    assert wait_until(lambda: _reaches(proxy))


def test_a_connection_that_is_held_stays_up_and_silent_until_it_is_mended(proxy: Proxy, through: ToolClient) -> None:
    proxy.hold()
    info = through.client.publish("echo", b"2", qos=1)
    assert list(through.listen(0.5)) == []
    assert through.client.is_connected()
    assert not info.is_published()
    proxy.mend()
    wait_until(lambda: not through.client.is_connected())


def test_a_connection_that_has_ended_is_not_ended_again() -> None:
    # Its socket was closed, but its task waited to be let through: the proxy's thread died of it when it was stopped.
    made = Proxy(free_port(), lambda *_: None)
    made.hold()
    with socket.create_connection(("127.0.0.1", made.port), timeout=0.1) as client:
        wait_until(lambda: _is_reset(made, client))
    made.stop()


def _is_reset(proxy: Proxy, client: socket.socket) -> bool:
    proxy.reset()
    try:
        client.recv(1)
    except TimeoutError:  # it has not been accepted yet
        return False
    except ConnectionResetError:
        return True
    return False


def test_a_slow_connection_takes_its_time(proxy: Proxy, through: ToolClient) -> None:
    heard: list[bytes] = []

    def note(_: Client, __: object, message: MQTTMessage) -> None:
        heard.append(bytes(message.payload))

    through.client.on_message = note
    proxy.slow(20_000)
    through.client.publish("echo", bytes(10_000), qos=1)
    assert list(through.listen(0.5)) == []
    assert heard == []
    wait_until(lambda: heard)


def _reaches(proxy: Proxy) -> bool:
    try:
        with connected(BrokerAddress("127.0.0.1", proxy.port, "probe", protocol="5")):
            return True
    except Unreachable:
        return False
