"""Two brokers joined by deploy/mosquitto/bridge.conf: a fleet is asked at the central one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import toy
from edge_agent.commands.local import LocalBroker, free_port, mosquitto
from tests.plant import Plant, plant_at, toy_agent
from tests.scripts import ROOT, edge_agent

pytestmark = pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")
HUM = toy.CLASSES[0]
CONF = (ROOT / "deploy" / "mosquitto" / "bridge.conf").read_text()


@pytest.fixture
def central(tmp_path: Path) -> Iterator[LocalBroker]:
    broker = LocalBroker(
        tmp_path / "central", free_port(), f"persistence true\npersistence_location {tmp_path}/central/"
    )
    yield broker
    broker.stop()


@pytest.fixture
def site(tmp_path: Path, central: LocalBroker) -> Iterator[LocalBroker]:
    """The site's broker; the bridge is as it is delivered, but for TLS and the address."""
    plain = re.sub(r"^bridge_(cafile|certfile|keyfile) .*\n", "", CONF, flags=re.MULTILINE)
    extra = plain.replace("central.plant:8883", f"127.0.0.1:{central.port}").replace(
        "restart_timeout 5 60", "restart_timeout 1"
    )
    broker = LocalBroker(tmp_path / "site", free_port(), extra)
    yield broker
    broker.stop()


def test_a_fleet_is_asked_across_sites_and_windows_stay_where_they_are(
    tmp_path: Path, toy_release: Path, site: LocalBroker, central: LocalBroker
) -> None:
    agent = toy_agent(tmp_path / "agent", site.port, toy_release, "[forget]\nmin_windows = 32")
    operator, report = tmp_path / "operator.toml", tmp_path / "report.json"
    operator.write_text(f"[mqtt]\nport = {central.port}\n")
    try:
        agent.ready()
        with plant_at(site.port) as plant, plant_at(central.port) as far:
            plant.answers(plant.feed(0, 40))
            far.expect("status", state="online")
            asked = edge_agent("fleet", "unlearn", HUM, "--broker", operator, "--all", "--report", report)
            assert asked.returncode == 0, asked.stderr
            (row,) = json.loads(report.read_text())["gateways"].values()
            assert row["certificate_verified"]
            assert far.find("diagnosis/m1") == []
    finally:
        agent.kill()


def test_a_cut_line_keeps_a_command_for_the_site_and_its_certificate_for_the_fleet(
    tmp_path: Path, toy_release: Path, site: LocalBroker, central: LocalBroker
) -> None:
    agent = toy_agent(tmp_path / "agent", site.port, toy_release, "[forget]\nmin_windows = 32")
    try:
        agent.ready()
        with plant_at(site.port) as plant:
            plant.answers(plant.feed(0, 40))
            with plant_at(central.port) as far:
                far.expect("status", state="online")
            central.stop()
            assert len(plant.answers(plant.feed(0, 5))) == 5
            central.start()
            with plant_at(central.port) as far:
                far.raw(f"unlearn/{HUM}", b'{"id": "late"}')
                far.expect(f"unlearn/{HUM}/status", 120, status="successful", id="late")
                certificate(far)
    finally:
        agent.kill()


def certificate(plant: Plant) -> None:
    assert plant.expect(f"unlearn/{HUM}/certificate")["content"]["command"]["id"] == "late"
