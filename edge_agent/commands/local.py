"""A broker and an agent as processes of this machine, for the demo, the benchmarks and the tests."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from edge_agent.adapters.child import python
from edge_agent.adapters.releases import Release, ReleaseStore
from edge_agent.core.errors import Misconfigured, Unreachable
from edge_agent.vault import Vault

Found = TypeVar("Found")
START_S = 20.0
_MOSQUITTO = "allow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\n"
_AMQTT = """
listeners: {{default: {{type: tcp, bind: "127.0.0.1:{port}"}}}}
plugins: {{amqtt.plugins.authentication.AnonymousAuthPlugin: {{allow_anonymous: true}}}}
"""


def wait_until(condition: Callable[[], Found], what: str, timeout_s: float = START_S) -> Found:
    """Poll until ``condition`` gives something true, and return it.

    Raises:
        TimeoutError: it did not within ``timeout_s``.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if value := condition():
            return value
        time.sleep(0.01)
    raise TimeoutError(f"{what}: not within {timeout_s:g} s")


def free_port() -> int:
    """A TCP port on loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mosquitto() -> str | None:
    """Path of the mosquitto program, which Debian keeps in /usr/sbin."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class LocalBroker:
    """mosquitto on a port of loopback, or where it is not installed, amqtt from PyPI (MQTT 3.1.1 only).

    Raises:
        Unreachable: ``E_BROKER``, neither is installed, or it does not start.
    """

    def __init__(self, folder: Path, port: int, extra: str = "") -> None:
        self.port, self._log = port, folder / "broker.log"
        folder.mkdir(parents=True, exist_ok=True)
        program = mosquitto()
        if program is not None:
            self.name, config = "mosquitto", folder / "mosquitto.conf"
            user = getpass.getuser()  # mosquitto gives up root for a user of its own, who cannot read the folder
            config.write_text(f"listener {port} 127.0.0.1\nuser {user}\n{_MOSQUITTO}{extra}\n")
            self._command = [program, "-c", str(config)]
        else:
            self.name, config = "amqtt", folder / "amqtt.yaml"
            config.write_text(_AMQTT.format(port=port))
            program = shutil.which("amqtt", path=str(Path(sys.executable).parent))
            if program is None:
                raise Unreachable("E_BROKER", "no broker: install mosquitto, or pip install 'edge-agent[demo]'")
            self._command = [program, "-c", str(config)]
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            wait_until(lambda: _listens(self.port), f"{self.name} listens on {self.port}")
        except TimeoutError as error:
            self.stop()
            raise Unreachable("E_BROKER", f"{error}; see {self._log}") from error

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for a broker that hangs."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()


class LocalAgent:
    """``edge-agent run`` with a configuration of its own in ``folder``; ``extra`` are more lines of it."""

    def __init__(
        self,
        folder: Path,
        name: str,
        port: int,
        release: Path,
        extra: str = "",
        env: Mapping[str, str] | None = None,
        *,
        http_port: int = 0,
        start: bool = True,
    ) -> None:
        self.program: tuple[str, ...] = ("edge_agent",)  # a module, and arguments that go before the agent's
        self.folder, self.state_dir = folder, folder / "state"
        self.config, self.log_path = folder / "agent.toml", folder / "agent.log"
        self._env = {**os.environ, **(env or {})}
        folder.mkdir(parents=True, exist_ok=True)
        gateway = f'[gateway]\nname = "{name}"\nstate_dir = "state"\nrelease = "{release.resolve()}"\n'
        self.config.write_text(f"{gateway}[http]\nport = {http_port}\n[mqtt]\nport = {port}\n{extra}\n")
        if start:
            self.start()

    def start(self) -> None:
        """Start the process; ``ready`` waits for its connection."""
        with self.log_path.open("ab") as log:
            command = [*python(), "-m", *self.program, "run", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._env)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        lines = self.log_path.read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [row for row in rows if row["event"] == name]

    def ready(self, times: int = 1) -> None:
        """Wait for the ``times``-th accepted connection.

        Raises:
            Misconfigured: ``E_STATE``, the agent ended instead; with the end of its log.
        """

        def decided() -> bool:
            return len(self.events("broker.connected")) >= times or self.process.poll() is not None

        wait_until(decided, "the agent is connected")
        if self.process.poll() is not None:
            raise Misconfigured("E_STATE", f"the agent ended: {self.log_path.read_text()[-2000:]}")

    def live_release(self) -> Release:
        """The release that ``current`` points to."""
        store = ReleaseStore(self.state_dir, Vault(self.state_dir))
        return store.get(store.current() or "")

    def rss_mib(self) -> float:
        """Resident memory of the serving process."""
        return _rss_mib(self.process)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


class LocalPage:
    """``edge-agent page`` beside a local agent, in whose configuration ``settings`` stand."""

    def __init__(self, agent: LocalAgent, port: int) -> None:
        self.url, self._port = f"http://127.0.0.1:{port}/", port
        self.log_path, self._config = agent.folder / "page.log", agent.config
        self.start()

    @staticmethod
    def settings(port: int, token_file: Path) -> str:
        """Lines for the agent's configuration."""
        return f'[page]\nport = {port}\ntoken_file = "{token_file}"\n'

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            Misconfigured: ``E_CONFIG``, it ended instead; with the end of its log.
        """
        with self.log_path.open("ab") as log:
            command = [*python(), "-m", "edge_agent", "page", "--config", str(self._config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: _listens(self._port) or self.process.poll() is not None, "the page listens")
        if self.process.poll() is not None:
            raise Misconfigured("E_CONFIG", f"the page ended: {self.log_path.read_text()[-2000:].strip()}")

    def rss_mib(self) -> float:
        """Resident memory."""
        return _rss_mib(self.process)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(10)


def _rss_mib(process: subprocess.Popen[bytes]) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel shows no VmRSS")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def local_gateway(
    folder: Path, name: str, release: Path, extra: str = "", env: Mapping[str, str] | None = None
) -> Iterator[tuple[LocalBroker, LocalAgent]]:
    """A broker and an agent that has connected to it; both are ended with the block."""
    broker = LocalBroker(folder / "broker", free_port())
    try:
        agent = LocalAgent(folder / "agent", name, broker.port, release, extra, env)
        try:
            agent.ready()
            yield broker, agent
        finally:
            agent.kill()
    finally:
        broker.stop()
