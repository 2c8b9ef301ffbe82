"""Many gateways at one broker: asked by one command, believed by their signatures."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import toy
from edge_agent.commands import fleet
from edge_agent.commands.client import connected
from edge_agent.commands.fleet import Member
from edge_agent.commands.fleet_ask import survey
from edge_agent.commands.local import LocalAgent, LocalBroker
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.messages import dump
from edge_agent.signing import Signer
from tests.fleet_kit import operator_at, report_of
from tests.plant import Plant, plant_at, wait_until
from tests.scripts import edge_agent

HUM = toy.CLASSES[0]
Gateways = Callable[..., dict[str, LocalAgent]]


@pytest.fixture
def gateways(tmp_path: Path, toy_release: Path, broker: LocalBroker) -> Iterator[Gateways]:
    """Starts agents by name, each with cached windows of the first class, unless told otherwise."""
    started: dict[str, LocalAgent] = {}

    def start(*names: str, windows: int = 40) -> dict[str, LocalAgent]:
        for name in names:
            env = {"OMP_NUM_THREADS": "1"}
            agent = LocalAgent(tmp_path / name, name, broker.port, toy_release, "[forget]\nmin_windows = 32", env)
            started[name] = agent
            agent.ready()
            with plant_at(broker.port, f"edge/{name}") as plant:
                fill(plant, windows)
        return started

    yield start
    for agent in started.values():
        agent.kill()


def fill(plant: Plant, windows: int) -> None:
    rows = toy.windows(0, windows, np.random.default_rng(0))
    plant.answers([plant.send(row, HUM) for row in rows])


@pytest.fixture
def operator(tmp_path: Path, broker: LocalBroker) -> Path:
    return operator_at(broker, tmp_path)


def test_all_gateways_forget_and_every_certificate_is_verified_with_its_own_key(
    gateways: Gateways, operator: Path, tmp_path: Path
) -> None:
    agents = gateways("press-1", "press-2")
    keys = tmp_path / "keys"
    keys.mkdir()
    for name, agent in agents.items():
        (keys / f"{name}.pem").write_text(edge_agent("certificate", "key", "--config", agent.config).stdout)
    states = edge_agent("fleet", "status", "--broker", operator)
    assert states.returncode == 0
    assert states.stdout.count("online") == 2
    report = tmp_path / "report.json"
    asked = ["fleet", "unlearn", HUM, "--broker", operator, "--all", "--keys", keys, "--report", report]
    run = edge_agent(*asked)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith(f"2 of 2 have forgotten {HUM}; report: ")
    content = report_of(report)
    assert content["all_succeeded"]
    for name, row in content["gateways"].items():
        assert row["key_pinned"]
        document = tmp_path / f"{name}.json"
        document.write_text(row["certificate"])
        verified = edge_agent("certificate", "verify", document, "--key", keys / f"{name}.pem")
        assert f"gateway {name} forgot {HUM}" in verified.stdout
    seen = json.loads(edge_agent("fleet", "status", "--broker", operator, "--json").stdout)
    assert {name: one["masked"] for name, one in seen.items()} == {"press-1": [HUM], "press-2": [HUM]}


def test_a_gateway_that_is_away_forgets_when_it_comes_back_and_the_broker_may_restart_meanwhile(
    gateways: Gateways, operator: Path, broker: LocalBroker, tmp_path: Path
) -> None:
    agents = gateways("press-1", "press-2")
    assert agents["press-2"].stop() == 0
    assert edge_agent("fleet", "status", "--broker", operator).returncode == 1
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "edge_agent", "fleet", "unlearn", HUM, "--all", "--timeout", "120"]
    tool = subprocess.Popen([*command, "--broker", operator, "--report", report], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: agents["press-1"].events("class.erased"), 60)
        broker.stop()  # with persistence: it has the command for the other one still
        broker.start()
        agents["press-2"].start()
        assert tool.wait(120) == 0
    finally:
        tool.kill()
    content = report_of(report)
    assert content["succeeded"] == 2
    assert not content["gateways"]["press-2"]["key_pinned"]


def test_one_that_cannot_forget_is_named_with_its_reason_and_the_exit_code_says_so(
    gateways: Gateways, operator: Path, tmp_path: Path
) -> None:
    gateways("press-1")
    gateways("press-2", windows=5)
    report = tmp_path / "report.json"
    asked = ["fleet", "unlearn", HUM, "--broker", operator, "--report", report]
    run = edge_agent(*asked, "--gateways", "press-1,press-2")
    assert run.returncode == 1
    assert "press-2: rejected: E_TOO_FEW_WINDOWS 5 windows of hum are cached, at least 32 are needed" in run.stderr
    assert run.stdout.startswith("1 of 2 have forgotten")
    assert report_of(report)["gateways"]["press-1"]["succeeded"]
    run = edge_agent(*asked, "--gateways", "press-1,  press-3", "--timeout", 60)
    assert "press-3: no answer: the broker has never heard of it; it was not asked" in run.stderr
    assert run.returncode == 1
    run = edge_agent(*asked, "--gateways", "press-1", "--no-wait")
    assert run.stdout.startswith("asked 1 gateways to forget hum, as fleet-")
    assert edge_agent(*asked).returncode == 2  # neither --all nor --gateways


def test_what_a_gateway_answers_after_the_tool_has_gone_is_collected_later(
    gateways: Gateways, operator: Path, tmp_path: Path
) -> None:
    agents = gateways("press-1")
    assert agents["press-1"].stop() == 0
    report = tmp_path / "report.json"
    asked = ["fleet", "unlearn", HUM, "--broker", operator, "--report", report, "--gateways", "press-1"]
    run = edge_agent(*asked, "--timeout", 2)
    assert run.returncode == 1
    assert "press-1: no answer: it is away; the broker keeps the command for it" in run.stderr
    agents["press-1"].start()
    run = edge_agent("fleet", "collect", report, "--broker", operator, "--timeout", 120)
    assert run.returncode == 0, run.stderr
    assert report_of(report)["gateways"]["press-1"]["certificate_verified"]
    (tmp_path / "other.json").write_text("[]")
    run = edge_agent("fleet", "collect", tmp_path / "other.json", "--broker", operator)
    assert (run.returncode, "is no report" in run.stderr) == (78, True)


def test_a_gateway_whose_key_is_pinned_and_that_nobody_has_heard_of_has_not_succeeded(
    gateways: Gateways, operator: Path, tmp_path: Path
) -> None:
    gateways("press-1")
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "press-9.pem").write_text(Signer.of_seed(bytes(32)).public.pem)
    run = edge_agent(
        "fleet", "unlearn", HUM, "--broker", operator, "--all", "--keys", keys, "--report", keys / "r.json"
    )
    assert run.returncode == 1
    assert run.stdout.startswith("1 of 2 have forgotten")
    assert "press-9: no answer: the broker has never heard of it" in run.stderr


def test_a_birth_that_cannot_be_read_is_shown_and_ends_nothing(operator: Path, broker: LocalBroker) -> None:
    with plant_at(broker.port, "edge/odd") as plant:
        plant.raw("status", dump({"state": "online", "cached": ["a"], "counters": 7}), retain=True)
        plant.expect("status")
    run = edge_agent("fleet", "status", "--broker", operator)
    assert (run.returncode, run.stderr) == (1, "")
    assert "garbled" in run.stdout


def test_a_tool_that_waits_hears_the_end_also_after_the_broker_was_restarted(
    gateways: Gateways, broker: LocalBroker
) -> None:
    # It sat there until its timeout, and then said that the command had not finished.
    agents = gateways("press-1")
    command = [sys.executable, "-m", "edge_agent", "unlearn", HUM, "--config", str(agents["press-1"].config), "--wait"]
    tool = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_until(lambda: agents["press-1"].events("job.started"), 60)
        broker.stop()
        broker.start()
        out, _ = tool.communicate(timeout=120)
        assert tool.returncode == 0
        assert out.startswith("successful")
    finally:
        tool.kill()


def test_without_a_gateway_there_is_nothing_to_ask(operator: Path) -> None:
    run = edge_agent("fleet", "unlearn", HUM, "--broker", operator, "--all")
    assert "the broker knows no gateway below edge/" in run.stderr
    assert edge_agent("fleet", "status", "--broker", operator).returncode == 1


def test_a_large_fleet_that_never_falls_silent_is_heard_out(broker: LocalBroker) -> None:
    """Each of 200 gateways tells of itself every ten seconds: there is no second without a birth."""
    ended = threading.Event()

    def chatter() -> None:
        with connected(BrokerAddress("127.0.0.1", broker.port, "chatter")) as client:
            for number in itertools.count():
                birth = dump({"state": "online", "cached": {HUM: 40}})
                client.client.publish(f"edge/gw-{number % 200}/status", birth, qos=0, retain=True)
                if ended.wait(0 if number < 200 else 0.05):
                    return

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        wait_until(lambda: len(survey(BrokerAddress("127.0.0.1", broker.port, "survey"), "edge")) == 200, 60)
    finally:
        ended.set()
        thread.join()


def test_who_is_asked_when_all_are() -> None:
    knows, not_ = {"cached": {HUM: 3}}, {"cached": {"whine": 0}}
    members = {
        "a": Member("a", knows), "a/models/p": Member("a/models/p", not_),
        "b": Member("b", not_), "b/models/p": Member("b/models/p", knows),
        "c": Member("c", not_),
        "d": Member("d", {"state": "offline"}), "d/models/p": Member("d/models/p", knows),
        "e": Member("e", {"replica_of": "edge/a"}),
    }  # fmt: skip
    assert set(fleet.asked(members, (HUM,))) == {"a", "b/models/p", "c", "d", "d/models/p"}
