"""What is hidden, and what may not come back: all of it follows from journal, audit log and live release.

Nothing here remembers anything of its own, so that a restart needs no other memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from edge_agent.adapters.audit import AuditLog, Row
from edge_agent.adapters.audit import erased_classes as audited
from edge_agent.adapters.journal import Journal
from edge_agent.adapters.windows import WindowCache
from edge_agent.files import read_if_there, remove, storage
from edge_agent.live import LiveModel
from edge_agent.schemas.card import Card
from edge_agent.schemas.messages import JobState
from edge_agent.settings import Forget

log = structlog.get_logger(__name__)

REVIVE: Final = "revive"  # file of the state directory: the class that an operator allows to come back


class Masks:
    """Makes the live model and the cache follow."""

    def __init__(self, journal: Journal, audit: AuditLog, live: LiveModel, cache: WindowCache) -> None:
        self._journal, self._audit, self._live, self._cache = journal, audit, live, cache

    def erased(self) -> frozenset[str]:
        """Classes that stay forgotten, whatever release is served."""
        return erased_classes(self._journal.states(), self._audit.rows, self._live.card)

    def unwelcome(self, settings: Forget, digest: str) -> frozenset[str]:
        """Erased classes that make a release unfit; none where it is served with them masked."""
        if settings.known_again == "mask":
            return frozenset()
        return unwelcome(self.erased(), self._journal.states(), digest)

    def unfinished(self) -> list[JobState]:
        """Commands that have not ended, oldest first."""
        return [state for state in self._journal.active() if not state.finished]

    def apply(self) -> None:
        """Hide what is erased or being forgotten, and cache no more of it."""
        hidden = self.erased() | {name for state in self.unfinished() for name in state.classes}
        self._live.hide(hidden)
        self._cache.close_classes(hidden | set(self._live.card.forgotten))

    def revive_wanted(self, state_dir: Path) -> None:
        """Let a class come back that an operator asked for (``edge-agent releases revive``).

        Raises:
            StorageFailed: it is as it was before.
        """
        wish = state_dir / REVIVE
        with storage("the wish cannot be read"):
            content = read_if_there(wish)
        if content is None:
            return
        name = content.decode(errors="replace")
        if name in on_probation(self._journal.states()) or name not in self.erased():
            log.warning("wish.refused", name=name[:64], reason="the class is on probation, or was not forgotten here")
        else:
            if name not in audited(self._audit.rows)[1]:  # else it is done again, for the journal could not be written
                self._audit.append("class.revived", **{"class": name})
            for state in self._journal.states():
                if state.status == "successful" and name in state.classes:
                    self._journal.write(replace(state, revived=tuple(sorted({*state.revived, name}))))
            log.warning("class.revived", name=name)
            self.apply()
        with storage("the wish cannot be removed"):
            remove(wish)


def on_probation(states: Iterable[JobState]) -> frozenset[str]:
    """Classes whose parent release is still kept."""
    return frozenset(name for state in states if state.kept_s is not None for name in state.classes)


def erased_classes(states: Iterable[JobState], rows: Iterable[Row] = (), live: Card | None = None) -> frozenset[str]:
    """Tombstones: classes that were forgotten on this gateway, which no release may bring back.

    The journal, the audit log and the live release each say so, and the loss of one brings no class back. One that an
    operator revived does not count any more.
    """
    done = [state for state in states if state.status == "successful"]
    erased, revived = audited(rows)
    names = set(live.forgotten if live else ()) - revived - {name for state in done for name in state.revived}
    names |= {name for state in done for name in state.classes if name not in state.revived}
    return frozenset(names | erased)


def unwelcome(erased: frozenset[str], states: Iterable[JobState], digest: str) -> frozenset[str]:
    """Of the erased classes those that make a release unfit.

    A parent on probation may know the classes that were forgotten since: to be able to go back to it is what it is kept
    for. No other release may.
    """
    kept = [state for state in states if state.kept_s is not None]
    if digest not in {state.release_before for state in kept}:
        return erased
    return erased - on_probation(kept)
