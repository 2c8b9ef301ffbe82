"""Replicas: they share a gateway's windows, follow its releases, and bring nothing back that it has forgotten."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import toy
from edge_agent.adapters.releases import read_release
from edge_agent.commands import local
from edge_agent.commands.fleet import Member, asked
from edge_agent.commands.local import LocalAgent, LocalBroker, wait_until
from edge_agent.commands.pull import sign
from edge_agent.followed import RECORD
from edge_agent.settings import Config, Gateway, Mqtt, Replica
from edge_agent.signing import Signer
from tests.plant import BASE, Plant, known_windows, plant_at, toy_agent
from tests.scripts import NEEDS_OPENSSL, ROOT, edge_agent
from tests.web import Server

HUM = toy.CLASSES[0]
SIGNER = Signer.of_seed(bytes(32))


@dataclass
class Site:
    """A gateway, a replica of it, and where its releases are put."""

    leader: LocalAgent
    replica: LocalAgent
    server: Server

    def export(self, digest: str) -> None:
        """Put a release of the gateway where replicas look for it."""
        folder = self.server.folder / digest
        done = edge_agent("releases", "export", digest, folder, "--config", self.leader.config)
        assert done.returncode == 0, done.stderr
        sign(folder, SIGNER)


@pytest.fixture
def site(tmp_path: Path, broker: LocalBroker, toy_release: Path) -> Iterator[Site]:
    (tmp_path / "files").mkdir()
    for words in ("ca",), ("broker", "localhost"):
        subprocess.run([ROOT / "deploy" / "pki.sh", tmp_path / "pki", *words], check=True)
    (tmp_path / "signer.pem").write_text(SIGNER.public.pem)
    server = Server(tmp_path / "files", tmp_path / "pki")
    shared = 'share = "press"\n[forget]\nmin_windows = 16\n'
    leader = toy_agent(tmp_path / "leader", broker.port, toy_release, shared)
    follow = (
        f'share = "press"\n[replica]\nof = "{BASE}"\nsource = "{server.url}"\n'
        f'[releases]\nca_file = "{tmp_path}/pki/ca.pem"\nkeys.plant = "{tmp_path}/signer.pem"\n'
    )
    replica = LocalAgent(tmp_path / "replica", "spare", broker.port, toy_release, follow, start=False)
    replica.config.write_text(replica.config.read_text().replace("[gateway]\n", '[gateway]\nmode = "replica"\n'))
    replica.start()
    try:
        leader.ready()
        replica.ready()
        yield Site(leader, replica, server)
    finally:
        leader.kill()
        replica.kill()
        server.stop()


@pytest.fixture
def spare(broker: LocalBroker, site: Site) -> Iterator[Plant]:
    """What the replica says of itself."""
    with plant_at(broker.port, "edge/spare") as plant:
        yield plant


def releases(agent: LocalAgent) -> set[str]:
    return {path.name for path in (agent.state_dir / "releases").iterdir()}


@NEEDS_OPENSSL
def test_windows_are_divided_and_each_is_answered_once(
    site: Site, plant: Plant, spare: Plant, toy_release: Path
) -> None:
    rows = plant.answers([plant.send(row, HUM) for row in known_windows(toy_release, 0, 60)])
    assert {row["class"] for row in rows} == {HUM}
    assert [row["flags"] for row in rows if "gap" in row["flags"]] == []
    assert len(plant.find("diagnosis/m1")) == 60

    def shares() -> list[int]:
        return [one.status()["counters"].get("windows_answered", 0) for one in (plant, spare)]

    local.wait_until(lambda: sum(shares()) == 60, "both have told", 30)
    assert min(shares()) > 10
    assert spare.status()["replica_of"] == BASE


@NEEDS_OPENSSL
@pytest.mark.parametrize("damaged", [False, True])
def test_a_replica_hides_what_is_forgotten_at_once_and_swaps_when_it_can_have_the_release(
    site: Site, plant: Plant, spare: Plant, toy_release: Path, damaged: bool
) -> None:
    """Where its record was damaged, it began with nothing hidden, until the broker told it."""
    plant.answers(plant.feed(0, 60))
    plant.raw(f"unlearn/{HUM}", b"")
    spare.expect("status", masked=[HUM], release=read_release(toy_release).digest)
    final = plant.expect(f"unlearn/{HUM}/status", 120, status="successful")
    wait_until(lambda: site.replica.events("release.refused"), "the release is not there yet")
    assert site.replica.events("release.refused")[0]["code"] == "E_SOURCE"
    # It hides the class from the first answer after a crash on, whatever the broker says first.
    site.replica.kill()
    if damaged:
        (site.replica.state_dir / RECORD).write_bytes(b'{"digest": "')
    seqs = plant.feed(0, 40)
    site.replica.start()
    site.replica.ready(2)
    assert HUM not in {row["class"] for row in plant.answers(seqs)}
    site.export(final["release_after"])
    spare.expect("status", 60, release=final["release_after"])
    assert releases(site.replica) == {final["release_after"]}
    assert HUM not in {row["class"] for row in plant.answers(plant.feed(0, 40))}


@NEEDS_OPENSSL
def test_a_replica_follows_a_rollback_and_no_announcement_from_before(
    site: Site, plant: Plant, spare: Plant, toy_release: Path
) -> None:
    old = read_release(toy_release).digest
    site.leader.stop()
    site.leader.config.write_text(site.leader.config.read_text() + "probation_s = 600\n")
    site.leader.start()
    site.leader.ready(2)
    plant.answers(plant.feed(0, 60))
    before = plant.find("release")[-1]
    plant.raw(f"unlearn/{HUM}", b"")
    final = plant.expect(f"unlearn/{HUM}/status", 120, status="successful")
    site.export(final["release_after"])
    spare.expect("status", 60, release=final["release_after"], masked=[HUM])
    plant.raw("release", json.dumps(before).encode())
    wait_until(lambda: site.replica.events("announcement.outdated"), "it is told")
    assert HUM not in {row["class"] for row in plant.answers(plant.feed(0, 40))}
    site.export(old)
    assert edge_agent("releases", "rollback", "--config", site.leader.config).returncode == 0
    wait_until(lambda: spare.status()["release"] == old, "the replica follows", 60)
    known = [plant.send(row, HUM) for row in known_windows(toy_release, 0, 40)]
    assert {row["class"] for row in plant.answers(known)} == {HUM}
    assert releases(site.replica) == {old}


@NEEDS_OPENSSL
def test_a_replica_that_still_has_the_old_release_hides_what_the_gateways_newest_never_knew(
    site: Site, plant: Plant, spare: Plant, toy_release: Path, tmp_path: Path
) -> None:
    # Only what the live release knew was announced as hidden: after the next release, which was trained without the
    # class, a replica that could not fetch it named the erased class again, by the old one.
    plant.answers(plant.feed(0, 60))
    plant.raw(f"unlearn/{HUM}", b"")
    plant.expect(f"unlearn/{HUM}/status", 120, status="successful")
    newest = toy.twin(toy_release, tmp_path / "newest", classes=("drone", *toy.CLASSES[1:]))
    assert edge_agent("releases", "install", newest, "--config", site.leader.config).returncode == 0
    plant.expect("release", 60, digest=read_release(newest).digest, hidden=[HUM])
    spare.expect("status", masked=[HUM])
    assert HUM not in {row["class"] for row in plant.answers(plant.feed(0, 40))}


@NEEDS_OPENSSL
def test_with_every_class_hidden_windows_are_refused_and_the_replica_lives(
    site: Site, plant: Plant, spare: Plant
) -> None:
    now = plant.expect("release")
    key, session, number = now["order"]
    plant.raw("release", json.dumps({**now, "hidden": toy.CLASSES, "order": [key, session, number + 1]}).encode())
    spare.expect("status", masked=list(toy.CLASSES))
    seqs = plant.feed(0, 40)
    spare.expect("refused", code="E_ERASED")
    plant.raw("release", json.dumps({**now, "order": [key, session, number + 2]}).encode())
    spare.expect("status", masked=[], session=spare.find("status")[0]["session"])
    answered = len(plant.answers(plant.feed(0, 20)))
    assert (answered, len(seqs)) == (20, 40)


def test_windows_that_are_divided_from_now_on_do_not_come_twice(
    tmp_path: Path, broker: LocalBroker, toy_release: Path, plant: Plant
) -> None:
    agent = toy_agent(tmp_path / "agent", broker.port, toy_release)
    try:
        agent.ready()
        for times, line in enumerate(('share = "press"\n', ""), start=2):
            agent.stop()
            agent.config.write_text(agent.config.read_text().replace('share = "press"\n', "") + line)
            agent.start()
            agent.ready(times)
            plant.heard.clear()
            plant.answers(plant.feed(0, 20))
            assert len(plant.find("diagnosis/m1")) == 20
    finally:
        agent.kill()


def new_replica(site: Site, folder: Path, env: dict[str, str] | None = None) -> LocalAgent:
    """A replica that has no release yet; not started."""
    config = site.replica.config.read_text().replace('name = "spare"', 'name = "third"')
    config = "".join(line for line in config.splitlines(keepends=True) if not line.startswith("release = "))
    third = LocalAgent(folder, "third", 0, folder, env=env, start=False)
    third.config.write_text(config)
    return third


@NEEDS_OPENSSL
def test_a_new_replica_fetches_the_release_that_is_announced_and_says_what_it_lacks(
    site: Site, tmp_path: Path, toy_release: Path
) -> None:
    third = new_replica(site, tmp_path / "third")
    third.start()
    try:
        wait_until(lambda: third.events("release.awaited"), "it waits")
        assert third.events("release.awaited")[0]["code"] == "E_SOURCE"
        site.export(read_release(toy_release).digest)
        third.ready()
        assert releases(third) == {read_release(toy_release).digest}
    finally:
        third.kill()


@NEEDS_OPENSSL
def test_systemd_is_asked_for_more_time_while_the_first_release_comes(
    site: Site, tmp_path: Path, toy_release: Path
) -> None:
    """It was asked between attempts only: on a slow line each download was killed at TimeoutStartSec, for ever."""
    digest = read_release(toy_release).digest
    site.export(digest)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        third = new_replica(site, tmp_path / "third", {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        third.start()
        try:
            told = list(iter(lambda: manager.recv(4096).decode().partition("\n")[0], "READY=1"))
        finally:
            third.kill()
    assert third.events("release.awaited") == []
    assert len(told) >= len(read_release(toy_release).card.files)
    assert set(told) == {"EXTEND_TIMEOUT_USEC=90000000"}


@NEEDS_OPENSSL
def test_what_is_no_release_is_refused_and_shown(site: Site, plant: Plant, spare: Plant) -> None:
    for payload in (b"", b"[]", b'{"digest": "../../x"}', b'{"digest": 7}', json.dumps({"digest": "0" * 64}).encode()):
        plant.raw("release", payload)
    wait_until(lambda: len(spare.find("refused", code="E_CARD")) == 5, "all are refused")
    plant.answers(plant.feed(0, 20))


@pytest.mark.parametrize(
    ("replica", "share", "words"),
    [
        (Replica(of="edge/press-7", source="https://x"), "", "a replica needs"),
        (Replica(of="edge/press-7"), "press", "a replica needs"),
        (Replica(source="https://x"), "press", "a replica needs"),
    ],
)
def test_a_replica_must_be_told_whom_it_follows(replica: Replica, share: str, words: str) -> None:
    gateway = Gateway(name="spare", mode="replica")
    with pytest.raises(ValueError, match=words):
        Config(gateway=gateway, mqtt=Mqtt(share=share), replica=replica)


def test_a_fleet_does_not_wait_for_replicas() -> None:
    members = {"press": Member("press", {"cached": {}}), "spare": Member("spare", {"replica_of": "edge/press"})}
    assert asked(members, (HUM,)) == ("press",)
