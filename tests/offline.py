"""An agent assembled in the tests' own process: it takes up a state directory and talks to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from edge_agent.agent import Agent
from edge_agent.commands.run import assemble
from edge_agent.config import Config, read_config


def config_of(folder: Path, release: Path, more: str = "") -> Config:
    text = f'[gateway]\nname = "toy"\nstate_dir = "state"\nrelease = "{release}"\n{more}'
    (folder / "agent.toml").write_text(text)
    (folder / "state").mkdir(exist_ok=True)
    return read_config(folder / "agent.toml")


def started(config: Config) -> Agent:
    agent = assemble(config)
    agent.forgetting.resume()
    return agent


def ended(agent: Agent) -> None:
    agent._cache.close()
    agent._audit.close()
    agent.forgetting._journal.close()


@pytest.fixture
def quiet() -> Iterator[None]:
    """``assemble`` leaves the logging as it is; a test before may have set it up for a process."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
