"""Commands to forget: from the broker's message to a new live model, one at a time, never half.

A command's state is a row of the journal; the retained status is its projection. What is masked and what the cache
takes follow from the journal alone (``_apply``), so that a restart needs no other memory.

    accepted -> masked -> probing, editing, gating, exporting (the child) -> verifying -> committing -> erasing -> done

Before ``committing`` is written, a crash starts the job again from its beginning; after it, the commit is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from edge_agent import acceptance
from edge_agent.adapters.journal import Journal
from edge_agent.config import Config, Forget
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, JobFailed, Refused, StorageFailed
from edge_agent.erasure import Erasure, Parts, erased_classes
from edge_agent.files import remove, storage
from edge_agent.jobs import Ended, News
from edge_agent.live import LiveModel
from edge_agent.schemas.card import Card
from edge_agent.schemas.commands import UnlearnCommand
from edge_agent.schemas.messages import JobState
from edge_agent.signing import read_public_key

log = structlog.get_logger(__name__)

MOST_ATTEMPTS: Final = 3
STORAGE_WAIT_S: Final = 5.0
REVIVE: Final = "revive"  # file of the state directory: the class that an operator allows to come back
PROBATION_KEPT_EVERY_S: Final = 300.0  # how much of a probation a crash may count again


@dataclass(frozen=True)
class Publisher:
    """Who is told: of a command's state, of its certificate, and that another release has gone live."""

    state: Callable[[JobState], None]
    certificate: Callable[[str, bytes], None]
    release: Callable[[], None]


class Forgetting:
    """Owner of the forget commands. Everything here runs in the agent's main thread."""

    def __init__(self, config: Config, journal: Journal, live: LiveModel, parts: Parts, publish: Publisher) -> None:
        self.settings: Forget = config.forget
        self._journal, self._live, self._publish = journal, live, publish
        self._store, self._cache, self._jobs = parts.store, parts.cache, parts.jobs
        self._audit, self._clock, self._signer = parts.audit, parts.clock, parts.signer
        self._gateway, self._signed = config.gateway.name, config.commands.signed
        self._keys = {name: read_public_key(path) for name, path in config.commands.keys.items()}
        self._wish = config.gateway.state_dir / REVIVE
        self._erasure = Erasure(config.gateway, parts)
        self._wait_until_s = float("-inf")
        self._counted_s = time.monotonic()

    def accept(self, command: UnlearnCommand) -> JobState:
        """Record a command durably and mask its classes; a command seen before only returns its state.

        Raises:
            Refused: with the code that says why.
            StorageFailed: it could not be recorded, so nothing was promised.
        """
        acceptance.check_origin(command, self._gateway, self._keys, signed=self._signed)
        id_ = command.id or self._anonymous_id(command.name)
        known = self._journal.get(id_)
        if known is not None:
            if command.id is not None and known.digest != command.digest:
                raise Refused("E_SAME_ID", f"id {id_!r} belongs to another command, for {known.name}")
            return known
        now, cached = self._clock.latest(), self._cache.counts()
        acceptance.check(command, self._live.card, self._unfinished(), cached, self.settings, now, self.erased())
        about = {"digest": command.digest, "key": command.key, "reason": command.reason}
        self._audit.append("command.accepted", id=id_, classes=list(command.classes), **about)
        state = JobState(id_, command.classes, command.digest, "accepted", "masked")
        if command.expires_at is not None:
            state = replace(state, expires_at=command.expires_at.isoformat())
        state = self._journal.write(state)
        self._apply()
        log.info("command.accepted", id=id_, classes=command.classes, reason=command.reason)
        return state

    def credentials(self) -> dict[str, object]:
        """What others need to check what this gateway says: its public key, the audit log's head, its clock's state."""
        head = self._audit.head
        return {
            "public_key": self._signer.public.pem,
            "audit": {"n": head.n, "hash": head.hash},
            "clock": self._clock.now().document(),
        }

    def _anonymous_id(self, name: str) -> str:
        """A command without id means "see to it that this is forgotten": it is new after a failure or a revival."""
        over = [one for one in self._journal.states() if one.name == name and (one.status == "failed" or one.revived)]
        return f"anonymous/{name}/{len(over) + 1}"  # with a character that no sender's id may have

    def erased(self) -> frozenset[str]:
        """Classes that stay forgotten, whatever release is served."""
        return erased_classes(self._journal.states(), self._audit.rows, self._live.card)

    def unwelcome(self) -> frozenset[str]:
        """Erased classes that make a release unfit; none where it is served with them masked."""
        return self.erased() if self.settings.known_again == "refuse" else frozenset()

    @property
    def at_work(self) -> JobState | None:
        """The command that is not finished: until there is none, no other release may be adopted."""
        return next(iter(self._unfinished()), None)

    def resume(self) -> None:
        """After a start: mask what the journal says, before the first answer; ``poll`` goes on with the rest."""
        self._apply()
        try:
            self.release_adopted(self._live.card)  # a crash may have come between
            self._jobs.clear()
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
            if self._jobs.running is not None:
                self._follow(self._jobs.poll())
            elif waiting := self._unfinished():
                self._go_on(waiting[0])
            else:
                self._count_probations(now_s)
        except StorageFailed as error:
            self._wait_until_s = now_s + STORAGE_WAIT_S
            log.error("storage.failed", code=error.code, reason=error.reason, next_try_s=STORAGE_WAIT_S)

    def stop(self) -> None:
        """End the child; its command starts again with the next agent."""
        self._jobs.stop()
        with suppress(StorageFailed):  # then some of a probation counts again
            self._count_probations(time.monotonic(), keep_every_s=0.0)

    def revive_wanted(self) -> None:
        """Let a class come back that an operator asked for (``edge-agent releases revive``).

        Raises:
            StorageFailed: it is as it was before.
        """
        with storage("the wish cannot be read"):
            name = self._wish.read_text() if self._wish.exists() else None
        if name is None:
            return
        if name in self.erased():
            self._audit.append("class.revived", **{"class": name})
            for state in self._journal.states():
                if state.status == "successful" and name in state.classes:
                    self._journal.write(replace(state, revived=tuple(sorted({*state.revived, name}))))
            log.warning("class.revived", name=name)
            self._apply()
        with storage("the wish cannot be removed"):
            remove(self._wish)

    def republish(self) -> None:
        """Announce the state of every command again: the newest of each set of classes is what stays retained."""
        newest = {state.name: state for state in self._journal.states()}
        for state in newest.values():
            self._publish.state(state)
            # Nothing, where there is none, clears what the broker may have kept of one that was withdrawn.
            self._publish.certificate(state.name, self._erasure.certificate(state) or b"")

    def release_adopted(self, card: Card) -> None:
        """Another release went live by an operator's wish: what it brings back, within its probation, is undone."""
        for state in self._journal.states():
            if state.kept_s is not None and set(state.classes) & set(card.living):
                reason = "an operator went back to a release that knows the class, during its probation"
                undone = replace(state, status="failed", code="E_ROLLED_BACK", reason=reason, kept_s=None)
                self._erasure.withdraw(state)
                self._publish.certificate(state.name, b"")  # clears the retained one
                self._publish.state(self._journal.write(undone))
        self._apply()

    # Life of a command

    def _go_on(self, state: JobState) -> None:
        if state.phase in ("committing", "erasing"):
            self._commit(state)
        elif set(state.classes) <= set(self._live.card.forgotten):
            # Committed, but the rows that say so were damaged: what is left is to erase.
            after, before = self._live.release.digest, self._live.card.parent
            self._commit(replace(state, phase="committing", release_before=before, release_after=after))
        elif state.attempts >= MOST_ATTEMPTS:
            self._fail(state, JobFailed("E_INTERRUPTED", f"the agent was stopped in {state.attempts} attempts"))
        else:
            self._start(state)

    def _start(self, state: JobState) -> None:
        try:
            if state.attempts == 0 and state.expires_at is not None:  # it may have waited for long
                acceptance.check_time(datetime.fromisoformat(state.expires_at), self._clock.latest())
            acceptance.check_classes(state.classes, self._live.card)  # another release may have come since
            state = self._journal.write(
                replace(state, status="executing", phase="probing", attempts=state.attempts + 1)
            )
            pid = self._jobs.start(state, self.settings, self.erased())
        except EdgeAgentError as error:
            self._fail(state, error)
            return
        log.info("job.started", id=state.id, classes=state.classes, attempt=state.attempts, pid=pid)
        self._publish.state(state)

    def _follow(self, report: News | Ended | None) -> None:
        match report:
            case News():
                state, news = self._state(self._jobs.running or ""), report
                state = replace(state, phase=news.phase, progress=news.progress, eta_s=news.eta_s, metrics=news.metrics)
                self._publish.state(self._journal.note(state))
            case Ended():
                self._finish(report)

    def _finish(self, ended: Ended) -> None:
        state = replace(self._state(ended.id), eta_s=None, metrics=ended.metrics)
        if "gate" in ended.metrics:
            reasons = [reason["words"] for reason in ended.metrics["gate"]]
            passed = all(reason["passed"] for reason in ended.metrics["gate"])
            self._audit.append("gate.judged", id=state.id, accepted=passed, reasons=reasons)
        if ended.failure is not None:
            self._fail(state, ended.failure)
            return
        try:
            self._publish.state(self._journal.note(replace(state, phase="verifying", progress=0.97)))
            after = self._store.add(ended.result).digest
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
                self._live.adopt(self._store.get(state.release_after), self.unwelcome())
            except BrokenRelease as error:
                self._store.remove(state.release_after)
                self._fail(state, error)
                return
            before, after = state.release_before[:12], state.release_after[:12]
            log.info("release.adopted", release=after, before=before, reason="forget", id=state.id)
            self._publish.release()
        if state.phase == "committing":
            metrics = {**state.metrics, "windows_erased": self._counts(state.classes)}
            state = self._journal.write(replace(state, phase="erasing", progress=0.99, metrics=metrics))
        self._erase(state)

    def _counts(self, classes: tuple[str, ...]) -> dict[str, int]:
        counts = self._cache.counts()
        return {name: counts.get(name, 0) for name in classes}

    def _erase(self, state: JobState) -> None:
        kept_s = self.settings.probation_s or None
        certificate = self._erasure.erase(state, self._live.release, keep_parent=kept_s is not None)
        final = replace(state, status="successful", phase="done", progress=1.0, kept_s=kept_s)
        final = self._journal.write(final)
        self._apply()
        log.info("class.erased", id=state.id, classes=state.classes, windows=state.metrics.get("windows_erased"))
        self._publish.state(final)
        self._publish.certificate(final.name, certificate)

    def _fail(self, state: JobState, error: EdgeAgentError) -> None:
        log.warning("command.failed", id=state.id, classes=state.classes, code=error.code, reason=error.reason)
        about = {"id": state.id, "classes": list(state.classes), "code": error.code, "reason": error.reason}
        self._audit.append("command.failed", **about)
        failed = replace(state, status="failed", code=error.code, reason=error.reason, eta_s=None)
        self._publish.state(self._journal.write(failed))
        self._apply()
        self._jobs.clear()

    def _count_probations(self, now_s: float, keep_every_s: float = PROBATION_KEPT_EVERY_S) -> None:
        """Destroy the parents whose time is over. Time is written down now and then, and counted while we run."""
        passed_s, kept = now_s - self._counted_s, [one for one in self._journal.states() if one.kept_s is not None]
        over = [state for state in kept if (state.kept_s or 0.0) <= passed_s]
        for state in over:
            certificate = self._erasure.end_probation(state, self._live.release)
            self._publish.state(self._journal.write(replace(state, kept_s=None)))
            self._publish.certificate(state.name, certificate)
            self._apply()
        if over or passed_s >= keep_every_s:
            for state in kept:
                if state not in over:
                    self._journal.write(replace(state, kept_s=(state.kept_s or 0.0) - passed_s))
            self._counted_s = now_s

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
