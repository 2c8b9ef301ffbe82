"""One command, delivered a thousand times in every way that MQTT knows: one run."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks import toy
from edge_agent.adapters.audit import read_rows
from edge_agent.adapters.journal import Journal
from edge_agent.commands.local import LocalAgent, LocalBroker
from edge_agent.schemas.commands import parse_unlearn
from edge_agent.schemas.messages import JobState
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
    wait_until(lambda: plant.status()["counters"].get("commands_accepted", 0) >= 299)
    assert len(agent.events("job.started")) == 1
    rows = [row["event"] for row in read_rows(agent.state_dir / "audit.jsonl")]
    assert rows.count("command.accepted") == rows.count("class.erased") == 1
    journal = [json.loads(line[9:]) for line in (agent.state_dir / "journal.jsonl").read_text().splitlines()]
    assert {row["id"] for row in journal} == {"once"}


def test_an_older_command_that_is_delivered_again_does_not_hide_what_the_newest_has_come_to(
    start_agent: Callable[..., LocalAgent], plant: Plant, broker: LocalBroker
) -> None:
    """A late repeat of a command that had failed was retained over the success of the next one."""
    agent = start_agent('[forget]\nknown_again = "mask"')  # so that the release still serves
    agent.stop()
    journal, body = Journal(agent.state_dir / "journal.jsonl"), b'{"id": "first"}'
    digest = parse_unlearn("whine", body).digest
    journal.write(JobState("first", ("whine",), digest, "failed", "gating", code="E_GATE", reason="too much harm"))
    journal.write(JobState("second", ("whine",), "d", "successful", "done"))
    journal.close()
    agent.start()
    agent.ready(times=2)
    plant.expect("unlearn/whine/status", id="second")
    plant.raw("unlearn/whine", body)
    plant.expect("unlearn/whine/status", id="first", status="failed")
    wait_until(lambda: plant.find("unlearn/whine/status")[-1]["id"] == "second")  # who was connected before
    with plant_at(broker.port) as later:
        later.expect("unlearn/whine/status")
        assert [row["id"] for row in later.find("unlearn/whine/status")] == ["second"]
