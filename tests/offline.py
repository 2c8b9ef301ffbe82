"""An agent assembled in the tests' own process: it takes up a state directory and talks to nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from benchmarks import toy
from edge_agent.adapters.journal import Journal
from edge_agent.commands.assembly import assemble
from edge_agent.config import read_config
from edge_agent.schemas.messages import JobState
from edge_agent.served import ServedModel
from edge_agent.settings import Config
from tests.plant import store_at, wait_until


def config_of(folder: Path, release: Path, more: str = "") -> Config:
    text = f'[gateway]\nname = "toy"\nstate_dir = "state"\nrelease = "{release}"\n{more}'
    (folder / "agent.toml").write_text(text)
    (folder / "state").mkdir(exist_ok=True)
    return read_config(folder / "agent.toml")


def started(config: Config) -> ServedModel:
    """The gateway's own model."""
    model = assemble(config).models[0]
    assert isinstance(model, ServedModel)
    model.forgetting.resume()
    return model


def polled(model: ServedModel) -> None:
    """Turns of the agent until no command is left, without the seconds that it waits after a failure."""

    def turn() -> bool:
        model.forgetting._wait_until_s = float("-inf")
        model.poll(may_start=False)
        return model.forgetting.at_work is None

    wait_until(turn)


def ended(model: ServedModel) -> None:
    model.close()
    model.forgetting._journal.close()


def done(name: str, **more: Any) -> JobState:
    return JobState(f"job-{name}", (name,), "d", "successful", "done", **more)


def on_probation(tmp_path: Path, toy_release: Path, **state: Any) -> tuple[str, str]:
    """The toy release has forgotten "whine" and is kept; digests before and after."""
    store = store_at(tmp_path / "state")
    before = store.add(toy_release).digest
    after = store.add(toy.twin(toy_release, tmp_path / "child", forgotten=("whine",), parent=before)).digest
    store.set_current(after)
    journal = Journal(tmp_path / "state" / "journal.jsonl")
    journal.write(done("whine", **{"kept_s": 600.0, "release_before": before, "release_after": after, **state}))
    journal.close()
    return before, after


def committing(model: ServedModel, name: str, before: str, after: str) -> None:
    """A command whose candidate is stored and about to go live."""
    state = replace(done(name), status="executing", phase="committing", release_before=before, release_after=after)
    model.forgetting._journal.write(state)


def certified(model: ServedModel) -> dict[str, Any]:
    """What the certificate of its only command says."""
    document = model.forgetting._erasure.certificate(model.forgetting._journal.states()[0])
    content: dict[str, Any] = json.loads(document or b"")["content"]
    return content


@pytest.fixture
def quiet() -> Iterator[None]:
    """``assemble`` leaves the logging as it is; a test before may have set it up for a process."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
