"""``edge-agent fleet``: ask many gateways to forget, collect what they answer, and believe only what is signed.

All state is at the broker, retained: if the connection is lost, the tool connects again and hears it all once more.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from edge_agent.commands.client import Heard, ToolClient, connected
from edge_agent.commands.unlearn import Signing
from edge_agent.core.errors import Misconfigured, Unreachable, Untrusted
from edge_agent.files import storage, write_atomically
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.commands import parse_unlearn
from edge_agent.schemas.messages import TERMINAL, dump
from edge_agent.schemas.topics import PLANT_WIDE_UNLEARN, Topics
from edge_agent.settings import MODELS
from edge_agent.signing import PublicKey, opened, parse_public_key, read_public_key

QUIET_S: Final = 1.0  # retained births have all come when none has for so long
LONGEST_GATHER_S: Final = 60.0
RETRY_S: Final = 2.0
MEMBER: Final = re.compile(rf"(?P<name>[^/]+(?:/{MODELS}/[^/]+)?)/(?P<rest>status|unlearn/.+)")
Tell = Callable[[Mapping[str, "Member"]], None]


@dataclass
class Member:
    """One gateway, or one further model of it, as it has shown itself."""

    gateway: str
    birth: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    certificate: bytes | None = None
    problem: str | None = None  # why the certificate is not believed
    verified: bool = False
    host_away: bool = False  # what its gateway's will said

    @property
    def host(self) -> str:
        """The gateway's name, whose key signs for its models as well."""
        return self.gateway.partition("/")[0]

    def knows(self, classes: tuple[str, ...]) -> bool:
        """Whether it answers when all are asked to forget these."""
        return not set(classes).isdisjoint(self.birth.get("cached", ()))

    @property
    def forgets(self) -> bool:
        """Whether it can be asked; a replica follows another gateway."""
        return "replica_of" not in self.birth

    @property
    def online(self) -> bool:
        """Whether its last birth says so; its will says when it is gone."""
        return self.birth.get("state") == "online" and not self.host_away

    @property
    def ended(self) -> bool:
        """Whether no more is to be expected of it."""
        over = self.status.get("status") in TERMINAL
        return over and (self.status.get("status") != "successful" or self.certificate is not None)

    @property
    def succeeded(self) -> bool:
        """Whether it has forgotten, and its certificate proves it."""
        return self.status.get("status") == "successful" and self.verified


class Fleet:
    """What is heard from all gateways below one topic.

    Args:
        under: what stands before a gateway's name in its topics.
        keys: public keys that gateways must sign with, by name; for others the key in their birth is believed.
    """

    def __init__(self, under: str, keys: Mapping[str, PublicKey]) -> None:
        self._under, self._keys = under, keys
        self.members: dict[str, Member] = {}
        self._states: dict[str, Any] = {}  # what the last birth or will said, by name
        self.command: tuple[str, str] | None = None  # name of the classes, id

    def topics(self) -> list[str]:
        """What to listen to: gateways, and their further models, which look like gateways."""
        bases = Topics(f"{self._under}/+"), Topics(f"{self._under}/+/{MODELS}/+")
        births = [base.status for base in bases]
        if self.command is None:
            return births
        name = self.command[0]
        return births + [topic for base in bases for topic in (base.unlearn_status(name), base.certificate(name))]

    def expect(self, gateways: tuple[str, ...]) -> None:
        """These belong to the fleet, whether they have been heard or not; no others do."""
        self.members = {name: self.members.get(name, Member(name)) for name in gateways}

    def hear(self, heard: Heard) -> None:
        """Take in a message."""
        start = f"{self._under}/"
        found = MEMBER.fullmatch(heard.topic.removeprefix(start))
        if not heard.topic.startswith(start) or found is None or not isinstance(heard.content, dict):
            return
        gateway, rest = found["name"], found["rest"]
        if rest == "status":
            self._states[gateway] = heard.content.get("state")
        if rest == "status" and self.command is None:
            self.members.setdefault(gateway, Member(gateway))
        member = self.members.get(gateway)
        if member is None:
            return
        for one in self.members.values():  # a will is the gateway's alone
            one.host_away = self._states.get(one.host) == "offline"
        if rest == "status":
            member.birth |= heard.content
            self._check(member)
        elif rest.endswith("/certificate"):
            self._certified(member, heard)
        elif self.command is not None and heard.content.get("id") == self.command[1]:
            member.status = heard.content

    def _certified(self, member: Member, heard: Heard) -> None:
        """A certificate of another command is an old one, still retained."""
        assert self.command is not None
        content = heard.content.get("content")
        command = content.get("command") if isinstance(content, dict) else None
        if isinstance(command, dict) and command.get("id") == self.command[1]:
            member.certificate = heard.payload
            self._check(member)

    def _check(self, member: Member) -> None:
        if member.certificate is None or self.command is None:
            return
        try:
            content = opened(member.certificate, self._key_of(member))
            said = content["gateway"], ",".join(content["command"]["classes"])
            if said != (member.gateway, self.command[0]):
                raise Untrusted("E_SIGNATURE", f"it is for {said[1]} of gateway {said[0]}")
        except (Untrusted, Misconfigured) as error:
            member.problem, member.verified = error.reason, False
        else:
            member.problem, member.verified = None, True

    def _key_of(self, member: Member) -> PublicKey:
        if (key := self._keys.get(member.host)) is not None:
            return key
        return parse_public_key(str(member.birth.get("public_key", "")), f"the birth of {member.gateway}")

    def report(self) -> dict[str, Any]:
        """What happened, with the certificates as they were signed."""
        assert self.command is not None
        rows = {}
        for name, one in sorted(self.members.items()):
            rows[name] = {
                "succeeded": one.succeeded,
                "online": one.online,
                **{key: one.status.get(key) for key in ("status", "phase", "code", "reason")},
                "certificate": one.certificate.decode() if one.certificate else None,
                "certificate_verified": one.verified,
                "certificate_problem": one.problem,
                "key_pinned": one.host in self._keys,
            }
        succeeded = sum(one.succeeded for one in self.members.values())
        total = {"asked": len(rows), "succeeded": succeeded, "all_succeeded": succeeded == len(rows) > 0}
        return {"command": {"id": self.command[1], "classes": self.command[0].split(",")}, **total, "gateways": rows}


@dataclass(frozen=True)
class Wish:
    """What is asked of the fleet."""

    classes: tuple[str, ...]
    gateways: tuple[str, ...]  # none: all that the broker knows
    reason: str
    valid_s: float
    signing: Signing | None = None


def pinned(folder: Path | None) -> dict[str, PublicKey]:
    """The public keys in a folder, ``<gateway>.pem``.

    Raises:
        Misconfigured: ``E_KEY``.
    """
    return {path.stem: read_public_key(path) for path in sorted(folder.glob("*.pem"))} if folder else {}


def survey(address: BrokerAddress, under: str) -> dict[str, Member]:
    """All gateways that the broker has a birth of.

    Raises:
        Unreachable: ``E_BROKER``.
    """
    fleet = Fleet(under, {})
    with connected(address) as client:
        _gather(client, fleet)
    return fleet.members


def unlearn(
    address: BrokerAddress, under: str, wish: Wish, keys: Mapping[str, PublicKey], timeout_s: float, tell: Tell
) -> dict[str, Any]:
    """Ask, wait until all have ended or the time is over, and return the report.

    A gateway that is away gets the command from the broker when it comes back, if that is in time.

    Raises:
        Refused: the classes are malformed.
        Unreachable: ``E_BROKER``, before anything was asked; or no gateway is known.
    """
    fleet, deadline_s = Fleet(under, keys), time.monotonic() + timeout_s
    with connected(address) as client:
        _gather(client, fleet)
        fleet.expect(wish.gateways or asked(fleet.members, wish.classes))
        if not fleet.members:
            raise Unreachable("E_BROKER", f"the broker knows no gateway below {under}/")
        _ask(client, fleet, under, wish)
        done = _listen(client, fleet, deadline_s, tell)
    while not done and time.monotonic() < deadline_s:
        time.sleep(RETRY_S)
        try:
            with connected(address) as client:
                client.subscribe(fleet.topics())
                done = _listen(client, fleet, deadline_s, tell)
        except Unreachable:
            continue
    return fleet.report()


def asked(members: Mapping[str, Member], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Who answers when all are asked: of each gateway the models that know a class, or itself if none does."""
    knowing = [name for name, one in members.items() if one.knows(classes)]
    hosts = {members[name].host for name in knowing}
    own = ((name, one) for name, one in members.items() if name == one.host and one.forgets and name not in knowing)
    # A will does not say what its gateway knows: it is asked in any case.
    return (*knowing, *(name for name, one in own if name not in hosts or "cached" not in one.birth))


def store_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report, durably.

    Raises:
        StorageFailed: it cannot be written.
    """
    with storage(f"{path} cannot be written"):
        write_atomically(path, json.dumps(report, indent=1).encode() + b"\n")


def _gather(client: ToolClient, fleet: Fleet) -> None:
    """Hear all that is retained; of what a large fleet says meanwhile there is no end."""
    client.subscribe(fleet.topics())
    now_s = time.monotonic()
    until_s, deadline_s = now_s + QUIET_S, now_s + LONGEST_GATHER_S
    while (left_s := min(until_s, deadline_s) - time.monotonic()) > 0:
        heard = next(client.listen(left_s), None)
        if heard is None:
            return
        fleet.hear(heard)
        if heard.retained:
            until_s = time.monotonic() + QUIET_S


def _ask(client: ToolClient, fleet: Fleet, under: str, wish: Wish) -> None:
    """One message for all, or one for each that was named. The broker drops what has expired, and so do the agents."""
    name, id_ = ",".join(sorted(set(wish.classes))), f"fleet-{uuid.uuid4().hex[:12]}"
    until = datetime.now(timezone.utc) + timedelta(seconds=wish.valid_s)
    content: dict[str, Any] = {"id": id_, "reason": wish.reason, "expires_at": until.isoformat(timespec="seconds")}
    if wish.signing is None and not wish.gateways:
        messages = {f"{PLANT_WIDE_UNLEARN}/{name}": dump(content)}
    else:  # a signature says for whom it is
        messages = {
            Topics(f"{under}/{gateway}").unlearn(name): _signed(wish, gateway, name, content)
            for gateway in fleet.members
        }
    for body in messages.values():
        parse_unlearn(name, body)  # what an agent would refuse unread is refused here
    fleet.command = name, id_
    client.subscribe(fleet.topics())  # first: a refusal is not retained
    for topic, body in messages.items():
        client.publish(topic, body, expires_s=wish.valid_s)


def _signed(wish: Wish, gateway: str, name: str, content: dict[str, Any]) -> bytes:
    if wish.signing is None:
        return dump(content)
    return dump(replace(wish.signing, audience=(gateway,)).of(tuple(name.split(",")), content))


def _listen(client: ToolClient, fleet: Fleet, deadline_s: float, tell: Tell) -> bool:
    """Hear until all have ended (True), or the connection or the time is over."""
    while not all(member.ended for member in fleet.members.values()):
        left_s = min(QUIET_S, deadline_s - time.monotonic())
        if left_s <= 0 or client.lost:
            return False
        for heard in client.listen(left_s):
            fleet.hear(heard)
            tell(fleet.members)
            if all(member.ended for member in fleet.members.values()):
                break
        tell(fleet.members)
    return True
