from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from benchmarks import models, toy
from edge_agent.adapters.workplace import Workplace
from edge_agent.commands.local import LocalAgent, LocalBroker, LocalPage, free_port
from edge_agent.commands.quantise import quantise
from tests.page_kit import TOKEN, Pages
from tests.plant import Plant, plant_at, toy_agent
from tests.scripts import ROOT

# Each run trains the release of the tests anew: with these kernels it is one network on every x86-64. How a method
# forgets is tested on the network of tests/model_fixtures.py, whose weights are a file.
models.same_kernels()
# A busy machine is not a failure: what takes long is measured in benchmarks.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def toy_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real release, trained on the toy data set in a few seconds."""
    return toy.release(tmp_path_factory.mktemp("toy") / "release")


@pytest.fixture(scope="session")
def int8_release(toy_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an int8 model beside the one in float32."""
    out = tmp_path_factory.mktemp("toy-int8") / "release"
    quantise(toy_release, out)
    return out


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package, as ``make deb`` builds it."""
    folder = tmp_path_factory.mktemp("package")
    build = subprocess.run([ROOT / "deploy" / "deb.sh", folder], capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stderr[-3000:]
    return Path(build.stdout.splitlines()[-1])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    server = LocalBroker(tmp_path / "broker", free_port(), f"persistence true\npersistence_location {tmp_path}/broker/")
    yield server
    server.stop()


@pytest.fixture
def start_agent(tmp_path: Path, toy_release: Path, broker: LocalBroker) -> Iterator[Callable[..., LocalAgent]]:
    """Starts an agent and waits until it is connected; all are stopped at the end."""
    started: list[LocalAgent] = []

    def start(extra: str = "", **options: Any) -> LocalAgent:
        agent = toy_agent(tmp_path / f"agent{len(started)}", broker.port, toy_release, extra, **options)
        started.append(agent)
        agent.ready()
        return agent

    yield start
    for agent in started:
        if agent.process.poll() is None:
            agent.kill()
        Workplace(agent.state_dir).clear()  # in memory, which nobody else clears


@pytest.fixture
def plant(broker: LocalBroker) -> Iterator[Plant]:
    with plant_at(broker.port) as client:
        yield client


@pytest.fixture
def pages(tmp_path: Path, start_agent: Callable[..., LocalAgent]) -> Iterator[Pages]:
    """Starts an agent and its page; all are stopped at the end."""
    started: list[LocalPage] = []

    def start(extra: str = "", page: str = "") -> tuple[LocalAgent, LocalPage]:
        port, token_file = free_port(), tmp_path / "token"
        token_file.write_text(f"{TOKEN}\n")
        agent = start_agent(f"{LocalPage.settings(port, token_file)}{page}{extra}")
        started.append(LocalPage(agent, port))
        return agent, started[-1]

    yield start
    for one in started:
        assert one.stop() == 0, one.log_path.read_text()
