"""The time in which an edited release may still be undone: its parent is kept, sealed, and then destroyed.

It ends in one of three ways: the time is over and the parent is destroyed; an operator goes back to the parent; or the
live model does badly with the plant's windows (``edge_agent.health``), and the agent goes back by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

import structlog

from edge_agent.adapters.journal import Journal
from edge_agent.adapters.releases import Release
from edge_agent.core.errors import BrokenRelease
from edge_agent.erasure import Erasure, Parts, Publisher
from edge_agent.live import LiveModel, refuse_erased
from edge_agent.masks import Masks
from edge_agent.schemas.messages import JobState

log = structlog.get_logger(__name__)

KEPT_EVERY_S: Final = 300.0  # how much of a probation a crash may count again


@dataclass(frozen=True)
class _Return:
    """A parent that was adopted again for bad health, which a failing disk may have left half done."""

    bad: str  # the release that is to be destroyed
    parent: str
    reason: str


class Probation:
    """Everything here runs in the agent's main thread."""

    def __init__(
        self, journal: Journal, live: LiveModel, masks: Masks, parts: Parts, erasure: Erasure, publish: Publisher
    ) -> None:
        self._journal, self._live, self._masks = journal, live, masks
        self._store, self._audit, self._erasure, self._publish = parts.store, parts.audit, erasure, publish
        self._counted_s = time.monotonic()
        self._return: _Return | None = None  # until all of it is done

    def count(self, now_s: float, keep_every_s: float = KEPT_EVERY_S) -> None:
        """Destroy the parents whose time is over. Time is written down now and then, and counted while we run.

        It is to be called right before another probation begins, with ``keep_every_s`` 0: none is charged for more.

        Raises:
            StorageFailed: something may be left, or it could not be written down.
        """
        passed_s, kept = now_s - self._counted_s, self._kept()
        if not kept:
            self._counted_s = now_s
        over = [state for state in kept if (state.kept_s or 0.0) <= passed_s]
        for state in over:
            certificate = self._erasure.end_probation(state, self._live.release)
            self._publish.state(self._journal.write(replace(state, kept_s=None)))
            self._publish.certificate(state.name, certificate)
            self._masks.apply()
        if over or passed_s >= keep_every_s:
            left = [replace(state, kept_s=(state.kept_s or 0.0) - passed_s) for state in kept if state not in over]
            for state in left:
                self._journal.note(state)
            self._counted_s = now_s  # in memory all are charged at once; the disk may be behind
            for state in left:
                self._journal.write(state)

    def unhealthy(self) -> tuple[JobState, str] | None:
        """The command whose release does badly while its parent is still kept, and what is wrong with it."""
        kept = [state for state in self._kept() if state.release_after == self._live.release.digest]
        complaint = self._live.health.complaint(kept[0].usual_s) if kept else None
        return (kept[0], complaint) if complaint else None

    def parent(self, state: JobState, unwelcome: frozenset[str]) -> Release | None:
        """The release to go back to, or None if that cannot be; then a later complaint asks again.

        Raises:
            StorageFailed: the store cannot be read.
        """
        try:
            release = self._store.get(state.release_before or "")
            refuse_erased(release.card, unwelcome)
        except BrokenRelease as error:
            log.error("release.refused", release=str(state.release_before)[:12], code=error.code, reason=error.reason)
            self._live.forget_health()
            return None
        return release

    def go_back(self, parent: Release, complaint: str) -> None:
        """Adopt the parent again, and destroy the release that does badly.

        Raises:
            StorageFailed: the release serves on, or some of it is left.
        """
        bad = self._live.release.digest
        try:
            self._live.adopt(parent)
        except BrokenRelease as error:
            log.error("release.refused", release=parent.digest[:12], code=error.code, reason=error.reason)
            self._live.forget_health()
            return
        self._publish.release()
        self._return = _Return(bad, parent.digest, f"live health: {complaint}")
        log.error("release.adopted", release=parent.digest[:12], before=bad[:12], reason=self._return.reason)
        self._finish_return()

    def undo(self, reason: str) -> None:
        """Take back what a parent on probation that is live again knows: it was not forgotten after all.

        Raises:
            StorageFailed: it is as it was before for some.
        """
        self._finish_return()
        self._take_back(reason)

    def _finish_return(self) -> None:
        """Do what is left of a return for bad health, which keeps its own reason."""
        back = self._return
        if back is None:
            return
        self._store.remove(back.bad)
        self._take_back(back.reason)
        self._audit.append("release.adopted", release=back.parent, reason=back.reason)
        self._return = None

    def _take_back(self, reason: str) -> None:
        live, kept = self._live.release, self._kept()
        if live.digest not in {state.release_before for state in kept}:
            return
        for state in kept:
            if set(state.classes) & set(live.card.living):
                undone = replace(state, status="failed", code="E_ROLLED_BACK", reason=reason, kept_s=None)
                self._erasure.withdraw(state)
                self._publish.certificate(state.name, b"")  # clears the retained one
                self._publish.state(self._journal.write(undone))
                self._masks.apply()

    def _kept(self) -> list[JobState]:
        return [state for state in self._journal.active() if state.kept_s is not None]
