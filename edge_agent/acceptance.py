"""May this command be accepted? Each reason to refuse has a code and a sentence with value and limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from edge_agent.core.errors import Refused, Untrusted
from edge_agent.schemas.card import DREAMS, Card
from edge_agent.schemas.commands import UnlearnCommand
from edge_agent.schemas.messages import JobState
from edge_agent.settings import Forget
from edge_agent.signing import PublicKey

LEAST_CLASSES: Final = 2  # that must stay: a model with one answer diagnoses nothing


def check(
    command: UnlearnCommand,
    card: Card,
    unfinished: Iterable[JobState],
    cached: Mapping[str, int],
    settings: Forget,
    now: datetime,
    erased: frozenset[str] = frozenset(),
) -> None:
    """Check a command that has not been seen before against the live release, the queue and the cache.

    Raises:
        Refused: with the first reason.
    """
    if command.expires_at is not None:
        check_time(command.expires_at, now)
    check_classes(command.classes, card)
    if DREAMS not in card.files:
        raise Refused("E_DREAMS", "the live release has no dreams; without them harm to other classes cannot be judged")
    waiting = list(unfinished)
    if busy := [state for state in waiting if set(state.classes) & set(command.classes)]:
        raise Refused("E_BUSY", f"command {busy[0].id!r} is already forgetting {busy[0].name}")
    if len(waiting) >= settings.queue:
        raise Refused("E_QUEUE_FULL", f"{len(waiting)} commands wait or run, limit {settings.queue}")
    going = {name for state in waiting for name in state.classes}
    stay = set(card.living) - set(command.classes) - going - erased
    if len(stay) < LEAST_CLASSES:
        raise Refused("E_LAST_CLASS", f"{len(stay)} classes would stay, at least {LEAST_CLASSES} must")
    for name in command.classes:
        if cached.get(name, 0) < settings.min_windows:
            raise Refused(
                "E_TOO_FEW_WINDOWS",
                f"{cached.get(name, 0)} windows of {name} are cached, at least {settings.min_windows} are needed",
            )


def check_origin(command: UnlearnCommand, gateway: str, keys: Mapping[str, PublicKey], *, signed: bool) -> str | None:
    """Check who a command comes from and whom it is for; with ``signed`` one without a signature is refused.

    A signature must bind the command to a gateway, an id and a time, so that nobody can use it elsewhere or later.

    Returns:
        The id of the key that signed it. What an unsigned command says of a key is nobody's word.

    Raises:
        Refused: ``E_AUDIENCE`` or ``E_SIGNATURE``.
    """
    if command.audience and gateway not in command.audience:
        raise Refused("E_AUDIENCE", f"the command is for {', '.join(command.audience)[:200]}, this is {gateway}")
    if command.signature is None:
        if signed:
            raise Refused("E_SIGNATURE", "the command is not signed, and commands.signed is set")
        return None
    if missing := [name for name in ("audience", "expires_at", "id") if not getattr(command, name)]:
        raise Refused("E_SIGNATURE", f"a signed command needs {', '.join(missing)}")
    key = keys.get(command.key or "")
    if key is None:
        raise Refused("E_SIGNATURE", f"key {command.key!r} is none of commands.keys ({', '.join(keys) or 'empty'})")
    try:
        key.check(command.signed, command.signature)
    except Untrusted as error:
        raise Refused(error.code, f"{error.reason} ({command.key})") from error
    return command.key


def check_time(expires_at: datetime, now: datetime) -> None:
    """Check that a command has not expired.

    Raises:
        Refused: ``E_EXPIRED``.
    """
    if expires_at < now:
        raise Refused("E_EXPIRED", f"the command expired at {expires_at.isoformat()}, it is {now.isoformat()}")


def check_classes(names: Iterable[str], card: Card) -> None:
    """Check that the release knows all classes and has forgotten none.

    Raises:
        Refused: ``E_CLASS`` or ``E_ALREADY_FORGOTTEN``.
    """
    for name in names:
        if name not in card.classes:
            raise Refused("E_CLASS", f"class {name!r} is unknown; the live release knows {', '.join(card.classes)}")
        if name in card.forgotten:
            raise Refused("E_ALREADY_FORGOTTEN", f"class {name!r} is forgotten already")
