"""Commands to forget: from the broker's message to a new live model, one at a time, never half.

A command's state is a row of the journal; the retained status is its projection. What is masked and what the cache
takes follow from the journal alone (``_apply``), so that a restart needs no other memory.

    accepted -> masked -> probing, editing, gating, exporting (the child) -> verifying -> committing -> erasing -> done

Before ``committing`` is written, a crash starts the job again from its beginning; after it, the commit is finished.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import structlog

from edge_agent.adapters import job_folder
from edge_agent.adapters.journal import Journal
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.adapters.windows import WindowCache
from edge_agent.config import Forget
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, JobFailed, Refused, StorageFailed
from edge_agent.files import remove, storage
from edge_agent.live import LiveModel
from edge_agent.schemas.commands import UnlearnCommand
from edge_agent.schemas.messages import JobState

log = structlog.get_logger(__name__)

MOST_ATTEMPTS: Final = 3
STATUS_EVERY_S: Final = 0.25
CHILD_STOP_S: Final = 5.0
STORAGE_WAIT_S: Final = 5.0
_KEPT_UNTIL: Final = "parent_kept_until_s"  # wall clock, s since 1970: it must outlive a restart
Announce = Callable[[JobState], None]


@dataclass
class _Running:
    """The one job that runs: its child, its folder, its reports."""

    id: str
    child: subprocess.Popen[bytes]
    folder: Path
    reports: job_folder.Reports
    started_s: float
    announced_s: float = 0.0


class Forgetting:
    """Owner of the forget commands. Everything here runs in the agent's main thread.

    Args:
        announce: publishes a command's state.
        release_changed: called after another release has gone live.
    """

    def __init__(
        self,
        settings: Forget,
        state_dir: Path,
        journal: Journal,
        store: ReleaseStore,
        live: LiveModel,
        cache: WindowCache,
        announce: Announce,
        release_changed: Callable[[], None],
    ) -> None:
        self.settings = settings
        self._jobs_dir, self._journal, self._store = state_dir / "jobs", journal, store
        self._live, self._cache = live, cache
        self._announce, self._release_changed = announce, release_changed
        self._running: _Running | None = None
        self._wait_until_s = float("-inf")

    # Commands

    def accept(self, command: UnlearnCommand) -> JobState:
        """Record a command durably and mask its classes; a command seen before only returns its state.

        Raises:
            Refused: with the code that says why.
            StorageFailed: it could not be recorded, so nothing was promised.
        """
        id_ = command.id or self._anonymous_id(command.name)
        known = self._journal.get(id_)
        if known is not None:
            if known.digest != command.digest:
                raise Refused("E_SAME_ID", f"id {id_!r} belongs to another command, for {known.name}")
            return known
        self._check(command)
        state = self._journal.write(JobState(id_, command.classes, command.digest, "accepted", "masked"))
        self._apply()
        log.info("command.accepted", id=id_, classes=command.classes, reason=command.reason)
        return state

    def _anonymous_id(self, name: str) -> str:
        """A command without id means "see to it that this is forgotten": it is new only after a failure."""
        failed = [one for one in self._journal.states() if one.name == name and one.status == "failed"]
        return f"anonymous:{name}:{len(failed) + 1}"

    def _check(self, command: UnlearnCommand) -> None:
        card = self._live.card
        if command.expires_at is not None and command.expires_at < datetime.now(timezone.utc):
            raise Refused("E_EXPIRED", f"the command expired at {command.expires_at.isoformat()}")
        if unknown := [name for name in command.classes if name not in card.classes]:
            raise Refused(
                "E_CLASS", f"class {unknown[0]!r} is unknown; the live release knows {', '.join(card.classes)}"
            )
        if gone := [name for name in command.classes if name in card.forgotten]:
            raise Refused("E_ALREADY_FORGOTTEN", f"class {gone[0]!r} is forgotten already")
        waiting = [state for state in self._journal.states() if not state.finished]
        if busy := [state for state in waiting if set(state.classes) & set(command.classes)]:
            raise Refused("E_QUEUE_FULL", f"command {busy[0].id!r} is already forgetting {busy[0].name}")
        if len(waiting) >= self.settings.queue:
            raise Refused("E_QUEUE_FULL", f"{len(waiting)} commands wait or run, limit {self.settings.queue}")
        stay = set(card.living) - set(command.classes) - {name for state in waiting for name in state.classes}
        if len(stay) < 2:
            raise Refused("E_LAST_CLASS", f"{len(stay)} classes would stay, at least 2 must")
        counts = self._cache.counts()
        for name in command.classes:
            if counts[name] < self.settings.min_windows:
                raise Refused(
                    "E_TOO_FEW_WINDOWS",
                    f"{counts[name]} windows of {name} are cached, at least {self.settings.min_windows} are needed",
                )

    # Life of a command

    def erased(self) -> frozenset[str]:
        """Classes that no release may bring back."""
        return erased_classes(self._journal.states())

    def resume(self) -> None:
        """After a start: mask what the journal says, before the first answer; ``poll`` goes on with the rest."""
        self._apply()
        self._clear_jobs()

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

    def _go_on(self, state: JobState) -> None:
        if state.phase in ("committing", "erasing"):
            self._commit(state)
        elif state.attempts >= MOST_ATTEMPTS:
            self._fail(state, JobFailed("E_INTERRUPTED", f"the agent was stopped in {state.attempts} attempts"))
        else:
            self._start(state)

    def _follow(self, running: _Running) -> None:
        if running.child.poll() is not None:
            self._running = None
            self._finish(running)
        elif time.monotonic() > running.started_s + self.settings.timeout_s:
            self._running = None
            _end(running.child)
            state = self._state(running.id)
            self._fail(state, JobFailed("E_TIMEOUT", f"the job took longer than {self.settings.timeout_s:g} s"))
        else:
            self._report(running)

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._running is not None

    def stop(self) -> None:
        """End the child; its command starts again with the next agent."""
        if self._running is not None:
            _end(self._running.child)
            self._running = None

    def republish(self) -> None:
        """Announce the state of every command again: the newest of each set of classes is what stays retained."""
        newest = {state.name: state for state in self._journal.states()}
        for state in newest.values():
            self._announce(state)

    def rolled_back(self, release: str) -> None:
        """The operator went back to ``release``: commands whose parent it is, on probation, are undone."""
        for state in self._journal.states():
            if _KEPT_UNTIL in state.metrics and state.metrics["release_before"] == release:
                reason = f"an operator went back to release {release[:12]} during its probation"
                metrics = {key: value for key, value in state.metrics.items() if key != _KEPT_UNTIL}
                undone = replace(state, status="failed", code="E_ROLLED_BACK", reason=reason, metrics=metrics)
                self._announce(self._journal.write(undone))
        self._apply()

    def _start(self, state: JobState) -> None:
        folder = self._jobs_dir / f"{zlib.crc32(state.id.encode()):08x}-{state.attempts}"
        try:
            state = self._journal.write(
                replace(state, status="executing", phase="probing", attempts=state.attempts + 1)
            )
            self._prepare(state, folder)
            with (folder / job_folder.LOG).open("wb") as output:
                command = [sys.executable, "-m", "edge_agent.unlearn_job", str(folder)]
                child = subprocess.Popen(
                    [*command, "--parent", str(os.getpid())], stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
        except (OSError, EdgeAgentError) as error:
            failure = error if isinstance(error, EdgeAgentError) else JobFailed("E_CHILD", f"cannot start: {error}")
            self._fail(state, failure)
            return
        self._running = _Running(state.id, child, folder, job_folder.Reports(folder), time.monotonic())
        log.info("job.started", id=state.id, classes=state.classes, attempt=state.attempts, pid=child.pid)
        self._announce(state)

    def _prepare(self, state: JobState, folder: Path) -> None:
        windows, sources = {}, dict[str, int]()
        for name in state.classes:
            windows[name], counts = self._cache.load(name, self.settings.max_windows)
            sources = {source: sources.get(source, 0) + count for source, count in counts.items()}
        seed = zlib.crc32(state.id.encode())
        job = job_folder.Job(state.id, state.classes, seed, self.settings.threads, self.settings.nice, sources)
        self._jobs_dir.mkdir(exist_ok=True)
        job_folder.prepare(folder, job, self._live.release, windows)

    def _report(self, running: _Running) -> None:
        now_s = time.monotonic()
        if now_s < running.announced_s + STATUS_EVERY_S:
            return
        report = running.reports.latest()
        if report is None:
            return
        running.announced_s = now_s
        elapsed_s = now_s - running.started_s
        eta_s = round(elapsed_s * (1 - report.progress) / report.progress, 1) if report.progress else None
        state = replace(
            self._state(running.id),
            phase=report.phase,
            progress=report.progress,
            eta_s=eta_s,
            metrics=report.metrics,
        )
        self._announce(self._journal.note(state))

    def _finish(self, running: _Running) -> None:
        state = self._state(running.id)
        outcome = job_folder.read_outcome(running.folder)
        if outcome is None:
            code = running.child.returncode
            self._fail(state, JobFailed("E_CHILD", f"the job's process ended with code {code} and no result"))
            return
        state = replace(state, metrics=outcome["metrics"])
        if outcome["code"] is not None:
            self._fail(state, JobFailed(outcome["code"], outcome["reason"]))
            return
        try:
            self._announce(self._journal.note(replace(state, phase="verifying", progress=0.97, eta_s=None)))
            candidate = self._store.add(running.folder / job_folder.RESULT)
            before = self._live.release.digest
            total_s = round(time.monotonic() - running.started_s, 3)
            metrics = {**state.metrics, "release_before": before, "release_after": candidate.digest, "job_s": total_s}
            state = self._journal.write(replace(state, phase="committing", progress=0.98, eta_s=None, metrics=metrics))
        except (BrokenRelease, StorageFailed) as error:
            self._fail(state, error)
            return
        self._commit(state)

    def _commit(self, state: JobState) -> None:
        """From here on the command ends well, also after a crash: swap, then destroy."""
        before, after = state.metrics["release_before"], state.metrics["release_after"]
        if state.phase == "committing":
            try:
                self._live.adopt(self._store.get(after), self.erased())
            except (BrokenRelease, StorageFailed) as error:
                self._store.remove(after)
                self._fail(state, error)
                return
            self._release_changed()
            log.info("release.adopted", release=after[:12], before=before[:12], reason="forget", id=state.id)
            state = self._journal.write(replace(state, phase="erasing", progress=0.99))
        self._erase(state, before)

    def _erase(self, state: JobState, before: str) -> None:
        erased = {name: self._cache.erase(name) for name in state.classes}
        self._clear_jobs()
        metrics: dict[str, Any] = {**state.metrics, "windows_erased": erased}
        if self.settings.probation_s > 0:
            metrics[_KEPT_UNTIL] = time.time() + self.settings.probation_s
        else:
            self._store.remove(before)
        final = replace(state, status="successful", phase="done", progress=1.0, metrics=metrics)
        final = self._journal.write(final)
        self._apply()
        log.info("class.erased", id=state.id, classes=state.classes, windows=erased, job_s=metrics.get("job_s"))
        self._announce(final)

    def _fail(self, state: JobState, error: EdgeAgentError) -> None:
        log.warning("command.failed", id=state.id, classes=state.classes, code=error.code, reason=error.reason)
        failed = replace(state, status="failed", code=error.code, reason=error.reason, eta_s=None)
        self._announce(self._journal.write(failed))
        self._apply()
        self._clear_jobs()

    def _clear_jobs(self) -> None:
        with storage("a job folder cannot be removed"):
            for folder in self._jobs_dir.glob("*"):
                remove(folder)

    def _end_probations(self) -> None:
        for state in self._journal.states():
            until_s = state.metrics.get(_KEPT_UNTIL)
            if state.status == "successful" and until_s is not None and time.time() >= until_s:
                self._store.remove(state.metrics["release_before"])
                metrics = {key: value for key, value in state.metrics.items() if key != _KEPT_UNTIL}
                self._announce(self._journal.write(replace(state, metrics=metrics)))
                log.info("parent.destroyed", id=state.id, release=state.metrics["release_before"][:12])

    def _apply(self) -> None:
        """Make masks and cache follow the journal."""
        going = frozenset(name for state in self._unfinished() for name in state.classes)
        self._live.hide(going | self.erased())
        self._cache.close_classes(going | self.erased() | frozenset(self._live.card.forgotten))

    def _unfinished(self) -> list[JobState]:
        return [state for state in self._journal.states() if not state.finished]

    def _state(self, id_: str) -> JobState:
        state = self._journal.get(id_)
        assert state is not None, id_
        return state


def erased_classes(states: Iterable[JobState]) -> frozenset[str]:
    """Classes that have been erased on this gateway, and whose parent release is no longer on probation."""
    done = [state for state in states if state.status == "successful"]
    return frozenset(name for state in done if _KEPT_UNTIL not in state.metrics for name in state.classes)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Terminate a child, and kill it if it does not follow."""
    child.terminate()
    try:
        child.wait(CHILD_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
