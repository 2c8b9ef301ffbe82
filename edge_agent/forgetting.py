"""Commands to forget: from the broker's message to a new live model, one at a time, never half.

A command's state is a row of the journal; the retained status is its projection. What is masked and what the cache
takes follow from the journal, the audit log and the live release (masks.py), so that a restart needs no other memory.

    accepted -> masked -> probing, editing, gating, exporting (the child) -> verifying -> shadowing (optional)
    -> committing -> erasing -> done

Before ``committing`` is written, a crash starts the job, or the shadowing, again from its beginning; after it, the
commit is finished.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final, get_args

import structlog

from edge_agent import acceptance
from edge_agent.adapters.journal import Journal
from edge_agent.adapters.releases import Release
from edge_agent.candidate import Candidate
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, JobFailed, StorageFailed
from edge_agent.erasure import Erasure, Parts, Publisher
from edge_agent.failing import Failing
from edge_agent.installer import Installer
from edge_agent.intake import Intake
from edge_agent.jobs import Ended, News, Started
from edge_agent.live import LiveModel
from edge_agent.masks import Masks
from edge_agent.probation import Probation
from edge_agent.schemas.commands import UnlearnCommand
from edge_agent.schemas.messages import JobState, Phase, Status
from edge_agent.settings import Config, Forget
from edge_agent.signing import PublicKey
from edge_agent.tally import storage_failed, tolerant

log = structlog.get_logger(__name__)

MOST_ATTEMPTS: Final = 3
STORAGE_WAIT_S: Final = 5.0
COMMITTED: Final = frozenset({"committing", "erasing"})  # the command will end well
ADOPTED_AGAIN: Final = "the release before it was adopted again during the probation"


class Forgetting:
    """Owner of the forget commands. Everything here runs in the agent's main thread."""

    def __init__(
        self, config: Config, journal: Journal, live: LiveModel, masks: Masks, parts: Parts, publish: Publisher
    ) -> None:
        self.settings: Forget = config.forget
        self._journal, self._live, self._publish = journal, live, publish
        self._store, self._cache, self._jobs = parts.store, parts.cache, parts.jobs
        self._audit, self._clock, self._signer = parts.audit, parts.clock, parts.signer
        self._intake = Intake(config, journal, live, masks, parts)
        self._erasure = Erasure(config.gateway, parts)
        self._masks = masks
        self._probation = Probation(journal, live, self._masks, parts, self._erasure, publish)
        self._candidate = Candidate(journal, live, masks, parts, self._erasure, self._probation, publish)
        self._sealing = Installer[Release]()
        self._result: Path | None = None  # what the job that ended last has made
        self._ended: Ended | None = None  # how a job ended, until the audit log has it
        self._failing = Failing(journal, live, masks, parts, publish, self._sealing)
        self._wait_until_s = float("-inf")

    def accept(self, command: UnlearnCommand) -> JobState:
        """Record a command durably and mask its classes; a command seen before only returns its state.

        Raises:
            Refused: with the code that says why.
            StorageFailed: it could not be recorded, so nothing was promised.
        """
        return self._intake.accept(command, self.settings)

    def reload(self, settings: Forget, keys: dict[str, PublicKey]) -> list[str]:
        """Take over settings, and the keys that commands may be signed with; ids of those that were replaced."""
        before = {id_: key.fingerprint for id_, key in self._intake.keys.items()}
        self.settings, self._intake.keys = settings, keys
        return [id_ for id_, key in keys.items() if key.fingerprint != before.get(id_)]

    def credentials(self) -> dict[str, object]:
        """What others need to check what this gateway says: its public key, the audit log's head, its clock's state."""
        head = self._audit.head
        return {
            "public_key": self._signer.public.pem,
            "audit": {"n": head.n, "hash": head.hash},
            "clock": self._clock.now().document(),
        }

    @property
    def fingerprint(self) -> str:
        """Of the key that signs certificates: it tells one installation of a gateway from the next."""
        return self._signer.public.fingerprint

    def unwelcome(self, digest: str) -> frozenset[str]:
        """Erased classes that make a release unfit; none where it is served with them masked."""
        return self._masks.unwelcome(self.settings, digest)

    @property
    def at_work(self) -> JobState | None:
        """The command that is not finished: until there is none, no other release may be adopted."""
        return next(iter(self._masks.unfinished()), None)

    def by_status(self) -> dict[str, int]:
        """How many commands of the journal have each status; one that was rejected never gets there."""
        counts = dict.fromkeys((one for one in get_args(Status) if one != "rejected"), 0)
        for state in self._journal.states():
            counts[state.status] += 1
        return counts

    def resume(self) -> None:
        """After a start: mask what the journal says, before the first answer; ``poll`` goes on with the rest."""
        self._masks.apply()
        with tolerant():
            self.release_adopted()  # a crash may have come between
            self._clear_jobs()

    @property
    def has_job(self) -> bool:
        """Whether a child is at work or gets its files, or what it has made is on its way to the live model."""
        if self._jobs.running is not None or self._ended is not None:
            return True
        if time.monotonic() < self._wait_until_s:
            return False  # the disk fails it: other models need not wait for that
        state = self.at_work
        return state is not None and (state.phase in COMMITTED or self._being_sealed(state))

    def _being_sealed(self, state: JobState) -> bool:
        """Whether its edited release is on its way into the store; after a restart the job begins anew."""
        return state.phase == "verifying" and self._result is not None

    def poll(self, *, may_start: bool = True) -> None:
        """One turn: start or go on with a command, report on the running job, destroy what is due.

        A disk that cannot be written stops no answer: the turn is tried again after some seconds.

        Args:
            may_start: whether a job may begin; not while another model's runs.
        """
        now_s = time.monotonic()
        if now_s < self._wait_until_s:
            return
        try:
            if self._failing.is_due:
                self._failing.again()
            elif self._ended is not None:
                self._finish(self._ended)
            elif self._jobs.running is not None:
                self._follow(self._jobs.poll())
            elif waiting := self._masks.unfinished():
                self._go_on(waiting[0], may_start=may_start)
            self._probation.count(now_s)
        except StorageFailed as error:
            self._wait_until_s = now_s + STORAGE_WAIT_S
            storage_failed(error, next_try_s=STORAGE_WAIT_S)

    def stop(self) -> None:
        """End the child; its command starts again with the next agent."""
        self._jobs.stop()
        with suppress(StorageFailed):  # then some of a probation counts again
            self._probation.count(time.monotonic(), keep_every_s=0.0)
        with suppress(StorageFailed):  # the next start tries again
            self._clear_jobs()

    def republish(self) -> None:
        """Announce the state of every command again: the newest of each set of classes is what stays retained."""
        for state in self.newest().values():
            self._publish.state(state)
            with tolerant():  # of one that cannot be read the broker may keep a copy
                certificate = self._erasure.certificate(state)
                if certificate is None and state.status == "successful":
                    log.error("certificate.lost", id=state.id, classes=state.classes)  # the broker may have the last
                else:  # nothing clears what the broker may have kept of one that was withdrawn
                    self._publish.certificate(state.name, certificate or b"")

    def newest(self) -> dict[str, JobState]:
        """The newest command for each set of classes, by its name."""
        return {state.name: state for state in self._journal.states()}

    def release_adopted(self) -> None:
        """Another release went live by an operator's wish: what it brings back, within its probation, is undone.

        Raises:
            StorageFailed: some is as it was before.
        """
        self._probation.undo(ADOPTED_AGAIN)
        self._masks.apply()

    def guard(self) -> None:
        """Go back to the parent of a release that does badly during its probation.

        Raises:
            StorageFailed: the release serves on, or some of it is left.
        """
        self._probation.undo(ADOPTED_AGAIN)  # where the disk failed in the middle of going back
        unhealthy, at_work = self._probation.unhealthy(), self.at_work
        if unhealthy is None or (at_work is not None and at_work.phase in COMMITTED):
            return
        state, complaint = unhealthy
        parent = self._probation.parent(state, self.unwelcome(state.release_before or ""))
        if parent is None:
            return
        if at_work is not None and at_work.attempts:
            self._jobs.stop()
            self._ended = None
            self._failing.drop(at_work, JobFailed("E_INTERRUPTED", "the release that it began with was rolled back"))
        self._probation.go_back(parent, complaint)

    # Life of a command

    def _go_on(self, state: JobState, *, may_start: bool = True) -> None:
        if state.phase in COMMITTED:
            self._advance(state)
        elif self._being_sealed(state):
            self._verify(state)
        elif set(state.classes) <= set(self._live.card.forgotten):
            # Committed, but the rows that say so were damaged: what is left is to erase.
            after, before = self._live.release.digest, self._live.card.parent
            self._advance(replace(state, phase="committing", release_before=before, release_after=after))
        elif state.phase == "shadowing":
            self._advance(state)
        elif state.attempts >= MOST_ATTEMPTS:
            self._failing.end(state, JobFailed("E_INTERRUPTED", f"the agent was stopped in {state.attempts} attempts"))
        elif may_start:
            self._start(state)

    def _start(self, state: JobState) -> None:
        try:
            if state.attempts == 0 and state.expires_at is not None:  # it may have waited for long
                acceptance.check_time(datetime.fromisoformat(state.expires_at), self._clock.latest())
            acceptance.check_classes(state.classes, self._live.card)  # another release may have come since
            state = self._journal.write(
                replace(state, status="executing", phase="probing", attempts=state.attempts + 1)
            )
            self._jobs.start(state, self.settings, self._masks.erased())
        except EdgeAgentError as error:
            self._failing.end(state, error)
            return
        self._publish.state(state)

    def _follow(self, report: Started | News | Ended | None) -> None:
        match report:
            case Started(id_, pid):
                state = self._state(id_)
                log.info("job.started", id=id_, classes=state.classes, attempt=state.attempts, pid=pid)
            case News():
                state, news = self._state(self._jobs.running or ""), report
                state = replace(state, phase=news.phase, progress=news.progress, eta_s=news.eta_s, metrics=news.metrics)
                self._publish.state(self._journal.note(state))
            case Ended():
                self._ended = report
                self._finish(report)

    def _finish(self, ended: Ended) -> None:
        state = replace(self._state(ended.id), eta_s=None, metrics=ended.metrics)
        if "gate" in ended.metrics:
            reasons = [reason["words"] for reason in ended.metrics["gate"]]
            passed = all(reason["passed"] for reason in ended.metrics["gate"])
            self._audit.append("gate.judged", id=state.id, accepted=passed, reasons=reasons)
        self._ended = None
        if ended.failure is not None:
            self._failing.end(state, ended.failure)
            return
        self._result = ended.result
        self._publish.state(self._journal.note(replace(state, phase="verifying", progress=0.97)))
        self._verify(state)

    def _verify(self, state: JobState) -> None:
        """Seal the edited release into the store; ``poll`` comes back until it is there."""
        result = self._result
        assert result is not None
        try:
            sealed = self._sealing.made(state.id, lambda: self._store.add(result))
            if sealed is None:
                return
            phase: Phase = "shadowing" if self.settings.shadow_windows else "committing"
            state = replace(state, phase=phase, progress=0.98, release_before=self._live.release.digest)
            state = replace(state, release_after=sealed.digest, on_disk=state.on_disk or self._jobs.on_disk)
            state = self._journal.write(state)
        except (BrokenRelease, StorageFailed) as error:
            self._failing.drop(state, error)
            return
        self._publish.state(state)
        with tolerant():  # nothing reads it any more, and a trial may take days
            self._jobs.clear()
        self._go_on(state)

    def _advance(self, state: JobState) -> None:
        """Bring the candidate nearer to the live model, or give it up; a disk that fails only costs this turn."""
        step = self._candidate.watch if state.phase == "shadowing" else self._candidate.commit
        try:
            step(state, self.settings)
        except (BrokenRelease, JobFailed) as error:
            self._failing.drop(self._state(state.id), error)

    def _clear_jobs(self) -> None:
        """Remove what is left of jobs; that some of it lay on a disk must stand in the certificate."""
        if self._jobs.on_disk:
            for state in self._masks.unfinished():
                if state.attempts:
                    self._journal.write(replace(state, on_disk=True))
        self._jobs.clear()

    def _state(self, id_: str) -> JobState:
        state = self._journal.get(id_)
        assert state is not None, id_
        return state
