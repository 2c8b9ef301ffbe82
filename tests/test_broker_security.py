"""A broker with deploy/mosquitto's configuration and deploy/pki.sh's certificates: who gets in, and who may do what."""

from __future__ import annotations

import gc
import queue
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import toy
from edge_agent.commands.client import connected
from edge_agent.commands.local import mosquitto, wait_until
from edge_agent.core.errors import Misconfigured, Unreachable
from edge_agent.mqtt_client import BrokerAddress
from tests.plant import Plant
from tests.scripts import NEEDS_OPENSSL, ROOT, edge_agent
from tests.secure_broker import Site, agent_of, pki, site_at

pytestmark = [
    NEEDS_OPENSSL,
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),  # see refusal()
    pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = site_at(tmp_path_factory.mktemp("pki"), "localhost")
    yield made
    made.broker.stop()


# Rights. `heard` is an operator, who reads all; what does not reach him was refused.


ALLOWED = [
    ("toy", "edge/toy/diagnosis/m1"),
    ("toy", "edge/toy/status"),
    ("toy", "edge/toy/release"),
    ("toy", "edge/toy/refused"),
    ("toy", "edge/toy/unlearn/hum/status"),
    ("toy", "edge/toy/unlearn/hum/certificate"),
    ("m1@toy", "edge/toy/windows/m1"),
    ("anna", "edge/toy/unlearn/hum"),
    ("anna", "edge/other/unlearn/hum"),
    ("toy", "edge/toy/models/pumps/status"),
    ("toy", "edge/toy/models/pumps/unlearn/hum/certificate"),
    ("anna", "edge/toy/models/pumps/unlearn/hum"),
    ("toy", "homeassistant/device/toy/gateway/config"),
    ("spare", "edge/toy/diagnosis/m1"),
    ("spare", "edge/spare/status"),
    ("anna", "edge/toy/labels/m1"),
    ("anna", "unlearn/hum"),
    ("desk", "edge/toy/unlearn/hum"),
    ("desk", "edge/toy/models/pumps/unlearn/hum"),
]
FORBIDDEN = [
    ("toy", "edge/other/status"),
    ("toy", "edge/other/diagnosis/m1"),
    ("toy", "edge/toy/unlearn/hum"),
    ("toy", "edge/toy/models/pumps/unlearn/hum"),
    ("other", "edge/toy/models/pumps/status"),
    ("other", "homeassistant/device/toy/gateway/config"),
    ("spare", "edge/toy/status"),
    ("spare", "edge/toy/release"),
    ("spare", "edge/toy/unlearn/hum"),
    ("toy", "edge/toy/windows/m1"),
    ("other", "edge/toy/unlearn/hum/certificate"),
    ("m1@toy", "edge/toy/windows/m2"),
    ("m1@toy", "edge/other/windows/m1"),
    ("m1@toy", "edge/toy/unlearn/hum"),
    ("m1@toy", "edge/toy/labels/m1"),
    ("m1@toy", "edge/toy/status"),
    ("anna", "edge/toy/unlearn/hum/status"),
    ("anna", "edge/toy/unlearn/hum/certificate"),
    ("anna", "edge/toy/status"),
    ("anna", "edge/toy/diagnosis/m1"),
    ("anna", "edge/toy/windows/m1"),
    ("wall", "edge/toy/unlearn/hum"),
    ("desk", "edge/other/unlearn/hum"),
    ("desk", "edge/toy/status"),
    ("desk", "edge/toy/unlearn/hum/certificate"),
    ("desk", "edge/toy/labels/m1"),
    *((name, "unlearn/hum") for name in ("toy", "m1@toy", "spare", "wall", "desk")),
]


@pytest.mark.parametrize(("name", "topic"), ALLOWED)
def test_what_somebody_may_write_arrives(site: Site, name: str, topic: str) -> None:
    listener = "other" if topic.startswith("unlearn/") else "wall"  # agents hear the plant, a monitor all the rest
    with site.client(listener) as reader, site.client(name) as writer:
        reader.subscribe([topic])
        writer.publish(topic, b'"sent"')
        assert next(reader.listen(5)).topic == topic


@pytest.mark.parametrize(("name", "topic"), FORBIDDEN)
def test_what_somebody_may_not_write_is_refused_and_reaches_nobody(site: Site, name: str, topic: str) -> None:
    with site.client("anna") as reader, site.client("other") as agent, site.client(name) as writer:
        reader.subscribe(["edge/#"])
        agent.subscribe(["unlearn/+"])
        with pytest.raises(Unreachable, match=r"the broker refuses what was published on .*: Not authorized"):
            writer.publish(topic, b'"sent"')
        reader.publish("edge/toy/labels/m1", b'"after"')
        assert next(reader.listen(5)).content == "after"
        assert not list(agent.pending())


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("other", "edge/toy/status"),
        ("other", "edge/toy/unlearn/hum/certificate"),
        ("spare", "edge/toy/unlearn/hum"),
        ("spare", "edge/toy/status"),
        ("wall", "unlearn/hum"),
        ("m1@toy", "edge/toy/diagnosis/m1"),
        ("m1@toy", "edge/toy/status"),
        ("other", "edge/toy/windows/m1"),
        ("other", "edge/toy/unlearn/hum"),
        ("desk", "edge/other/unlearn/hum"),
    ],
)
def test_what_somebody_may_not_read_does_not_reach_him(site: Site, name: str, topic: str) -> None:
    writers = {"windows": "m1@toy", "unlearn": "anna", "status": "toy", "diagnosis": "toy"}
    writer_name = "toy" if "certificate" in topic else next(who for part, who in writers.items() if part in topic)
    allowed = "other" if topic.startswith("unlearn/") else "anna"  # hears it, so that silence means something
    with site.client(name) as reader, site.client(allowed) as control, site.client(writer_name) as writer:
        control.subscribe([topic])
        reader.client.subscribe(topic, 1)
        writer.publish(topic, b'"sent"')
        assert next(control.listen(5)).topic == topic
        with pytest.raises(queue.Empty):
            reader.heard.get(timeout=0.3)


# Certificates


def refusal(site: Site, name: str, change: Callable[[BrokerAddress], BrokerAddress]) -> str:
    with pytest.raises((Unreachable, Misconfigured)) as caught, connected(change(site.address(name))):
        pass
    reason = str(caught.value.reason)
    del caught
    gc.collect()  # paho leaves the socket of a failed handshake to the garbage collector
    return reason


def test_nobody_gets_in_without_a_certificate(site: Site) -> None:
    words = refusal(site, "anna", lambda address: replace(address, cert_file=None, key_file=None))
    assert "alert" in words or "hung up" in words


def test_an_expired_certificate_is_refused(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.folder, tmp_path / "pki", ignore=shutil.ignore_patterns("broker"))
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("faketime is not installed")
    command: list[str | Path] = [
        faketime,
        "2020-01-01",
        ROOT / "deploy" / "pki.sh",
        tmp_path / "pki",
        "operator",
        "anna",
    ]
    subprocess.run(command, check=True)
    expired = site.address("anna", folder=tmp_path / "pki")
    assert "hung up" in refusal(site, "anna", lambda _: expired) or "alert" in refusal(site, "anna", lambda _: expired)


def test_a_certificate_of_another_authority_is_refused(site: Site, tmp_path: Path) -> None:
    assert pki(tmp_path, "ca").returncode == 0
    assert pki(tmp_path, "operator", "anna").returncode == 0
    words = refusal(site, "anna", lambda _: site.address("anna", folder=tmp_path))
    assert "hung up" in words or "alert" in words


def test_a_broker_of_another_authority_is_not_believed(site: Site, tmp_path: Path) -> None:
    assert pki(tmp_path, "ca").returncode == 0
    words = refusal(site, "anna", lambda address: replace(address, ca_file=tmp_path / "ca.pem"))
    assert "certificate verify failed" in words


def test_a_broker_by_another_name_than_its_certificates_is_not_believed(site: Site) -> None:
    words = refusal(site, "anna", lambda address: replace(address, host="127.0.0.1"))
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in words


def test_a_revoked_certificate_is_refused_and_its_rights_are_gone(tmp_path: Path) -> None:
    site = site_at(tmp_path / "pki", "localhost")
    try:
        kept = tmp_path / "stolen"
        kept.mkdir()
        for name in "m1@toy.pem", "m1@toy.key":
            shutil.copy(site.folder / name, kept)
        stolen = site.address("m1@toy", folder=kept)
        with connected(stolen):
            pass
        assert pki(site.folder, "revoke", "m1@toy").returncode == 0
        assert "m1@toy" not in (site.folder / "acl").read_text()
        assert "user anna" in (site.folder / "acl").read_text()
        site.broker.stop()
        site.broker.start()
        with site.client("anna"):
            words = refusal(site, "anna", lambda _: stolen)
        assert "hung up" in words or "alert" in words
        assert pki(site.folder, "sensor", "m1", "toy").returncode == 0  # the sensor gets another one
        assert pki(site.folder, "revoke", "nobody").returncode == 1
    finally:
        site.broker.stop()


def test_nobody_takes_over_an_agents_session_by_the_name_of_its_gateway(
    site: Site, tmp_path: Path, toy_release: Path
) -> None:
    # A sensor that connected as edge-agent-toy threw the agent off, and took what was queued for it.
    agent = agent_of(site, tmp_path / "agent", toy_release)
    try:
        agent.ready()
        for client_id in "edge-agent-toy", "edge-agent-toy-out":
            with connected(replace(site.address("m1@toy"), client_id=client_id)):
                pass
        with site.client("anna") as anna:
            plant = Plant(anna)
            with site.client("m1@toy") as sensor:
                sensor.publish(
                    "edge/toy/windows/m1", toy.message(1, None, toy.windows(0, 1, np.random.default_rng(0))[0])
                )
            wait_until(lambda: plant.find("diagnosis/m1"), "the window is answered")
        assert agent.events("broker.disconnected") == []
    finally:
        agent.kill()


def test_a_missing_certificate_is_told_by_its_name(site: Site, tmp_path: Path) -> None:
    words = refusal(site, "anna", lambda address: replace(address, cert_file=tmp_path / "gone.pem"))
    assert str(tmp_path / "gone.pem") in words


# The agent


def test_an_agent_forgets_for_an_operator_and_for_nobody_else(site: Site, tmp_path: Path, toy_release: Path) -> None:
    agent = agent_of(site, tmp_path / "agent", toy_release)
    operator = tmp_path / "operator.toml"
    names = {"ca_file": "ca.pem", "cert_file": "anna.pem", "key_file": "anna.key"}
    lines = [f'{key} = "{site.folder / name}"' for key, name in names.items()]
    operator.write_text("\n".join(["[mqtt]", 'host = "localhost"', f"port = {site.broker.port}", *lines]))
    try:
        agent.ready()
        with site.client("m1@toy") as sensor, site.client("anna") as anna:
            plant = Plant(anna)
            for row in toy.windows(0, 40, np.random.default_rng(0)):
                plant._seq += 1
                sensor.publish("edge/toy/windows/m1", toy.message(plant._seq, toy.CLASSES[0], row, "m1", "boot-1"))
            wait_until(lambda: len(plant.find("diagnosis/m1")) == 40, "all are answered")
            asked = ["unlearn", toy.CLASSES[0], "--wait"]
            refused = edge_agent(*asked, "--config", agent.config)
            assert "the broker refuses what was published on edge/toy/unlearn/hum" in refused.stderr
            done = edge_agent(*asked, "--broker", operator, "--base", "edge/toy")
            assert done.returncode == 0, done.stderr + done.stdout
            assert plant.expect(f"unlearn/{toy.CLASSES[0]}/certificate")["content"]["gateway"] == "toy"
        assert agent.stop() == 0
    finally:
        agent.kill()


def test_a_renewed_certificate_is_taken_up_without_a_restart(tmp_path: Path, toy_release: Path) -> None:
    site = site_at(tmp_path / "pki", "localhost")
    agent = agent_of(site, tmp_path / "agent", toy_release)
    try:
        agent.ready()
        key, certificate = site.folder / "toy.key", site.folder / "toy.pem"
        before = key.read_bytes()
        # One file comes before the other; until they fit, the connection stays.
        fresh = tmp_path / "fresh"
        shutil.copytree(site.folder, fresh, ignore=shutil.ignore_patterns("broker"))
        assert pki(fresh, "agent", "toy").returncode == 0
        shutil.copy(fresh / "toy.key", key)
        assert key.read_bytes() != before
        with site.client("anna") as anna:
            anna.subscribe(["edge/toy/status"])
            assert wait_until(lambda: next(anna.listen(30)).content["state"] == "online", "it stays connected")
        assert agent.events("certificate.renewed") == []
        shutil.copy(fresh / "toy.pem", certificate)
        agent.ready(2)
        assert len(agent.events("certificate.renewed")) == 1
        assert agent.stop() == 0
    finally:
        agent.kill()
        site.broker.stop()
