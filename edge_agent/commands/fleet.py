"""What many gateways say of themselves and of a command, and what of it is believed: only what is signed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from edge_agent.commands.client import Heard
from edge_agent.core.errors import Misconfigured, Untrusted
from edge_agent.schemas.certificate import vouched
from edge_agent.schemas.heard import Birth, Job
from edge_agent.schemas.messages import TERMINAL
from edge_agent.schemas.topics import Topics
from edge_agent.settings import MODELS
from edge_agent.signing import PublicKey, opened, parse_public_key, read_public_key

MEMBER: Final = re.compile(rf"(?P<name>[^/]+(?:/{MODELS}/[^/]+)?)/(?P<rest>status|unlearn/.+)")


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
    known: bool = False  # whether the broker has a birth, or a will, of it
    asked: bool = False  # whether the broker has taken the command for it
    garbled: bool = False  # whether what it says of itself cannot be read

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
        """Whether no more is to be expected of it: of one that was not asked, nothing is."""
        if not self.asked:
            return True
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

    def over(self) -> bool:
        """Whether no more is to be expected of anybody."""
        return all(member.ended for member in self.members.values())

    @property
    def asked(self) -> int:
        """How many the broker has taken the command for."""
        return sum(member.asked for member in self.members.values())

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
        if rest == "status":
            member.known = True
        try:
            self._take(member, rest, heard)
        except ValidationError:
            member.garbled = True

    def _take(self, member: Member, rest: str, heard: Heard) -> None:
        for one in self.members.values():  # a will is the gateway's alone
            one.host_away = self._states.get(one.host) == "offline"
        if rest == "status":
            member.birth |= _as_read(heard.content, Birth.model_validate(heard.content))
            self._check(member)
        elif rest.endswith("/certificate"):
            self._certified(member, heard)
        elif self.command is not None and heard.content.get("id") == self.command[1]:
            member.status = _as_read(heard.content, Job.model_validate(heard.content))

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
            about = vouched(opened(member.certificate, self._key_of(member)))
            said = about.gateway, ",".join(about.command.classes)
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
                "known": one.known,
                "asked": one.asked,
                "online": one.online,
                **{key: one.status.get(key) for key in ("status", "phase", "code", "reason")},
                "certificate": one.certificate.decode() if one.certificate else None,
                "certificate_verified": one.verified,
                "certificate_problem": one.problem,
                "key_pinned": one.host in self._keys,
            }
        succeeded = sum(one.succeeded for one in self.members.values())
        total = {"asked": self.asked, "succeeded": succeeded, "all_succeeded": succeeded == len(rows) > 0}
        return {"command": {"id": self.command[1], "classes": self.command[0].split(",")}, **total, "gateways": rows}


def _as_read(content: dict[str, Any], checked: BaseModel) -> dict[str, Any]:
    """A message with what was checked of it in the types that tools count on, and without keys that say nothing."""
    told = content | checked.model_dump(exclude_unset=True)
    return {name: value for name, value in told.items() if value is not None}


def pinned(folder: Path | None) -> dict[str, PublicKey]:
    """The public keys in a folder, ``<gateway>.pem``.

    Raises:
        Misconfigured: ``E_KEY``.
    """
    return {path.stem: read_public_key(path) for path in sorted(folder.glob("*.pem"))} if folder else {}


def asked(members: Mapping[str, Member], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Who answers when all are asked: of each gateway the models that know a class, or itself if none does."""
    knowing = [name for name, one in members.items() if one.knows(classes)]
    hosts = {members[name].host for name in knowing}
    own = ((name, one) for name, one in members.items() if name == one.host and one.forgets and name not in knowing)
    # A will does not say what its gateway knows: it is asked in any case.
    return (*knowing, *(name for name, one in own if name not in hosts or "cached" not in one.birth))
