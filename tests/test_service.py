"""The package on a machine with a real systemd: installed, started, watched, upgraded, removed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import toy
from edge_agent.commands.local import LocalBroker, free_port, wait_until
from tests.machine import NEEDS_A_MACHINE, Machine, booted
from tests.plant import Plant, plant_at

pytestmark = NEEDS_A_MACHINE
CONFIG = "--config", "/etc/edge-agent/agent.toml"


@dataclass(frozen=True)
class Gateway:
    """A machine on which the package is installed, and its plant."""

    machine: Machine
    plant: Plant


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, package: Path, toy_release: Path) -> Path:
    """What the machine is given: the package and a release."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "edge-agent.deb").hardlink_to(package)
    subprocess.run(["cp", "-R", toy_release, folder / "release"], check=True)
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Gateway]:
    """The package installed, a release chosen, the service started."""
    folder = tmp_path_factory.mktemp("machine")
    broker = LocalBroker(folder / "broker", free_port())
    try:
        with booted(folder, shared) as machine, plant_at(broker.port) as plant:
            machine.run("dpkg", "-i", "/shared/edge-agent.deb")
            edit = f's/^name = .*/name = "toy"/; s/^port = .*/port = {broker.port}/'
            machine.run("sed", "-i", edit, CONFIG[1])
            yield Gateway(machine, plant)
    finally:
        broker.stop()


def test_the_package_serves_forgets_and_hands_over_a_certificate(gateway: Gateway) -> None:
    machine, plant = gateway.machine, gateway.plant
    units = [
        f"/usr/lib/systemd/system/{name}.service" for name in ("edge-agent", "edge-agent-setup", "edge-agent-page")
    ]
    assert machine.run("systemd-analyze", "verify", *units) == ""
    machine.run("systemctl", "start", "edge-agent", expected=1)
    # Without a release it does not try again and again.
    assert (machine.show("ExecMainStatus"), machine.show("ActiveState")) == ("78", "failed")
    assert "E_NO_RELEASE" in machine.journal()
    machine.run("edge-agent", "releases", "install", *CONFIG, "/shared/release")
    assert machine.run("edge-agent", "check", *CONFIG).count("ok  ") == 8
    machine.run("systemctl", "start", "edge-agent")
    assert machine.show("ActiveState") == "active"
    plant.answers(plant.feed(0, 40))
    machine.run("edge-agent", "unlearn", *CONFIG, toy.CLASSES[0], "--wait")
    certificate = plant.expect(f"unlearn/{toy.CLASSES[0]}/certificate")
    machine.run("sh", "-c", f"edge-agent certificate key {' '.join(CONFIG)} >/tmp/key.pem")
    (document,) = machine.run("find", "/var/lib/edge-agent/certificates", "-type", "f").split()
    assert toy.CLASSES[0] in machine.run("edge-agent", "certificate", "verify", document, "--key", "/tmp/key.pem")
    assert "none removed" in machine.run("edge-agent", "audit", "verify", *CONFIG)
    # Whether the clock is synchronised can be asked for within the sandbox.
    assert certificate["content"]["issued"]["synchronised"] in (True, False)


def test_all_of_the_state_belongs_to_the_service_also_what_root_has_installed(gateway: Gateway) -> None:
    listed = gateway.machine.run("find", "/var/lib/edge-agent", "-printf", "%u %M %p\\n").splitlines()
    assert len(listed) > 10
    assert {line.split()[0] for line in listed} == {"edge-agent"}
    assert listed[0].split()[1] == "drwx------"
    # The key that wraps all others is not among it.
    assert not [line for line in listed if line.endswith(("master.key", "master.copy"))]
    assert gateway.machine.run("stat", "-c", "%U %a", "/etc/credstore/edge-agent-master-key").split() == ["root", "600"]


def test_a_hung_agent_is_restarted_by_systemd(gateway: Gateway) -> None:
    machine, plant = gateway.machine, gateway.plant
    machine.write("/run/systemd/system/edge-agent.service.d/test.conf", "[Service]\nWatchdogSec=3\nRestartSec=1\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "edge-agent")
    plant.answers(plant.feed(1, 5))
    machine.run("kill", "-STOP", machine.show("MainPID"))
    wait_until(lambda: machine.show("NRestarts") == "1", "systemd has restarted it", 60)
    assert "Watchdog timeout" in machine.journal()
    plant.answers(plant.feed(1, 5))


def test_an_upgrade_keeps_configuration_key_and_state_and_goes_on_serving(gateway: Gateway) -> None:
    machine, plant = gateway.machine, gateway.plant
    kept = "cd /; sha256sum etc/edge-agent/agent.toml etc/credstore/* var/lib/edge-agent/current/card.json"
    before, process = machine.run("sh", "-c", kept), machine.show("MainPID")
    machine.run("dpkg", "-i", "/shared/edge-agent.deb")
    assert machine.run("sh", "-c", kept) == before
    wait_until(lambda: machine.show("ActiveState") == "active", "it serves again")
    assert machine.show("MainPID") not in ("0", process)
    plant.answers(plant.feed(1, 5))


def test_removing_the_package_leaves_the_state_and_purging_it_nothing(gateway: Gateway) -> None:
    machine = gateway.machine
    machine.run("dpkg", "--remove", "edge-agent")
    machine.run("pgrep", "-u", "edge-agent", expected=1)
    assert "journal.jsonl" in machine.run("ls", "/var/lib/edge-agent")
    machine.run("test", "-e", "/opt/edge-agent", expected=1)
    machine.run("dpkg", "--purge", "edge-agent")
    machine.run("rm", "-r", "/run/systemd/system/edge-agent.service.d")  # of a test above
    left = "find /etc /opt /run /srv /usr /var -xdev -name '*edge-agent*'"
    assert machine.run("sh", "-c", f"{left} -not -path '/var/log/*' -not -path '/var/cache/man/*'") == ""
