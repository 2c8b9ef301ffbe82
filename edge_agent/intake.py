"""Commands to forget come in: known already, refused, or recorded durably and masked."""

from __future__ import annotations

from dataclasses import replace

import structlog

from edge_agent import acceptance
from edge_agent.adapters.journal import Journal
from edge_agent.core.errors import Refused
from edge_agent.erasure import Parts
from edge_agent.live import LiveModel
from edge_agent.masks import Masks
from edge_agent.schemas.commands import UnlearnCommand
from edge_agent.schemas.messages import JobState
from edge_agent.settings import Config, Forget
from edge_agent.signing import PublicKey, read_public_key

log = structlog.get_logger(__name__)


class Intake:
    """Turns a command into a row of the journal, once."""

    def __init__(self, config: Config, journal: Journal, live: LiveModel, masks: Masks, parts: Parts) -> None:
        self._journal, self._live, self._masks = journal, live, masks
        self._cache, self._audit, self._clock = parts.cache, parts.audit, parts.clock
        self._gateway, self._signed = config.gateway.name, config.commands.signed
        self.keys = command_keys(config)

    def accept(self, command: UnlearnCommand, settings: Forget) -> JobState:
        """Record a command durably and mask its classes; a command seen before only returns its state.

        Raises:
            Refused: with the code that says why.
            StorageFailed: it could not be recorded, so nothing was promised.
        """
        signer = acceptance.check_origin(command, self._gateway, self.keys, signed=self._signed)
        id_ = command.id or self._anonymous_id(command.name)
        known = self._journal.get(id_)
        if known is not None:
            if command.id is not None and known.digest != command.digest:
                raise Refused("E_SAME_ID", f"id {id_!r} belongs to another command, for {known.name}")
            return known
        waiting, cached, now = self._masks.unfinished(), self._cache.counts(), self._clock.latest()
        acceptance.check(command, self._live.card, waiting, cached, settings, now, self._masks.erased())
        about = {"digest": command.digest, "key": signer, "reason": command.reason}
        self._audit.append("command.accepted", id=id_, classes=list(command.classes), **about)
        state = JobState(id_, command.classes, command.digest, "accepted", "masked")
        if command.expires_at is not None:
            state = replace(state, expires_at=command.expires_at.isoformat())
        state = self._journal.write(state)
        self._masks.apply()
        log.info("command.accepted", id=id_, classes=command.classes, reason=command.reason)
        return state

    def _anonymous_id(self, name: str) -> str:
        """A command without id means "see to it that this is forgotten": it is new after a failure or a revival."""
        over = [one for one in self._journal.states() if one.name == name and (one.status == "failed" or one.revived)]
        return f"anonymous/{name}/{len(over) + 1}"  # with a character that no sender's id may have


def command_keys(config: Config) -> dict[str, PublicKey]:
    """The public keys that commands may be signed with, by id, as their files are now.

    Raises:
        Misconfigured: ``E_KEY``.
    """
    return {name: read_public_key(path) for name, path in config.commands.keys.items()}
