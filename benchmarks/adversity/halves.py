"""Is anything half done? What the release, the journal, the tombstones and the retained topics say must agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from edge_agent.adapters.journal import read_states
from edge_agent.adapters.releases import Release
from edge_agent.commands.client import ToolClient
from edge_agent.commands.local import LocalAgent, wait_until
from edge_agent.commands.releases import tombstones
from edge_agent.schemas.messages import JobState

TOPICS_S = 15.0


def states(agent: LocalAgent) -> list[JobState]:
    """The commands in the agent's journal."""
    return read_states(agent.state_dir / "journal.jsonl")


def ended(agent: LocalAgent) -> bool:
    """Whether there are commands, and all have ended."""
    return all(state.finished for state in states(agent)) and bool(states(agent))


def halves(agent: LocalAgent, plant: ToolClient, base: str) -> Iterator[str]:
    """What does not agree, once all commands have ended; ``plant`` has subscribed to statuses and the release."""
    release = agent.live_release()  # verifies every hash
    forgotten = {name for state in states(agent) if state.status == "successful" for name in state.classes}
    if set(release.card.forgotten) != forgotten:
        yield f"forgotten by the journal: {sorted(forgotten)}, by the live release: {list(release.card.forgotten)}"
    if (dead := tombstones(agent.state_dir, release.card)) != forgotten:
        yield f"forgotten by the journal: {sorted(forgotten)}, tombstones: {sorted(dead)}"
    retained: dict[str, Any] = {}
    with suppress(TimeoutError):
        wait_until(lambda: _agree(agent, plant, base, retained, release), "the topics are right", TOPICS_S)
        return
    yield f"retained topics: {json.dumps(retained)[:300]}"


def _agree(agent: LocalAgent, plant: ToolClient, base: str, retained: dict[str, Any], release: Release) -> bool:
    for heard in plant.pending():
        retained[heard.topic] = heard.content
    newest = {state.name: state for state in states(agent)}
    told = {name: retained.get(f"{base}/unlearn/{name}/status", {}).get("status") for name in newest}
    right = {name: state.status for name, state in newest.items()}
    return told == right and retained.get(f"{base}/release", {}).get("digest") == release.digest
