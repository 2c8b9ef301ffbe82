"""Whom ``edge-agent fleet unlearn`` asks, and what it leaves behind however it ends; the gateways are only births."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.commands.client import connected
from edge_agent.commands.local import LocalBroker, free_port
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.messages import dump
from tests.fleet_kit import operator_at, report_of
from tests.plant import Plant, plant_at, wait_until
from tests.scripts import edge_agent

HUM = "hum"


def born(plant: Plant, *bases: str) -> None:
    """Gateways that are away for good; each has windows of the class."""
    for base in bases:
        birth = dump({"state": "offline", "cached": {HUM: 40}})
        plant.client.client.publish(f"{base}/status", birth, qos=1, retain=True).wait_for_publish(10.0)


def commands(plant: Plant) -> list[str]:
    plant.heard.extend(plant.client.pending())
    return [one.topic for one in plant.heard if one.topic.endswith(f"unlearn/{HUM}")]


@pytest.mark.parametrize("names", ["", " , "])
def test_a_list_of_no_gateways_asks_nobody(broker: LocalBroker, tmp_path: Path, names: str) -> None:
    """``--gateways "$HALL"`` with HALL unset made every gateway forget."""
    with plant_at(broker.port, "edge/press-1") as plant:
        born(plant, "edge/press-1")
        plant.client.subscribe(["#"])
        run = edge_agent("fleet", "unlearn", HUM, "--broker", operator_at(broker, tmp_path), "--gateways", names)
        assert (run.returncode, "--gateways names none" in run.stderr) == (2, True)
        assert not commands(plant)


def test_all_below_one_topic_are_asked_and_none_beside_it(broker: LocalBroker, tmp_path: Path) -> None:
    """The command went to the topic that every gateway hears, also those that the report knew nothing of."""
    with plant_at(broker.port, "hall-3/press-1") as plant:
        born(plant, "hall-3/press-1", "hall-3/press-2", "edge/press-3")
        plant.client.subscribe(["#"])
        report = tmp_path / "report.json"
        asked = ["fleet", "unlearn", HUM, "--broker", operator_at(broker, tmp_path), "--under", "hall-3", "--all"]
        run = edge_agent(*asked, "--no-wait", "--report", report)
        assert run.stdout.startswith("asked 2 gateways to forget hum, as fleet-"), run.stderr
        wait_until(lambda: len(commands(plant)) == 2)
        assert set(commands(plant)) == {f"hall-3/press-{number}/unlearn/{HUM}" for number in (1, 2)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_report_is_there_once_all_are_asked_and_however_the_tool_ends(
    broker: LocalBroker, tmp_path: Path, number: int
) -> None:
    """Only it has the command's id; a session that broke off took it away."""
    report = tmp_path / "report.json"
    # Where the tests run in the background of a shell, an interrupt is ignored unless somebody asks for it.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeding}; from edge_agent.cli import main; main()"
    command = [sys.executable, "-c", program, "fleet", "unlearn", HUM, "--all"]
    with plant_at(broker.port, "edge/press-1") as plant:
        born(plant, "edge/press-1")
        tool = subprocess.Popen(
            [*command, "--broker", operator_at(broker, tmp_path), "--report", report], stderr=subprocess.PIPE, text=True
        )
        try:
            wait_until(report.exists)
            assert report_of(report)["gateways"]["press-1"]["asked"]
            tool.send_signal(number)
            _, said = tool.communicate(timeout=30)
        finally:
            tool.kill()
    assert tool.returncode == 1
    id_ = report_of(report)["command"]["id"]
    assert f"asked as {id_}" in said
    assert "press-1: no answer: it is away; the broker keeps the command for it" in said


def test_a_broker_that_takes_no_command_is_told_at_once(tmp_path: Path) -> None:
    """The refusal was swallowed; half an hour later the gateways were said not to have ended in time."""
    (tmp_path / "acl").write_text("topic read #\ntopic write edge/+/status\n")
    broker = LocalBroker(tmp_path / "broker", free_port(), f"acl_file {tmp_path / 'acl'}")
    try:
        with plant_at(broker.port, "edge/press-1") as plant:
            born(plant, "edge/press-1")
            run = edge_agent("fleet", "unlearn", HUM, "--broker", operator_at(broker, tmp_path), "--all", timeout_s=60)
    finally:
        broker.stop()
    assert run.returncode == 1
    assert "the broker refuses what was published on edge/press-1/unlearn/hum: Not authorized" in run.stderr


def test_json_that_is_not_utf_8_is_no_json(broker: LocalBroker) -> None:
    """A certificate in UTF-16 with the right id ended the report of the whole fleet."""
    address = BrokerAddress("127.0.0.1", broker.port, "listener")
    with connected(address) as client:
        client.subscribe(["odd"])
        client.publish("odd", '{"id": "f1"}'.encode("utf-16"))
        heard = next(client.listen(10.0))
    assert heard.content is None
