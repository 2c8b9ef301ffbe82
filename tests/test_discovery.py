"""Discovery messages: what they say of topics and values is so, read as Home Assistant reads them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from jinja2 import Environment

from benchmarks import toy
from edge_agent.commands.local import LocalBroker
from tests.plant import BASE, Plant, plant_at, wait_until
from tests.test_http import Start

WINDOW = toy.windows(0, 1, np.random.default_rng(0))[0]


def announced(plant: Plant) -> dict[str, dict[str, Any]]:
    """Discovery messages by topic."""
    plant.heard.extend(plant.client.pending())
    return {one.topic: one.content for one in plant.heard if one.topic.startswith("homeassistant/") and one.content}


def read(part: dict[str, Any], message: dict[str, Any]) -> str:
    """The value of a component, from a message on its topic."""
    return Environment(autoescape=False).from_string(part["value_template"]).render(value_json=message)


def test_assets_and_the_gateway_appear_with_values_that_can_be_read(start_agent: Start, broker: LocalBroker) -> None:
    with plant_at(broker.port) as plant:
        plant.client.subscribe(["homeassistant/#"])
        start_agent('discovery = "homeassistant"')
        plant.answers([plant.send(WINDOW, asset="de.x") for _ in range(3)], "de.x")
        asset, gateway = (f"homeassistant/device/toy/{name}/config" for name in ("asset_de_dx", "gateway"))
        wait_until(lambda: {asset, gateway} <= announced(plant).keys())
        content = announced(plant)[asset]
        (diagnosis, *_) = plant.find("diagnosis/de.x")
        parts = content["components"]
        assert {part["state_topic"] for part in parts.values()} == {f"{BASE}/diagnosis/de.x"}
        assert read(parts["class"], diagnosis) == diagnosis["class"]
        assert float(read(parts["confidence"], diagnosis)) == round(100 * diagnosis["confidence"], 1)
        assert read(parts["unusual"], {**diagnosis, "flags": ["unusual"]}) == "ON"
        assert read(parts["unusual"], {**diagnosis, "flags": []}) == "OFF"
        assert content["device"]["via_device"] == announced(plant)[gateway]["device"]["identifiers"][0]
        status = plant.expect("status", state="online")
        (availability,) = content["availability"]
        assert read(availability, status) == "online"
        about = announced(plant)[gateway]["components"]
        assert read(about["release"], status) == status["release"][:12]
        assert read(about["masked"], status) == "none"
        assert read(about["masked"], {**status, "masked": ["hum", "whine"]}) == "hum, whine"
        assert read(about["answered"], {**status, "counters": {}}) == "0"


def test_nothing_is_announced_unless_it_is_asked_for(start_agent: Start, plant: Plant) -> None:
    plant.client.subscribe(["homeassistant/#"])
    start_agent()
    plant.answers(plant.feed(0, 3))
    assert announced(plant) == {}


def test_ids_are_unique_and_every_message_is_json(start_agent: Start, plant: Plant) -> None:
    plant.client.subscribe(["homeassistant/#"])
    start_agent('discovery = "homeassistant"')
    for asset in ("m1", "m2"):
        plant.answers([plant.send(WINDOW, asset=asset)], asset)
    wait_until(lambda: len(announced(plant)) == 3)
    ids = [part["unique_id"] for one in announced(plant).values() for part in one["components"].values()]
    assert len(ids) == len(set(ids)) == 9
    json.dumps(announced(plant))
