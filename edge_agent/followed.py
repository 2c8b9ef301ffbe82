"""The model of a replica: it answers with the releases of another gateway, and remembers nothing.

The other gateway announces its live release, retained, and what it hides. The same is hidden here from then on, also
after a restart; the release itself is fetched in a thread of its own, verified, and swapped in; then all others in the
store are destroyed. An announcement that is older than what is followed changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent import __version__
from edge_agent.adapters.mqtt import Broker
from edge_agent.adapters.releases import Release, ReleaseStore
from edge_agent.adapters.workplace import bare_folder
from edge_agent.clock import Clock
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, Unreachable
from edge_agent.files import read_if_there, storage, write_atomically
from edge_agent.live import LiveModel, Loaded
from edge_agent.mqtt_link import Message
from edge_agent.schemas import messages
from edge_agent.schemas.commands import first_problem
from edge_agent.schemas.snapshot import ModelSnapshot
from edge_agent.schemas.topics import Topics
from edge_agent.serving import Serving
from edge_agent.settings import Config
from edge_agent.tally import Tally, tolerant

log = structlog.get_logger(__name__)

STATUS_EVERY_S: Final = 10.0
RETRY_S: Final = 10.0
LONGEST_RETRY_S: Final = 3600.0  # for a release that cannot work, of which no server will have another
RECORD: Final = "followed.json"  # of the state directory: the announcement that is followed
Fetch = Callable[[str, Path], Release]


class Announcement(BaseModel):
    """A gateway's live release, and what is hidden of it; the rest of the message is the card."""

    model_config = ConfigDict(frozen=True)

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    hidden: tuple[str, ...] = Field(max_length=1024)
    order: tuple[str, int, int]  # fingerprint of the gateway's key, its start, number in that

    def follows(self, before: Announcement) -> bool:
        """Whether it is not older; another installation of the gateway begins anew."""
        return self.order[0] != before.order[0] or self.order[1:] >= before.order[1:]


class _Errand(threading.Thread):
    """Fetches one release, seals it into the store and loads it, for the main thread to swap in."""

    def __init__(self, wanted: str, fetch: Fetch, install: Callable[[Release], Loaded]) -> None:
        super().__init__(name="fetch", daemon=True)
        self.wanted = wanted
        self.outcome: Loaded | EdgeAgentError = Unreachable("E_SOURCE", "the fetching ended without a result")
        self.done, self._fetch, self._install = threading.Event(), fetch, install

    def run(self) -> None:
        """Do it."""
        try:
            with bare_folder() as folder:
                self.outcome = self._install(self._fetch(self.wanted, folder))
        except EdgeAgentError as error:
            self.outcome = error
        finally:
            self.done.set()


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
        self._record = config.gateway.state_dir / RECORD
        self._followed: Announcement | None = None
        self._errand: _Errand | None = None
        self._again_s = self._status_s = self._tidy_s = float("-inf")
        self._retry_s = RETRY_S
        self._unrecorded = self._untidy = False  # what a failing disk has left to do

    def resume(self) -> None:
        """After a start: hide what was hidden, before the first answer, and destroy what a crash has left."""
        log.info("model.started", model=self.name, release=self.live.release.digest[:12], classes=self.live.card.living)
        if (known := recorded(self._record.parent)) is not None:
            self._follow(known)
        self._keep_only()

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
        """Follow what is announced, unless it is older than what is followed."""
        try:
            news = announcement(message.payload)
        except BrokenRelease as error:
            self.tally.show(message, error)
            return
        if self._followed is not None and not news.follows(self._followed):
            log.info("announcement.outdated", release=news.digest[:12], order=news.order)
            return
        self._follow(news)
        self._write_down()
        self._publish_status("online")

    def _write_down(self) -> None:
        assert self._followed is not None
        self._unrecorded = True
        with tolerant():
            remember(self._followed, self._record)
            self._unrecorded = False

    def _follow(self, news: Announcement) -> None:
        self._followed, self._again_s, self._retry_s = news, float("-inf"), RETRY_S
        self.live.hide(frozenset(news.hidden))

    @property
    def _wanted(self) -> str | None:
        """The digest of a release that is not here yet."""
        news = self._followed
        return news.digest if news is not None and news.digest != self.live.release.digest else None

    def poll(self, *, may_start: bool) -> None:
        """Fetch what is wanted, and adopt what has come."""
        now_s, errand, wanted = time.monotonic(), self._errand, self._wanted
        if errand is None and wanted is not None and may_start and now_s >= self._again_s:
            self._errand = _Errand(wanted, self._fetch, self._install)
            self._errand.start()
        elif errand is not None and errand.done.is_set():
            self._errand = None
            if isinstance(errand.outcome, BrokenRelease):
                self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
            self._again_s = now_s + self._retry_s
            self._take(errand)

    def _install(self, release: Release) -> Loaded:
        return self.live.load(self._store.add(release.folder))

    def _take(self, errand: _Errand) -> None:
        try:
            if isinstance(errand.outcome, EdgeAgentError):
                raise errand.outcome
            if errand.wanted != self._wanted:  # another was announced meanwhile
                self._keep_only()
                return
            self.live.swap(errand.outcome)
        except EdgeAgentError as error:
            self.tally.counters["releases_refused"] += 1
            about = {"code": error.code, "reason": error.reason, "next_try_s": self._retry_s}
            log.error("release.refused", release=errand.wanted[:12], **about)
            return
        log.info("release.adopted", release=self.live.release.digest[:12], reason="followed")
        self._keep_only()
        self._publish_status("online")

    def _keep_only(self) -> None:
        """Destroy every release but the live one."""
        self._untidy = True
        with tolerant():
            for other in self._store.digests():
                if other != self.live.release.digest:
                    self._store.remove(other)
            self._untidy = False

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
        self.serving.retry(now_s)
        if now_s >= self._status_s + STATUS_EVERY_S:
            self._publish_status("online")
        if (self._unrecorded or self._untidy) and now_s >= self._tidy_s:
            self._tidy_s = now_s + RETRY_S
            if self._unrecorded:
                self._write_down()
            if self._untidy and self._errand is None:  # what an errand brings must not go with the rest
                self._keep_only()

    def look(self) -> ModelSnapshot:
        """What it shows of itself."""
        return self.live.look()

    def in_words(self) -> str | None:
        """What it is at, for ``systemctl status``."""
        wanted = self._wanted
        return f"fetching release {wanted[:12]}" if wanted else None

    def reload(self, config: Config) -> list[str]:
        """Take over what may change while it runs; nothing changes besides."""
        self._config, self.live.max_abs = config, config.serving.max_abs
        return []


def remember(news: Announcement, record: Path) -> None:
    """Write down what is followed, for the next start.

    Raises:
        StorageFailed: it is as it was before.
    """
    with storage("what is followed cannot be stored"):
        write_atomically(record, news.model_dump_json().encode())


def recorded(state_dir: Path) -> Announcement | None:
    """What was followed before; None if nothing was.

    Raises:
        BrokenRelease: ``E_STORAGE``, it cannot be read, so nobody knows what is hidden.
    """
    record = state_dir / RECORD
    try:
        content = read_if_there(record)
        return Announcement.model_validate_json(content) if content is not None else None
    except (OSError, ValidationError) as error:
        raise BrokenRelease("E_STORAGE", f"{record} cannot be read: {error}"[:300]) from error


def announcement(payload: bytes) -> Announcement:
    """What a gateway announces.

    Raises:
        BrokenRelease: ``E_CARD``.
    """
    try:
        return Announcement.model_validate_json(payload)
    except ValidationError as error:
        raise BrokenRelease("E_CARD", f"what is announced is no release: {first_problem(error)}") from error
