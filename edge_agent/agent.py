"""The main loop: windows in, diagnoses out, commands to forget first.

One thread owns everything here. It takes a batch from the inbox, answers it, lets the forget job have its turn, and
once a second does the housekeeping. A window is acknowledged by the broker adapter when its diagnosis has been; a
refused message is acknowledged, counted and shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from edge_agent import __version__, logs
from edge_agent.adapters import heap
from edge_agent.adapters.audit import AuditLog
from edge_agent.adapters.mqtt import Broker
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.adapters.systemd import Notifier
from edge_agent.adapters.windows import WindowCache
from edge_agent.budget import bytes_written
from edge_agent.clock import Clock
from edge_agent.config import Config, changed_keys, needs_restart
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, Refused, StorageFailed
from edge_agent.forgetting import Forgetting
from edge_agent.inbox import Inbox
from edge_agent.live import LiveModel
from edge_agent.masks import Masks
from edge_agent.mqtt_link import Connected, Disconnected, Dropped, Message, PublishRefused
from edge_agent.schemas import messages
from edge_agent.schemas.commands import id_of, parse_unlearn
from edge_agent.schemas.snapshot import Running, Snapshot
from edge_agent.schemas.topics import Topics
from edge_agent.serving import Serving
from edge_agent.tally import Tally, acknowledge, tolerant

log = structlog.get_logger(__name__)

TURN_S: Final = 0.1  # longest wait for a message
STATUS_EVERY_S: Final = 10.0
GIVE_BACK_EVERY_S: Final = 10.0
LONGEST_NAME: Final = 4096  # of a class list that is answered: a topic has at most 65,535 bytes


class Agent:
    """Everything the composition root has made, at work until ``stop``."""

    def __init__(
        self,
        config: Config,
        session: int,
        topics: Topics,
        inbox: Inbox,
        broker: Broker,
        store: ReleaseStore,
        live: LiveModel,
        cache: WindowCache,
        notifier: Notifier,
        tally: Tally,
        serving: Serving,
        audit: AuditLog,
        clock: Clock,
        masks: Masks,
    ) -> None:
        self._config, self._session, self._topics = config, session, topics
        self._inbox, self._broker, self._store = inbox, broker, store
        self._live, self._cache, self._notifier = live, cache, notifier
        self.forgetting: Forgetting  # set by the composition root: it announces through this object
        self._tally, self._counters, self._serving = tally, tally.counters, serving
        self._audit, self._clock, self._masks = audit, clock, masks
        self._housekeeping_s = self._status_s = self._given_back_s = float("-inf")
        self._stopping = self._online = False
        self._new_config: Callable[[], Config] | None = None
        self.snapshot: Snapshot | None = None  # replaced as a whole, for other threads to read

    def run(self) -> None:
        """Serve until ``stop`` is called."""
        self.forgetting.resume()
        about = {"version": __version__, "session": self._session, "release": self._live.release.digest}
        with tolerant():
            self._audit.append("agent.started", **about)
        self._broker.start()
        self._notifier.send("READY=1")
        log.info("agent.started", version=__version__, session=self._session, release=self._live.release.digest[:12])
        while not self._stopping:
            self.turn(TURN_S)
        self._notifier.send("STOPPING=1")
        self.forgetting.stop()
        self._broker.publish(self._topics.status, messages.dump(self._birth("offline")), retain=True)
        self._broker.stop(timeout_s=5.0)
        self._cache.close()
        log.info("agent.stopped", session=self._session, **self._counters)

    def stop(self) -> None:
        """End after the present turn; safe to call from a signal handler."""
        self._stopping = True

    def reload(self, read: Callable[[], Config]) -> None:
        """Read the configuration again in the next turn; safe to call from a signal handler."""
        self._new_config = read

    def turn(self, timeout_s: float) -> None:
        """Wait for work at most ``timeout_s``, and do it."""
        events, arrived = self._inbox.take(self._config.serving.max_batch, timeout_s)
        for event in events:
            match event:
                case Connected():
                    self._online = True
                    self._connected(event)
                case Disconnected():
                    self._online = False
                    self._counters["disconnects"] += 1
                    log.warning("broker.disconnected", code="E_BROKER", reason=event.reason)
                case Dropped():
                    self._counters["messages_dropped"] += 1
                case PublishRefused():
                    self._tally.failed("publishes_refused", "publish.refused", "E_BROKER", event.reason)
                case Message():
                    self._command(event)
        self._serving.serve(arrived)
        self.forgetting.poll()
        now_s = time.monotonic()
        if now_s >= self._housekeeping_s + 1.0:
            self._housekeeping_s = now_s
            self._housekeep(now_s)

    def _command(self, message: Message) -> None:
        name = id_ = None
        try:
            _, name = self._topics.parse(message.topic)
            if message.retained:
                raise Refused("E_RETAINED", "the command is retained; it would run again after every reconnect")
            command = parse_unlearn(name, message.payload)
            name, id_ = command.name, command.id
            self.announce(self.forgetting.accept(command))
        except (Refused, StorageFailed) as error:
            self._tally.refuse(message, error)
            if name is not None and len(name) <= LONGEST_NAME:
                self._reject(name, id_ or id_of(message.payload), error)
            with tolerant():
                self._audit.refused(message.topic, message.payload, error)
            return
        self._counters["commands_accepted"] += 1
        acknowledge(message)

    def _reject(self, name: str, id_: str | None, error: EdgeAgentError) -> None:
        """Tell who asked. Not retained: a refused command does not change what is known of the class."""
        content = {
            "id": id_,
            "classes": name.split(","),
            "status": "rejected",
            "code": error.code,
            "reason": error.reason,
        }
        self._broker.publish(self._topics.unlearn_status(name), messages.dump(content))

    def announce(self, state: messages.JobState) -> None:
        """Publish a command's state, retained."""
        self._broker.publish(
            self._topics.unlearn_status(state.name), messages.dump(messages.job_status(state)), retain=True
        )

    def publish_certificate(self, name: str, document: bytes) -> None:
        """Publish the certificate of a forget command, retained, byte for byte as it was signed."""
        self._broker.publish(self._topics.certificate(name), document, retain=True)

    def _connected(self, event: Connected) -> None:
        """The broker's retained topics are a projection of our state: publish all of it again."""
        self._counters["connects"] += 1
        log.info("broker.connected", protocol=event.protocol, session_present=event.session_present)
        self._publish_status()
        self.publish_release()
        self.forgetting.republish()

    def publish_release(self) -> None:
        """Publish the live release's card, retained, and the status that names it."""
        card = {"digest": self._live.release.digest, **self._live.card.model_dump(mode="json")}
        self._broker.publish(self._topics.release, messages.dump(card), retain=True)
        self._publish_status()

    def _publish_status(self) -> None:
        self._status_s = time.monotonic()
        self._counters["cache_over_budget"] = self._cache.over_budget
        if (written := bytes_written()) is not None:
            self._counters["bytes_written"] = written
        self._broker.publish(self._topics.status, messages.dump(self._birth("online")), retain=True)

    def _birth(self, state: str) -> dict[str, object]:
        return {
            "state": state,
            "session": self._session,
            "gateway": self._config.gateway.name,
            "version": __version__,
            "release": self._live.release.digest,
            "masked": self._live.masked,
            "cached": self._cache.counts(),
            "counters": dict(self._counters),
            **self.forgetting.credentials(),
        }

    def _housekeep(self, now_s: float) -> None:
        self._tally.next_second()
        for duty in (self._clock.keep, self._revive, self.forgetting.guard):
            with tolerant():
                duty()
        self._notifier.send("WATCHDOG=1", f"STATUS={self._in_words()}")
        if now_s >= self._status_s + STATUS_EVERY_S:
            self._publish_status()
        self.snapshot = self._look(now_s)
        if now_s >= self._given_back_s + GIVE_BACK_EVERY_S:
            self._given_back_s = now_s
            heap.give_back()
        if (wanted := self._store.wanted()) is not None:
            self._adopt_wanted(wanted)
        if self._new_config is not None:
            read, self._new_config = self._new_config, None
            self._reload(read)

    def _look(self, now_s: float) -> Snapshot:
        latency, at_work = self._serving.latency, self.forgetting.at_work
        return Snapshot(
            turn_s=now_s,
            online=self._online,
            counters=dict(self._counters),
            latency_counts=tuple(latency.counts),
            latency_sum_s=latency.sum_s,
            inbox_depth=len(self._inbox),
            inbox_capacity=self._config.mqtt.in_flight,
            release=self._live.release.digest,
            release_name=self._live.card.name,
            provider=self._live.provider,
            adopted_s=self._live.adopted_s,
            masked=self._live.masked,
            cached=self._cache.counts(),
            slot_bytes=self._cache.slot_bytes,
            commands=self.forgetting.by_status(),
            running=None if at_work is None else Running(at_work.phase, at_work.progress),
            clock_synchronised=self._clock.now().synchronised,
        )

    def _revive(self) -> None:
        self._masks.revive_wanted(self._config.gateway.state_dir)

    def _in_words(self) -> str:
        """What the agent is doing, for ``systemctl status``."""
        words = [f"{self._counters['windows_answered']} windows answered"]
        if state := self.forgetting.at_work:
            words.append(f"forgetting {state.name}: {state.phase}, {state.progress:.0%}")
        if not self._online:
            words.append("no connection to the broker")
        return "; ".join(words)

    def _adopt_wanted(self, wanted: str) -> None:
        """Adopt the release that ``edge-agent releases`` asked for, once no command works on the present one."""
        if self.forgetting.at_work:
            return
        try:
            self._store.forget_wish()  # first: a release that ended the process would do so at every start
            self._live.adopt(self._store.get(wanted), self.forgetting.unwelcome(wanted))
        except (BrokenRelease, StorageFailed) as error:
            self._counters["releases_refused"] += 1
            log.error("release.refused", release=wanted[:12], code=error.code, reason=error.reason)
            with tolerant():
                self._audit.append("release.refused", release=wanted, code=error.code, reason=error.reason)
            if error.code == "E_ERASED":  # what was erased must not lie in the store
                with tolerant():
                    self._store.remove(wanted)
            return
        log.info("release.adopted", release=wanted[:12], reason="operator")
        try:
            self._audit.append("release.adopted", release=wanted, reason="operator")
            fit_cache(self._cache, self._live)
            self.forgetting.release_adopted()
        except StorageFailed as error:
            self._tally.failed("cache_failures", "storage.failed", error.code, error.reason)
        self.publish_release()

    def _reload(self, read: Callable[[], Config]) -> None:
        try:
            config = read()
        except EdgeAgentError as error:
            log.error("config.refused", code=error.code, reason=error.reason)
            return
        keys = changed_keys(self._config, config)
        if fixed := needs_restart(keys):
            log.error("config.refused", code="E_CONFIG", reason=f"a restart is needed to change {', '.join(fixed)}")
            return
        self._config, self.forgetting.settings, self._serving.settings = config, config.forget, config.cache
        self._live.max_abs = config.serving.max_abs
        logs.configure(config.logs.level, config.logs.format)
        log.info("config.reloaded", changed=keys)


def fit_cache(cache: WindowCache, live: LiveModel) -> None:
    """Give the cache the classes and the window shape of the live release.

    Raises:
        StorageFailed: some classes are not cached until the next start.
    """
    dropped = cache.fit(live.card.classes, (live.spec.channels, live.spec.length))
    if dropped:
        log.warning("cache.dropped", files=dropped, reason="of classes or a window shape that the release has not")
