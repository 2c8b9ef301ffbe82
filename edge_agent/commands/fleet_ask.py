"""``edge-agent fleet``: ask many gateways to forget, and collect what they answer.

All state is at the broker, retained: if the connection is lost, the tool connects again and hears it all once more.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from edge_agent.commands.client import ToolClient, connected
from edge_agent.commands.fleet import Fleet, Member, asked
from edge_agent.commands.unlearn import Signing
from edge_agent.core.errors import Misconfigured, Unreachable
from edge_agent.files import storage, write_atomically
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.commands import class_list, parse_unlearn
from edge_agent.schemas.messages import dump
from edge_agent.schemas.topics import Topics
from edge_agent.signing import PublicKey

QUIET_S: Final = 1.0  # retained births have all come when none has for so long
LONGEST_GATHER_S: Final = 60.0
RETRY_S: Final = 2.0
Tell = Callable[[Mapping[str, Member]], None]
Keep = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Wish:
    """What is asked of the fleet."""

    classes: tuple[str, ...]
    gateways: tuple[str, ...] | None  # None: all that the broker knows
    reason: str
    valid_s: float
    signing: Signing | None = None


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
    address: BrokerAddress,
    under: str,
    wish: Wish,
    keys: Mapping[str, PublicKey],
    timeout_s: float,
    tell: Tell,
    keep: Keep = lambda report: None,
) -> dict[str, Any]:
    """Ask, wait until all have ended, the time is over or Ctrl-C comes, and return the report.

    A gateway that is away gets the command from the broker when it comes back, if that is in time. One that the broker
    has never heard of, or whose key is pinned and that has no birth there, is not asked, and has not succeeded.

    Args:
        keep: takes the report as soon as all have been asked: it has the command's id, by which one can go on.

    Raises:
        Refused: the classes are malformed.
        Unreachable: ``E_BROKER``, before anything was asked; or no gateway is known.
    """
    fleet, deadline_s = Fleet(under, keys), time.monotonic() + timeout_s
    with suppress(KeyboardInterrupt):
        try:
            with connected(address) as client:
                _gather(client, fleet)
                if not fleet.members:
                    raise Unreachable("E_BROKER", f"the broker knows no gateway below {under}/")
                absent = [name for name in keys if name not in {one.host for one in fleet.members.values()}]
                everybody = (*asked(fleet.members, wish.classes), *absent)
                fleet.expect(everybody if wish.gateways is None else wish.gateways)
                _ask(client, fleet, under, wish, keep)
                _listen(client, fleet, deadline_s, tell)  # on the same connection: a refusal is not retained
        except Unreachable:
            if not fleet.asked:
                raise
        _follow(address, fleet, deadline_s, tell)
    if fleet.command is None:
        raise Unreachable("E_BROKER", "interrupted before anything was asked")
    return fleet.report()


def collect(
    address: BrokerAddress,
    under: str,
    before: Mapping[str, Any],
    keys: Mapping[str, PublicKey],
    timeout_s: float,
    tell: Tell,
) -> dict[str, Any]:
    """Go on with a command that was asked earlier: hear what its gateways have answered since, and return the report.

    Args:
        before: the report that was written then.

    Raises:
        Misconfigured: ``E_CONFIG``, this is no such report.
        Unreachable: ``E_BROKER``.
    """
    fleet, deadline_s = Fleet(under, keys), time.monotonic() + timeout_s
    try:
        fleet.command = ",".join(before["command"]["classes"]), str(before["command"]["id"])
        fleet.expect(tuple(before["gateways"]))
        for name, row in before["gateways"].items():
            fleet.members[name].asked = bool(row.get("asked", row.get("known", True)))
    except (KeyError, TypeError) as error:
        raise Misconfigured("E_CONFIG", "this is no report of edge-agent fleet") from error
    with suppress(KeyboardInterrupt):
        with connected(address) as client:
            _gather(client, fleet)
        _follow(address, fleet, deadline_s, tell)
    return fleet.report()


def _follow(address: BrokerAddress, fleet: Fleet, deadline_s: float, tell: Tell) -> None:
    """Listen, through lost connections, until all have ended or the time is over."""
    while not fleet.over() and time.monotonic() < deadline_s:
        with suppress(Unreachable), connected(address) as client:
            client.subscribe(fleet.topics())
            _listen(client, fleet, deadline_s, tell)
        if not fleet.over():
            time.sleep(min(RETRY_S, max(0.0, deadline_s - time.monotonic())))


def store_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report, durably.

    Raises:
        StorageFailed: it cannot be written.
    """
    with storage(f"{path} cannot be written"):
        write_atomically(path, json.dumps(report, indent=1).encode() + b"\n")


def read_report(path: Path) -> dict[str, Any]:
    """A report that ``store_report`` wrote.

    Raises:
        Misconfigured: ``E_CONFIG``, it is none.
    """
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Misconfigured("E_CONFIG", f"{path} is no report of edge-agent fleet") from error
    if not isinstance(report, dict):
        raise Misconfigured("E_CONFIG", f"{path} is no report of edge-agent fleet")
    return report


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


def _ask(client: ToolClient, fleet: Fleet, under: str, wish: Wish, keep: Keep) -> None:
    """One message for each, then the report, also where the broker has not taken all.

    What has expired the broker drops, and so do the agents.
    """
    classes, id_ = class_list(*wish.classes), f"fleet-{uuid.uuid4().hex[:12]}"
    name, until = ",".join(classes), datetime.now(timezone.utc) + timedelta(seconds=wish.valid_s)
    content: dict[str, Any] = {"id": id_, "reason": wish.reason, "expires_at": until.isoformat(timespec="seconds")}
    bodies = {
        gateway: dump(content if wish.signing is None else _signed(wish.signing, gateway, classes, content))
        for gateway, member in fleet.members.items()
        if member.known
    }
    for body in (dump(content), *bodies.values()):
        parse_unlearn(name, body)  # what an agent would refuse unread is refused here
    fleet.command = name, id_
    client.subscribe(fleet.topics())
    try:
        for gateway, body in bodies.items():
            client.publish(Topics(f"{under}/{gateway}").unlearn(name), body, expires_s=wish.valid_s)
            fleet.members[gateway].asked = True
    finally:
        if fleet.asked:
            keep(fleet.report())


def _signed(signing: Signing, gateway: str, classes: tuple[str, ...], content: dict[str, Any]) -> dict[str, Any]:
    """A signature says for whom it is."""
    return replace(signing, audience=(gateway,)).of(classes, content)


def _listen(client: ToolClient, fleet: Fleet, deadline_s: float, tell: Tell) -> None:
    """Hear until all have ended, or the connection or the time is over."""
    while not (fleet.over() or client.lost):
        left_s = min(QUIET_S, deadline_s - time.monotonic())
        if left_s <= 0:
            return
        for heard in client.listen(left_s):
            fleet.hear(heard)
            tell(fleet.members)
            if fleet.over():
                break
        tell(fleet.members)
