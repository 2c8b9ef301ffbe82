"""Two brokers joined by deploy/mosquitto/bridge.conf: a fleet is asked at the central one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import toy
from edge_agent.commands.local import LocalAgent, LocalBroker, free_port, mosquitto
from tests.plant import Plant, plant_at, toy_agent
from tests.scripts import NEEDS_OPENSSL, ROOT, edge_agent
from tests.secure_broker import CONF, SecureBroker, Site, pki

pytestmark = [NEEDS_OPENSSL, pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")]
HUM = toy.CLASSES[0]
BRIDGE = (ROOT / "deploy" / "mosquitto" / "bridge.conf").read_text()


@pytest.fixture
def central(tmp_path: Path) -> Iterator[Site]:
    """The central broker: TLS, and the rights of a site and of an operator."""
    folder, port = tmp_path / "pki", free_port()
    for words in ("ca",), ("broker", "localhost"), ("site", "hall-3"), ("operator", "anna"):
        assert pki(folder, *words).returncode == 0
    for path in folder.iterdir():
        path.chmod(0o644)  # mosquitto gives up root
    conf = CONF.replace("/etc/mosquitto/edge-agent", str(folder)).replace("listener 8883", f"listener {port} 127.0.0.1")
    broker = SecureBroker(tmp_path / "central", port, conf)
    yield Site(broker, folder)
    broker.stop()


@pytest.fixture
def agent(tmp_path: Path, central: Site, toy_release: Path) -> Iterator[LocalAgent]:
    """An agent at the site's broker, which is joined to the central one."""
    extra = BRIDGE.replace("/etc/mosquitto/edge-agent/site", str(central.folder / "hall-3"))
    extra = extra.replace("/etc/mosquitto/edge-agent", str(central.folder))
    extra = extra.replace("central.plant:8883", f"localhost:{central.broker.port}")
    broker = LocalBroker(tmp_path / "site", free_port(), extra.replace("restart_timeout 5 60", "restart_timeout 1"))
    running = toy_agent(tmp_path / "agent", broker.port, toy_release, "[forget]\nmin_windows = 32")
    running.ready()
    with plant_at(broker.port) as plant:
        plant.answers(plant.feed(0, 40))
    yield running
    running.kill()
    broker.stop()


@contextmanager
def operator(central: Site) -> Iterator[Plant]:
    """What an operator hears at the central broker."""
    with central.client("anna") as client:
        yield Plant(client)


def test_a_fleet_is_asked_across_sites_and_windows_stay_where_they_are(
    tmp_path: Path, agent: LocalAgent, central: Site
) -> None:
    config, report, folder = tmp_path / "operator.toml", tmp_path / "report.json", central.folder
    files = f'ca_file = "{folder}/ca.pem"\ncert_file = "{folder}/anna.pem"\nkey_file = "{folder}/anna.key"\n'
    config.write_text(f'[mqtt]\nhost = "localhost"\nport = {central.broker.port}\n{files}')
    with operator(central) as far:
        far.expect("status", state="online")
        asked = edge_agent("fleet", "unlearn", HUM, "--broker", config, "--all", "--report", report)
        assert asked.returncode == 0, asked.stderr
        (row,) = json.loads(report.read_text())["gateways"].values()
        assert row["certificate_verified"]
        assert far.find("diagnosis/m1") == []


def test_a_cut_line_keeps_a_command_for_the_site_and_its_certificate_for_the_fleet(
    agent: LocalAgent, central: Site
) -> None:
    with operator(central) as far:
        far.expect("status", state="online")
    central.broker.stop()
    central.broker.start()
    with operator(central) as far:
        far.raw(f"unlearn/{HUM}", b'{"id": "late"}')
        far.expect(f"unlearn/{HUM}/status", 120, status="successful", id="late")
        assert far.expect(f"unlearn/{HUM}/certificate")["content"]["command"]["id"] == "late"
