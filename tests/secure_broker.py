"""A broker with deploy/mosquitto's configuration and deploy/pki.sh's certificates, and who connects to it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_agent.commands.client import ToolClient, connected
from edge_agent.commands.local import LocalAgent, LocalBroker, free_port
from edge_agent.mqtt_client import BrokerAddress
from tests.scripts import ROOT

CONF = (ROOT / "deploy" / "mosquitto" / "edge-agent.conf").read_text()


def pki(folder: Path, *words: str, days: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run deploy/pki.sh."""
    environment = {**os.environ, **({} if days is None else {"DAYS": str(days)})}
    command: list[str | Path] = [ROOT / "deploy" / "pki.sh", folder, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Site:
    """A broker, and the folder in which everybody's certificate lies."""

    broker: LocalBroker
    folder: Path

    def address(self, name: str, authority: Path | None = None, folder: Path | None = None) -> BrokerAddress:
        folder = folder or self.folder
        files = authority or self.folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key"
        port, client = self.broker.port, f"{name}-{os.urandom(4).hex()}"
        return BrokerAddress("localhost", port, client, "auto", None, None, *files, session_expiry_s=0)

    @contextmanager
    def client(self, name: str) -> Iterator[ToolClient]:
        with connected(self.address(name)) as client:
            yield client


def site_at(folder: Path, *hosts: str) -> Site:
    for words in ("ca",), ("broker", *hosts), ("agent", "toy"), ("agent", "other"), ("operator", "anna"):
        assert pki(folder, *words).returncode == 0
    assert pki(folder, "replica", "spare", "toy").returncode == 0
    assert pki(folder, "page", "desk", "toy").returncode == 0
    assert pki(folder, "monitor", "wall").returncode == 0
    assert pki(folder, "sensor", "m1", "toy").returncode == 0
    port = free_port()
    conf = CONF.replace("/etc/mosquitto/edge-agent", str(folder)).replace("listener 8883", f"listener {port} 127.0.0.1")
    assert conf.count(str(folder)) == 5
    return Site(SecureBroker(folder / "broker", port, conf), folder)


class SecureBroker(LocalBroker):
    """mosquitto with a whole configuration of its own."""

    def __init__(self, folder: Path, port: int, conf: str) -> None:
        self._conf = conf
        super().__init__(folder, port)

    def start(self) -> None:
        config = Path(self._command[-1])
        user = re.findall(r"^user .*$", config.read_text(), re.MULTILINE)
        config.write_text("\n".join([*user, self._conf, f"persistence_location {config.parent}/"]))
        super().start()


def tls_lines(site: Site, client: str) -> list[str]:
    """Of a section [mqtt]."""
    names = {"ca_file": "ca.pem", "cert_file": f"{client}.pem", "key_file": f"{client}.key"}
    return ['host = "localhost"', *(f'{key} = "{site.folder / name}"' for key, name in names.items())]


def agent_of(site: Site, folder: Path, release: Path, client: str = "toy", more: str = "") -> LocalAgent:
    extra = "\n".join([*tls_lines(site, client), "[forget]", "min_windows = 8", more])
    return LocalAgent(folder, "toy", site.broker.port, release, extra, {"OMP_NUM_THREADS": "1"})
