"""An edited release on its way from the store to the live model, and what is destroyed once it is there.

The states it goes through are those of its command: shadowing (optional) -> committing -> erasing -> done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import structlog

from edge_agent.adapters.journal import Journal
from edge_agent.core.errors import EdgeAgentError
from edge_agent.erasure import Erasure, Parts, Publisher
from edge_agent.installer import Installer
from edge_agent.live import LiveModel, Loaded
from edge_agent.masks import Masks
from edge_agent.probation import Probation
from edge_agent.schemas.messages import JobState
from edge_agent.settings import Forget
from edge_agent.shadow import Shadow

log = structlog.get_logger(__name__)


class Candidate:
    """Owner of the release that is to go live. Everything here runs in the agent's main thread.

    Both steps are called turn after turn until the journal says that the command is past them.

    Raises:
        BrokenRelease: the candidate cannot be served.
        JobFailed: ``E_SHADOW``, it did not answer as it should.
        StorageFailed: nothing is lost; the step is to be tried again.
    """

    def __init__(
        self,
        journal: Journal,
        live: LiveModel,
        masks: Masks,
        parts: Parts,
        erasure: Erasure,
        probation: Probation,
        publish: Publisher,
    ) -> None:
        self._journal, self._live, self._masks = journal, live, masks
        self._store, self._cache = parts.store, parts.cache
        self._erasure, self._probation, self._publish = erasure, probation, publish
        self._loading = Installer[Loaded]()
        self._erasing: tuple[str, Iterator[None]] | None = None  # a command's id, and what is left to do for it

    def watch(self, state: JobState, settings: Forget) -> None:
        """Let it answer beside the live model, and commit it once enough windows have come and it agreed."""
        if not settings.shadow_windows:  # the configuration was changed meanwhile
            self._settle(state, settings)
            return
        if self._live.shadow is None:
            self._begin(state, settings)
            return
        shadow = self._live.shadow
        state = replace(state, metrics={**state.metrics, "shadow": shadow.report()})
        if (problem := shadow.complaint(settings)) is not None:
            self._journal.note(state)
            raise problem
        if shadow.windows >= settings.shadow_windows:
            self._settle(state, settings)
        elif shadow.due():
            self._publish.state(self._journal.note(state))

    def _begin(self, state: JobState, settings: Forget) -> None:
        assert state.release_after is not None
        candidate = self._live.candidate(self._store.get(state.release_after))
        gone = self._masks.erased() | set(self._live.card.forgotten)
        self._live.shadow = Shadow(candidate, self._live.card.classes, gone, frozenset(state.classes))
        log.info("shadow.started", id=state.id, windows=settings.shadow_windows)

    def _settle(self, state: JobState, settings: Forget) -> None:
        state = self._journal.write(replace(state, phase="committing"))
        self._live.shadow = None  # not before: a failing disk gives it no second trial
        self.commit(state, settings)

    def commit(self, state: JobState, settings: Forget) -> None:
        """From here on the command ends well, also after a crash: swap, then destroy."""
        before, after = state.release_before or "", state.release_after  # a card from elsewhere may name no parent
        assert after is not None
        if self._live.release.digest != after:
            unwelcome = self._masks.unwelcome(settings, after)
            loaded = self._loading.made(after, lambda: self._live.load(self._store.get(after), unwelcome))
            if loaded is None:
                return  # it is being loaded beside the serving thread
            state = self._journal.note(replace(state, usual_s=self._live.health.usual_s))  # gone with the swap
            self._live.swap(loaded)
            log.info("release.adopted", release=after[:12], before=before[:12], reason="forget", id=state.id)
            self._publish.release()
        if state.phase == "committing":
            # What there is to destroy: done in part, and then again, it must all stand in the certificate.
            metrics = {**state.metrics, "windows_erased": self._counts(state.classes)}
            state = replace(state, phase="erasing", progress=0.99, metrics=metrics)
            state = self._journal.write(replace(state, doomed=self._erasure.knowing(state, after)))
        if self._erasing is None or self._erasing[0] != state.id:
            self._erasing = state.id, self._erase(state, settings.probation_s)
        try:
            next(self._erasing[1], None)
        except EdgeAgentError:
            self._erasing = None  # all of it is done again
            raise

    def _counts(self, classes: tuple[str, ...]) -> dict[str, int]:
        counts = self._cache.counts()
        return {name: counts.get(name, 0) for name in classes}

    def _erase(self, state: JobState, probation_s: float) -> Iterator[None]:
        """A step each turn, for the disk takes its time."""
        kept_s = probation_s or None

        def spared() -> frozenset[str]:
            # What runs has its time counted first, so that a probation which begins now is not charged for it.
            self._probation.count(time.monotonic(), keep_every_s=0.0)
            if kept_s is None:
                return frozenset()
            parents = {one.release_before for one in self._journal.active() if one.kept_s is not None}
            return frozenset(filter(None, parents | {state.release_before}))

        commands = [one for one in self._journal.states() if set(one.classes) & set(state.classes)]
        state = replace(state, on_disk=any(one.on_disk for one in commands))  # a job before that failed counts as well
        certificate = yield from self._erasure.erase(state, self._live.release, spared)
        final = replace(state, status="successful", phase="done", progress=1.0, kept_s=kept_s)
        final = self._journal.write(final)
        self._masks.apply()
        log.info("class.erased", id=state.id, classes=state.classes, windows=state.metrics.get("windows_erased"))
        self._publish.state(final)
        self._publish.certificate(final.name, certificate)
