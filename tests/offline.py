"""An agent assembled in the tests' own process: it takes up a state directory and talks to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from edge_agent.commands.assembly import assemble
from edge_agent.config import read_config
from edge_agent.served import ServedModel
from edge_agent.settings import Config
from tests.plant import wait_until


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


@pytest.fixture
def quiet() -> Iterator[None]:
    """``assemble`` leaves the logging as it is; a test before may have set it up for a process."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
