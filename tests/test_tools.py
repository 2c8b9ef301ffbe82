"""The command-line tools where somebody asks for what does not go together, or the other side is not there."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.cli import main
from edge_agent.commands.local import LocalBroker
from tests.plant import plant_at, wait_until
from tests.scripts import edge_agent

HEEDING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("unlearn", "IF-1", "--config", "a.toml", "--base", "edge/press-8"), "--config says it already: leave out"),
        (("unlearn", "IF-1", "--broker", "o.toml", "--host", "x", "--port", "1"), "leave out --host, --port"),
        (("simulate", "--config", "a.toml", "--port", "1884"), "--config says it already: leave out --port"),
        (("unlearn", "IF-1", "--timeout", "5"), "--timeout is how long --wait waits"),
        (("unlearn", "IF-1", "--base", "edge/+"), "base 'edge/+' holds + or #"),
        (("simulate", "--asset", "a#"), "asset 'a#' is not 1 to 64 of"),
        (("train", "--data", "rig", "--out", "x", "--threads", "-1"), "-1 is not in the range x>=0"),
        (("train", "--data", "rig", "--out", "x", "--width", "0"), "0 is not in the range x>=1"),
    ],
)  # fmt: skip
def test_options_that_would_be_passed_over_or_end_in_a_traceback_are_refused(words: tuple[str, ...], said: str) -> None:
    """``--config`` beat ``--base`` silently, so that another gateway forgot than the one that was named."""
    run = CliRunner().invoke(main, words)
    assert (run.exit_code, said in run.output) == (2, True), run.output


def test_training_into_a_file_is_refused_before_the_data_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = CliRunner().invoke(main, ["train", "--data", "rig", "--out", str(tmp_path / "file")])
    assert (run.exit_code, f"error: E_DATA: {tmp_path / 'file'} is no folder" in run.output) == (78, True)


@contextmanager
def simulating(broker: LocalBroker) -> Iterator[subprocess.Popen[str]]:
    """Windows that come without an end."""
    program = f"{HEEDING}; from edge_agent.cli import main; main()"
    command = [sys.executable, "-c", program, "simulate", "--rate", "200", "--port", str(broker.port)]
    with plant_at(broker.port, "edge/gateway") as plant:
        plant.client.subscribe(["edge/gateway/windows/+"])
        tool = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: plant.client.heard.qsize() > 100 or tool.poll() is not None, 60)
            yield tool
        finally:
            tool.kill()
            tool.wait()


def test_a_simulation_without_an_end_runs_until_it_is_interrupted(broker: LocalBroker) -> None:
    """The bar without a total ended it with an OverflowError, in the very line of the README's first steps."""
    with simulating(broker) as tool:
        tool.send_signal(signal.SIGINT)
        out, said = tool.communicate(timeout=30)
    assert (tool.returncode, "Traceback" in said) == (0, False), said
    assert out.startswith("sent ")


def test_windows_that_nobody_answers_are_a_failure(broker: LocalBroker) -> None:
    run = edge_agent("simulate", "--rate", 500, "--count", 5, "--port", broker.port)
    assert (run.returncode, run.stdout) == (1, "sent 5, answered 0, right 0\n")


def test_a_simulation_ends_when_its_broker_does(broker: LocalBroker) -> None:
    """It went on counting what it "sent", and kept every window in memory."""
    with simulating(broker) as tool:
        broker.kill()
        _, said = tool.communicate(timeout=30)
    assert tool.returncode == 1
    assert "error: E_BROKER: the broker hung up after" in said
