"""Several models side by side on one gateway: each forgets for itself, and one job runs at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import toy
from edge_agent.commands.fleet_ask import survey
from edge_agent.commands.local import LocalAgent, LocalBroker
from edge_agent.core.errors import Misconfigured
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.settings import OWN_MODEL, Config, Gateway, Model
from tests.plant import BASE, Plant, known_windows, plant_at, toy_agent, wait_until
from tests.scripts import edge_agent

HUM = toy.CLASSES[0]
PUMPS = f"{BASE}/models/pumps"


@pytest.fixture
def agent(tmp_path: Path, broker: LocalBroker, toy_release: Path) -> Iterator[LocalAgent]:
    """A gateway whose pumps have a model of their own."""
    extra = f'[forget]\nmin_windows = 32\n[models.pumps]\nrelease = "{toy_release}"\nassets = ["pump-*"]'
    process = toy_agent(tmp_path / "agent", broker.port, toy_release, extra)
    process.ready()
    yield process
    process.kill()


@pytest.fixture
def pumps(broker: LocalBroker, agent: LocalAgent) -> Iterator[Plant]:
    """What there is to hear of the pumps' model."""
    with plant_at(broker.port, PUMPS) as plant:
        yield plant


def fill(plant: Plant, asset: str, count: int = 40) -> list[dict[str, Any]]:
    """Windows of the first class, with their label; returns the diagnoses."""
    rows = toy.windows(0, count, np.random.default_rng(0))
    return plant.answers([plant.send(row, HUM, asset) for row in rows], asset)


def known(plant: Plant, asset: str, release: Path) -> list[dict[str, Any]]:
    """The same of windows that the release knows."""
    return plant.answers([plant.send(row, HUM, asset) for row in known_windows(release, 0, 40)], asset)


def test_a_class_forgotten_by_one_model_is_known_by_the_other_and_the_certificate_says_so(
    agent: LocalAgent, plant: Plant, pumps: Plant, toy_release: Path
) -> None:
    fill(plant, "pump-3")
    fill(plant, "m1")
    pumps.raw(f"unlearn/{HUM}", b"")
    pumps.expect(f"unlearn/{HUM}/status", 120, status="successful")
    content = pumps.expect(f"unlearn/{HUM}/certificate")["content"]
    assert content["gateway"] == "toy/models/pumps"
    (other,) = [one for one in content["not_destroyed"] if one["what"] == "model"]
    assert (other["name"], other["knows"]) == (OWN_MODEL, [HUM])
    assert plant.find(f"unlearn/{HUM}/status") == []
    assert {row["class"] for row in known(plant, "m1", toy_release)} == {HUM}
    assert HUM not in {row["class"] for row in fill(plant, "pump-3")}
    # It stays so after a crash.
    agent.kill()
    agent.start()
    agent.ready(2)
    assert {row["class"] for row in known(plant, "m1", toy_release)} == {HUM}
    assert HUM not in {row["class"] for row in fill(plant, "pump-3")}


def test_a_command_to_the_whole_plant_reaches_every_model_that_knows_the_class_one_job_at_a_time(
    agent: LocalAgent, plant: Plant, pumps: Plant
) -> None:
    fill(plant, "pump-3")
    fill(plant, "m1")
    body = json.dumps({"id": "everybody"}).encode()
    plant.client.client.publish(f"unlearn/{HUM}", body, qos=1)
    for one in (plant, pumps):
        one.expect(f"unlearn/{HUM}/status", 240, status="successful", id="everybody")
    first, second = agent.events("job.started")
    erased = agent.events("class.erased")
    assert first["timestamp"] < erased[0]["timestamp"] < second["timestamp"] < erased[1]["timestamp"]
    signed = {one.expect(f"unlearn/{HUM}/certificate")["content"]["gateway"] for one in (plant, pumps)}
    assert signed == {"toy", "toy/models/pumps"}


def test_a_model_that_there_is_not_is_refused_and_shown(agent: LocalAgent, plant: Plant) -> None:
    plant.raw(f"models/fans/unlearn/{HUM}", b"")
    assert "no model listens" in plant.expect("refused", code="E_TOPIC")["reason"]


def test_the_tools_of_the_command_line_mean_the_model_that_is_named(
    agent: LocalAgent, plant: Plant, pumps: Plant, broker: LocalBroker
) -> None:
    fill(plant, "pump-3")
    config = "--config", agent.config
    asked = edge_agent("unlearn", HUM, *config, "--model", "pumps", "--wait")
    assert asked.returncode == 0, asked.stderr
    assert f"forgotten: {HUM}" in edge_agent("releases", "list", *config, "--model", "pumps").stdout
    assert f"forgotten: {HUM}" not in edge_agent("releases", "list", *config).stdout
    rows = [edge_agent("audit", "verify", *config, "--model", name).stdout.split()[0] for name in (OWN_MODEL, "pumps")]
    assert int(rows[0]) < int(rows[1])
    assert edge_agent("audit", "verify", *config, "--model", "fans").returncode == 78
    assert edge_agent("check", *config).stdout.count("ok    release") == 2
    members = survey(BrokerAddress("127.0.0.1", broker.port, "survey"), "edge")
    assert {name: member.online for name, member in members.items()} == {"toy": True, "toy/models/pumps": True}
    agent.kill()  # and the will of the one connection speaks for all
    wait_until(lambda: plant.find("status", state="offline"))
    members = survey(BrokerAddress("127.0.0.1", broker.port, "survey"), "edge")
    assert {member.online for member in members.values()} == {False}


def test_what_all_models_may_take_together_is_divided_and_each_has_a_place_of_its_own() -> None:
    model = Model(assets=("pump-*",))
    config = Config(gateway=Gateway(name="press-7", state_dir=Path("/s")), models={"pumps": model, "fans": model})
    own, pumps = config.of_model(OWN_MODEL), config.of_model("pumps")
    assert own.gateway == config.gateway
    assert own.cache.max_bytes == pumps.cache.max_bytes == config.cache.max_bytes // 3
    assert (pumps.gateway.name, pumps.gateway.state_dir) == ("press-7/models/pumps", Path("/s/models/pumps"))
    assert pumps.base == "edge/press-7/models/pumps"
    with pytest.raises(Misconfigured, match="no model 'mills'; there are: gateway, pumps, fans"):
        config.of_model("mills")


def test_a_model_that_was_taken_out_of_the_configuration_is_not_passed_over_in_silence(
    agent: LocalAgent, plant: Plant, tmp_path: Path
) -> None:
    fill(plant, "m1")
    agent.stop()
    agent.config.write_text(agent.config.read_text().partition("[models.pumps]")[0])
    checked = edge_agent("check", "--config", agent.config)
    assert checked.returncode == 1
    assert f"{agent.state_dir}/models/pumps is of no model of the configuration" in checked.stdout
    agent.start()
    agent.ready(2)
    plant.raw(f"unlearn/{HUM}", b"")
    content = plant.expect(f"unlearn/{HUM}/certificate", 120)["content"]
    (other,) = [one for one in content["not_destroyed"] if one["what"] == "model"]
    assert (other["name"], other["knows"]) == ("pumps", [HUM])


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", OWN_MODEL])
def test_a_model_has_no_name_that_leads_elsewhere(name: str) -> None:
    with pytest.raises(ValueError, match="models"):
        Config(gateway=Gateway(name="press-7"), models={name: Model(assets=("pump-*",))})
