"""How a command to forget ends without a new model: its candidate goes, audit log and journal say so, once each."""

from __future__ import annotations

from dataclasses import replace

import structlog

from edge_agent.adapters.journal import Journal
from edge_agent.adapters.releases import Release
from edge_agent.core.errors import EdgeAgentError, StorageFailed
from edge_agent.erasure import Parts, Publisher
from edge_agent.installer import Installer
from edge_agent.live import LiveModel
from edge_agent.masks import Masks
from edge_agent.schemas.messages import JobState

log = structlog.get_logger(__name__)


class Failing:
    """Owner of a failure that is not written down yet. Where the disk fails meanwhile, ``again`` goes on with it.

    Args:
        sealing: what puts the edited release into the store; it may be at work.
    """

    def __init__(
        self,
        journal: Journal,
        live: LiveModel,
        masks: Masks,
        parts: Parts,
        publish: Publisher,
        sealing: Installer[Release],
    ) -> None:
        self._journal, self._live, self._masks, self._publish = journal, live, masks, publish
        self._store, self._jobs, self._audit, self._sealing = parts.store, parts.jobs, parts.audit, sealing
        self._failure: tuple[JobState, EdgeAgentError] | None = None  # until the journal has it
        self._told: str | None = None  # the command whose failure the audit log has

    @property
    def is_due(self) -> bool:
        """Whether a failure waits to be written down: until then nothing else is begun."""
        return self._failure is not None

    def again(self) -> None:
        """Go on with what the disk did not let through.

        Raises:
            StorageFailed: it still does not.
        """
        if self._failure is not None:
            self.drop(*self._failure)

    def drop(self, state: JobState, error: EdgeAgentError) -> None:
        """Give up a command and its candidate, if it has one already; no failing disk gives it a second trial.

        Raises:
            StorageFailed: some of it is left, for ``again``.
        """
        self._live.shadow = None
        if (sealed := self._sealing.discard()) is not None:  # the journal does not name it yet
            state = replace(state, release_after=sealed.digest)
        self._failure = state, error  # of the disk as well: what the job made goes with its folder
        if state.release_after not in (None, self._live.release.digest):
            self._store.remove(state.release_after)
        self.end(state, error)

    def end(self, state: JobState, error: EdgeAgentError) -> None:
        """End a command that has no candidate.

        Raises:
            StorageFailed: it is not written down yet. If that is also why it fails, what failed is to be tried again,
                until the audit log has it; any other failure is for ``again``.
        """
        if not isinstance(error, StorageFailed):
            self._failure = state, error
        if self._jobs.on_disk:  # before it is gone: the certificate of a later command must say so
            state = self._journal.note(replace(state, on_disk=True))
            self._failure = self._failure and (state, error)
        self._jobs.clear()
        if self._told != state.id:
            about = {"id": state.id, "classes": list(state.classes), "code": error.code, "reason": error.reason}
            self._audit.append("command.failed", **about)
            self._told, self._failure = state.id, (state, error)  # what stands there is not taken back
        failed = self._journal.write(replace(state, status="failed", code=error.code, reason=error.reason, eta_s=None))
        self._failure = None
        log.warning("command.failed", id=state.id, classes=state.classes, code=error.code, reason=error.reason)
        self._publish.state(failed)
        self._masks.apply()
