"""Commands to forget: from the broker's message to a new live model, one at a time, never half.

A command's state is a row of the journal; the retained status is its projection. What is masked and what the cache
takes follow from the journal alone (``_apply``), so that a restart needs no other memory.

    accepted -> masked -> probing, editing, gating, exporting (the child) -> verifying -> committing -> erasing -> done

Before ``committing`` is written, a crash starts the job again from its beginning; after it, the commit is finished.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import structlog

from edge_agent import acceptance
from edge_agent.adapters import job_folder
from edge_agent.adapters.child import Child
from edge_agent.adapters.journal import Journal
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.adapters.windows import WindowCache
from edge_agent.adapters.workplace import Workplace
from edge_agent.config import Forget
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, JobFailed, Refused, StorageFailed
from edge_agent.live import LiveModel
from edge_agent.schemas.card import Card
from edge_agent.schemas.commands import UnlearnCommand
from edge_agent.schemas.messages import JobState

log = structlog.get_logger(__name__)

MOST_ATTEMPTS: Final = 3
STATUS_EVERY_S: Final = 0.25
STORAGE_WAIT_S: Final = 5.0
Announce = Callable[[JobState], None]


@dataclass
class _Running:
    """The one job that runs: its child, its folder, its reports."""

    id: str
    child: Child
    folder: Path
    reports: job_folder.Reports
    started_s: float
    announced_s: float = float("-inf")


class Forgetting:
    """Owner of the forget commands. Everything here runs in the agent's main thread.

    Args:
        announce: publishes a command's state.
        release_changed: called after another release has gone live.
    """

    def __init__(
        self,
        settings: Forget,
        workplace: Workplace,
        journal: Journal,
        store: ReleaseStore,
        live: LiveModel,
        cache: WindowCache,
        announce: Announce,
        release_changed: Callable[[], None],
    ) -> None:
        self.settings = settings
        self._workplace, self._journal, self._store = workplace, journal, store
        self._live, self._cache = live, cache
        self._announce, self._release_changed = announce, release_changed
        self._running: _Running | None = None
        self._wait_until_s = float("-inf")

    def accept(self, command: UnlearnCommand) -> JobState:
        """Record a command durably and mask its classes; a command seen before only returns its state.

        Raises:
            Refused: with the code that says why.
            StorageFailed: it could not be recorded, so nothing was promised.
        """
        id_ = command.id or self._anonymous_id(command.name)
        known = self._journal.get(id_)
        if known is not None:
            if command.id is not None and known.digest != command.digest:
                raise Refused("E_SAME_ID", f"id {id_!r} belongs to another command, for {known.name}")
            return known
        now = datetime.now(timezone.utc)
        acceptance.check(command, self._live.card, self._unfinished(), self._cache.counts(), self.settings, now)
        state = self._journal.write(JobState(id_, command.classes, command.digest, "accepted", "masked"))
        self._apply()
        log.info("command.accepted", id=id_, classes=command.classes, reason=command.reason)
        return state

    def _anonymous_id(self, name: str) -> str:
        """A command without id means "see to it that this is forgotten": it is new only after a failure."""
        failed = [one for one in self._journal.states() if one.name == name and one.status == "failed"]
        return f"anonymous/{name}/{len(failed) + 1}"  # with a character that no sender's id may have

    def erased(self) -> frozenset[str]:
        """Classes that no release may bring back."""
        return erased_classes(self._journal.states(), self._live.card)

    @property
    def busy(self) -> bool:
        """Whether a command is not finished: until then no other release may be adopted."""
        return bool(self._unfinished())

    def resume(self) -> None:
        """After a start: mask what the journal says, before the first answer; ``poll`` goes on with the rest."""
        self._apply()
        try:
            self._clear_jobs()
        except StorageFailed as error:
            log.error("storage.failed", code=error.code, reason=error.reason)

    def poll(self) -> None:
        """One turn: start or go on with a command, report on the running job, destroy what is due.

        A disk that cannot be written stops no answer: the turn is tried again after some seconds.
        """
        now_s = time.monotonic()
        if now_s < self._wait_until_s:
            return
        try:
            if self._running is not None:
                self._follow(self._running)
            elif waiting := self._unfinished():
                self._go_on(waiting[0])
            else:
                self._end_probations()
        except StorageFailed as error:
            self._wait_until_s = now_s + STORAGE_WAIT_S
            log.error("storage.failed", code=error.code, reason=error.reason, next_try_s=STORAGE_WAIT_S)

    def stop(self) -> None:
        """End the child; its command starts again with the next agent."""
        if self._running is not None:
            self._running.child.end()
            self._running = None

    def republish(self) -> None:
        """Announce the state of every command again: the newest of each set of classes is what stays retained."""
        newest = {state.name: state for state in self._journal.states()}
        for state in newest.values():
            self._announce(state)

    def release_adopted(self, card: Card) -> None:
        """Another release went live by an operator's wish: what it brings back, within its probation, is undone."""
        for state in self._journal.states():
            if state.kept_until_s is not None and set(state.classes) & set(card.living):
                reason = "an operator went back to a release that knows the class, during its probation"
                undone = replace(state, status="failed", code="E_ROLLED_BACK", reason=reason, kept_until_s=None)
                self._announce(self._journal.write(undone))
        self._apply()

    # Life of a command

    def _go_on(self, state: JobState) -> None:
        if state.phase in ("committing", "erasing"):
            self._commit(state)
        elif set(state.classes) <= set(self._live.card.forgotten):
            # Committed, but the rows that say so were damaged: what is left is to erase.
            after, before = self._live.release.digest, self._live.card.parent
            self._erase(replace(state, release_before=before, release_after=after))
        elif state.attempts >= MOST_ATTEMPTS:
            self._fail(state, JobFailed("E_INTERRUPTED", f"the agent was stopped in {state.attempts} attempts"))
        else:
            self._start(state)

    def _start(self, state: JobState) -> None:
        self._clear_jobs()
        try:
            acceptance.check_classes(state.classes, self._live.card)  # another release may have come since
            state = self._journal.write(
                replace(state, status="executing", phase="probing", attempts=state.attempts + 1)
            )
            folder = self._prepare(state)
            child = Child(folder, folder / job_folder.LOG)
        except (OSError, EdgeAgentError) as error:
            failure = error if isinstance(error, EdgeAgentError) else JobFailed("E_CHILD", f"cannot start: {error}")
            self._fail(state, failure)
            return
        self._running = _Running(state.id, child, folder, job_folder.Reports(folder), time.monotonic())
        log.info("job.started", id=state.id, classes=state.classes, attempt=state.attempts, pid=child.pid)
        self._announce(state)

    def _prepare(self, state: JobState) -> Path:
        windows, sources = {}, dict[str, int]()
        for name in state.classes:
            windows[name], counts = self._cache.load(name, self.settings.max_windows)
            if len(windows[name]) < self.settings.min_windows:  # some were damaged on the disk
                words = f"only {len(windows[name])} windows of {name} are sound, {self.settings.min_windows} are needed"
                raise JobFailed("E_TOO_FEW_WINDOWS", words)
            sources = {source: sources.get(source, 0) + count for source, count in counts.items()}
        seed = zlib.crc32(state.id.encode())
        job = job_folder.Job(state.id, state.classes, seed, self.settings.threads, self.settings.nice, sources)
        release = self._live.release
        needed_bytes = job_folder.needed_bytes(release, windows)
        folder = self._workplace.folder(f"{seed:08x}", needed_bytes)
        job_folder.prepare(folder, job, release, windows)
        return folder

    def _follow(self, running: _Running) -> None:
        code = running.child.ended()
        if code is not None:
            self._running = None
            self._finish(running, code)
        elif time.monotonic() > running.started_s + self.settings.timeout_s:
            self._running = None
            running.child.end()
            failure = JobFailed("E_TIMEOUT", f"the job took longer than {self.settings.timeout_s:g} s")
            self._fail(self._state(running.id), failure)
        else:
            self._report(running)

    def _report(self, running: _Running) -> None:
        now_s = time.monotonic()
        if now_s < running.announced_s + STATUS_EVERY_S or (report := running.reports.latest()) is None:
            return
        running.announced_s = now_s
        share, elapsed_s = report.progress, now_s - running.started_s
        eta_s = round(elapsed_s * (1 - share) / share, 1) if share else None
        state = self._state(running.id)
        news = replace(state, phase=report.phase, progress=share, eta_s=eta_s, metrics=report.metrics)
        self._announce(self._journal.note(news))

    def _finish(self, running: _Running, code: int) -> None:
        state = replace(self._state(running.id), eta_s=None)
        outcome = job_folder.read_outcome(running.folder)
        if outcome is None:
            words = f"the job's process ended with code {code} and no result; {running.child.last_words()}"
            self._fail(state, JobFailed("E_CHILD", words.rstrip("; ")))
            return
        state = replace(state, metrics={**outcome["metrics"], "job_s": round(time.monotonic() - running.started_s, 3)})
        if outcome["code"] is not None:
            self._fail(state, JobFailed(outcome["code"], outcome["reason"]))
            return
        try:
            self._announce(self._journal.note(replace(state, phase="verifying", progress=0.97)))
            after = self._store.add(running.folder / job_folder.RESULT).digest
            before = self._live.release.digest
            state = replace(state, phase="committing", progress=0.98, release_before=before, release_after=after)
            state = self._journal.write(state)
        except (BrokenRelease, StorageFailed) as error:
            self._fail(state, error)
            return
        self._commit(state)

    def _commit(self, state: JobState) -> None:
        """From here on the command ends well, also after a crash: swap, then destroy."""
        assert state.release_before is not None
        assert state.release_after is not None
        if self._live.release.digest != state.release_after:
            try:
                self._live.adopt(self._store.get(state.release_after), self.erased())
            except BrokenRelease as error:
                self._store.remove(state.release_after)
                self._fail(state, error)
                return
            before, after = state.release_before[:12], state.release_after[:12]
            log.info("release.adopted", release=after, before=before, reason="forget", id=state.id)
            self._release_changed()
        if state.phase == "committing":
            state = self._journal.write(replace(state, phase="erasing", progress=0.99))
        self._erase(state)

    def _erase(self, state: JobState) -> None:
        erased = {name: self._cache.erase(name) for name in state.classes}
        self._clear_jobs()
        kept_until_s = None
        if self.settings.probation_s > 0:
            kept_until_s = time.time() + self.settings.probation_s
        else:
            self._destroy_releases(state.classes)
        metrics = {**state.metrics, "windows_erased": erased}
        final = replace(state, status="successful", phase="done", progress=1.0, metrics=metrics)
        final = self._journal.write(replace(final, kept_until_s=kept_until_s))
        self._apply()
        log.info("class.erased", id=state.id, classes=state.classes, windows=erased)
        self._announce(final)

    def _destroy_releases(self, classes: tuple[str, ...]) -> None:
        """Destroy every release that knows one of the classes, not only the parent; and those nobody can read."""
        live = self._live.release.digest
        for digest in [one for one in self._store.digests() if one != live]:
            try:
                knows = set(self._store.get(digest).card.living) & set(classes)
            except BrokenRelease:
                knows = set(classes)
            if knows:
                self._store.remove(digest)
                log.info("release.destroyed", release=digest[:12], classes=sorted(knows))

    def _fail(self, state: JobState, error: EdgeAgentError) -> None:
        log.warning("command.failed", id=state.id, classes=state.classes, code=error.code, reason=error.reason)
        failed = replace(state, status="failed", code=error.code, reason=error.reason, eta_s=None)
        self._announce(self._journal.write(failed))
        self._apply()
        self._clear_jobs()

    def _clear_jobs(self) -> None:
        self._workplace.clear()

    def _end_probations(self) -> None:
        for state in self._journal.states():
            if state.kept_until_s is not None and time.time() >= state.kept_until_s:
                self._destroy_releases(state.classes)
                self._announce(self._journal.write(replace(state, kept_until_s=None)))
                self._apply()

    def _apply(self) -> None:
        """Make masks and cache follow the journal."""
        hidden = self.erased() | {name for state in self._unfinished() for name in state.classes}
        self._live.hide(hidden)
        self._cache.close_classes(hidden | set(self._live.card.forgotten))

    def _unfinished(self) -> list[JobState]:
        return [state for state in self._journal.states() if not state.finished]

    def _state(self, id_: str) -> JobState:
        state = self._journal.get(id_)
        assert state is not None, id_
        return state


def erased_classes(states: Iterable[JobState], live: Card | None = None) -> frozenset[str]:
    """Classes that have been erased on this gateway, and whose parent release is not on probation any more.

    What the live release has forgotten counts too: a damaged journal must not bring a class back.
    """
    done = [state for state in states if state.status == "successful"]
    names = {name for state in done for name in state.classes} | set(live.forgotten if live else ())
    return frozenset(names - {name for state in done if state.kept_until_s is not None for name in state.classes})
