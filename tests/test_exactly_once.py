"""One command, delivered a thousand times in every way that MQTT knows: one run."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks import toy
from edge_agent.adapters.audit import read_rows
from edge_agent.commands.local import LocalAgent, LocalBroker
from tests.plant import Plant, plant_at, wait_until

WHINE = toy.CLASSES.index("whine")
BODY = b'{"id": "once", "reason": "again and again"}'
FORGET_S = 120.0


def test_a_thousand_deliveries_of_one_command_are_one_run(
    start_agent: Callable[..., LocalAgent], plant: Plant, broker: LocalBroker
) -> None:
    agent = start_agent()
    plant.answers(plant.feed(WHINE, 64, seed=11))
    for number in range(700):  # before, during and after the run
        if number % 2:
            plant.raw("unlearn/whine", BODY)
        else:
            plant.client.client.publish("unlearn/whine", BODY, qos=1)
    plant.expect("unlearn/whine/status", FORGET_S, status="successful", id="once")
    agent.kill()
    plant.raw("unlearn/whine", BODY, retain=True)  # retained commands are refused, in this start and the next
    for _ in range(100):
        plant.raw("unlearn/whine", BODY)
    agent.start()
    agent.ready(times=2)
    with plant_at(broker.port) as other:  # another sender, with the same id
        for _ in range(199):
            other.raw("unlearn/whine", BODY)
        other.raw("unlearn/whine", b'{"id": "once", "reason": "something else"}')
        refused = other.expect("unlearn/whine/status", status="rejected", code="E_SAME_ID")
    assert refused["id"] == "once"
    wait_until(lambda: (plant.find("status") or [{}])[-1]["counters"].get("commands_accepted", 0) >= 299)
    assert len(agent.events("job.started")) == 1
    rows = [row["event"] for row in read_rows(agent.state_dir / "audit.jsonl")]
    assert rows.count("command.accepted") == rows.count("class.erased") == 1
    journal = [json.loads(line[9:]) for line in (agent.state_dir / "journal.jsonl").read_text().splitlines()]
    assert {row["id"] for row in journal} == {"once"}
