"""The model of a replica: it answers with the releases of another gateway, and remembers nothing.

The other gateway announces its live release, retained. What that has forgotten is hidden here from then on; the release
itself is fetched in a thread of its own, verified, and swapped in; then all others in the store are destroyed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from edge_agent import __version__
from edge_agent.adapters.mqtt import Broker
from edge_agent.adapters.releases import Release, ReleaseStore
from edge_agent.adapters.workplace import bare_folder
from edge_agent.clock import Clock
from edge_agent.config import Config
from edge_agent.core.errors import BrokenRelease, EdgeAgentError
from edge_agent.live import LiveModel, refuse_erased
from edge_agent.mqtt_link import Message
from edge_agent.schemas import messages
from edge_agent.schemas.card import Card, parse_card
from edge_agent.schemas.snapshot import ModelSnapshot
from edge_agent.schemas.topics import Topics
from edge_agent.serving import Serving
from edge_agent.tally import Tally

log = structlog.get_logger(__name__)

STATUS_EVERY_S: Final = 10.0
RETRY_S: Final = 10.0
Fetch = Callable[[str, Path, Callable[[Card], None]], Release]


class _Errand(threading.Thread):
    """Fetches one release; touches nothing else. The folder is removed by whoever takes the outcome."""

    def __init__(self, wanted: str, fetch: Fetch, check: Callable[[Card], None]) -> None:
        super().__init__(name="fetch", daemon=True)
        self.wanted, self.folder = wanted, bare_folder()
        self.outcome: Release | EdgeAgentError | None = None
        self._fetch, self._check = fetch, check

    def run(self) -> None:
        """Fetch it."""
        try:
            self.outcome = self._fetch(self.wanted, Path(self.folder.name), self._check)
        except EdgeAgentError as error:
            self.outcome = error


class FollowedModel:
    """Everything here runs in the agent's main thread, but for the fetching.

    Args:
        leader: topics of the gateway that it follows; ``topics`` are its own.
        fetch: fetches the release with a digest into a folder.
    """

    has_job = False

    def __init__(
        self,
        name: str,
        config: Config,
        topics: Topics,
        leader: Topics,
        session: int,
        broker: Broker,
        tally: Tally,
        store: ReleaseStore,
        live: LiveModel,
        serving: Serving,
        clock: Clock,
        fetch: Fetch,
    ) -> None:
        self.name, self.live, self.serving, self.tally = name, live, serving, tally
        self._topics, self._leader, self._clock, self._fetch = topics, leader, clock, fetch
        self._config, self._session, self._broker, self._store = config, session, broker, store
        self._wanted: str | None = None
        self._errand: _Errand | None = None
        self._again_s = self._status_s = float("-inf")

    def resume(self) -> None:
        """After a start."""
        log.info("model.started", model=self.name, release=self.live.release.digest[:12], classes=self.live.card.living)

    def stop(self) -> None:
        """Say goodbye."""
        self._publish_status("offline")

    def close(self) -> None:
        """Nothing is held back."""

    def is_asked(self, topic: str) -> bool:
        """Whether a message is for it: the other gateway's live release."""
        return topic == self._leader.release

    def knows(self, _: set[str]) -> bool:
        """It takes no command that is meant for all."""
        return False

    def command(self, _: str, message: Message) -> None:
        """Hide what the announced release has forgotten, and want it."""
        try:
            wanted, card = _announced(message.payload)
        except BrokenRelease as error:
            self.tally.show(message, error)
            return
        self.live.hide(frozenset(card.forgotten) & set(self.live.card.classes))
        self._wanted = wanted if wanted != self.live.release.digest else None
        self._again_s = float("-inf")

    def poll(self, *, may_start: bool) -> None:
        """Fetch what is wanted, and adopt what has come."""
        now_s, errand = time.monotonic(), self._errand
        if errand is None and self._wanted is not None and may_start and now_s >= self._again_s:
            self._errand = _Errand(self._wanted, self._fetch, self._refuse)
            self._errand.start()
        elif errand is not None and not errand.is_alive():
            self._errand, self._again_s = None, now_s + RETRY_S
            with errand.folder:
                self._take(errand)

    def _refuse(self, card: Card) -> None:
        """What the live release has forgotten, no later one brings back."""
        refuse_erased(card, frozenset(self.live.card.forgotten))

    def _take(self, errand: _Errand) -> None:
        try:
            if isinstance(errand.outcome, EdgeAgentError):
                raise errand.outcome
            release = self._store.add(Path(errand.folder.name))
            self.live.adopt(release, frozenset(self.live.card.forgotten))
            self._wanted = None if self._wanted == release.digest else self._wanted
            log.info("release.adopted", release=release.digest[:12], reason="followed")
            for other in self._store.digests():
                if other != release.digest:
                    self._store.remove(other)
        except EdgeAgentError as error:
            self.tally.counters["releases_refused"] += 1
            about = {"code": error.code, "reason": error.reason, "next_try_s": RETRY_S}
            log.error("release.refused", release=errand.wanted[:12], **about)
        self._publish_status("online")

    def republish(self) -> None:
        """The broker's retained topics are a projection of our state."""
        self._publish_status("online")

    def _publish_status(self, state: str) -> None:
        self._status_s = time.monotonic()
        content = {
            "state": state,
            "session": self._session,
            "gateway": self._config.gateway.name,
            "replica_of": self._leader.base,
            "version": __version__,
            "release": self.live.release.digest,
            "masked": self.live.masked,
            "counters": dict(self.tally.counters),
            "clock": self._clock.now().document(),
        }
        self._broker.publish(self._topics.status, messages.dump(content), retain=True)

    def housekeep(self, now_s: float) -> None:
        """Once a second."""
        self.tally.next_second()
        if now_s >= self._status_s + STATUS_EVERY_S:
            self._publish_status("online")

    def look(self) -> ModelSnapshot:
        """What it shows of itself."""
        return ModelSnapshot(
            counters=dict(self.tally.counters),
            release=self.live.release.digest,
            release_name=self.live.card.name,
            provider=self.live.provider,
            adopted_s=self.live.adopted_s,
            masked=self.live.masked,
            cached={},
            slot_bytes=0,
            commands={},
            running=None,
        )

    def in_words(self) -> str | None:
        """What it is at, for ``systemctl status``."""
        return f"fetching release {self._wanted[:12]}" if self._wanted else None

    def reload(self, config: Config) -> None:
        """Take over what may change while it runs."""
        self._config, self.live.max_abs = config, config.serving.max_abs


def _announced(payload: bytes) -> tuple[str, Card]:
    """The digest and the card that a gateway announces.

    Raises:
        BrokenRelease: ``E_CARD``.
    """
    try:
        content = json.loads(payload)
        wanted = content.pop("digest")
        if not isinstance(wanted, str) or len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
            raise ValueError("the digest is no SHA-256")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise BrokenRelease("E_CARD", f"what is announced is no release: {str(error)[:100]}") from error
    return wanted, parse_card(json.dumps(content).encode())
