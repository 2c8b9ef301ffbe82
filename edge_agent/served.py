"""One model that the agent serves, with all that is its own: releases, cache, journal, audit log, certificates, topics.

A gateway has one, and more where the section ``models`` of the configuration gives assets one of their own. To the
plant each looks like a gateway: its topics, its status, its commands; only windows and diagnoses are in common.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import structlog

from edge_agent import __version__
from edge_agent.adapters.audit import AuditLog
from edge_agent.adapters.mqtt import Broker
from edge_agent.adapters.windows import WindowCache
from edge_agent.adopting import Adopting
from edge_agent.budget import bytes_written
from edge_agent.core.errors import EdgeAgentError, Refused, StorageFailed
from edge_agent.forgetting import Forgetting
from edge_agent.intake import command_keys
from edge_agent.live import LiveModel
from edge_agent.masks import Masks
from edge_agent.mqtt_link import Message
from edge_agent.schemas import messages
from edge_agent.schemas.commands import id_of, parse_unlearn
from edge_agent.schemas.snapshot import ModelSnapshot, Running
from edge_agent.schemas.topics import Topics
from edge_agent.serving import Serving
from edge_agent.settings import Config
from edge_agent.tally import Tally, tolerant

log = structlog.get_logger(__name__)

STATUS_EVERY_S = 10.0
LONGEST_NAME = 4096  # of a class list that is answered: a topic has at most 65,535 bytes


class ServedModel:
    """Everything here runs in the agent's main thread.

    Args:
        config: the gateway's, as ``Config.of_model`` gives it.
        topics: of this model.
        session: number of this start of the agent.
    """

    forgetting: Forgetting  # set by the composition root: it announces through this object
    adopting: Adopting  # likewise: it waits for what forgets

    def __init__(
        self,
        name: str,
        config: Config,
        topics: Topics,
        session: int,
        broker: Broker,
        tally: Tally,
        live: LiveModel,
        cache: WindowCache,
        serving: Serving,
        audit: AuditLog,
        masks: Masks,
    ) -> None:
        self.name, self.topics, self.live, self.serving, self.tally = name, topics, live, serving, tally
        self._config, self._session, self._broker = config, session, broker
        self._cache, self._audit, self._masks = cache, audit, masks
        self._status_s = float("-inf")
        self._announced: tuple[str, frozenset[str]] | None = None  # release and what is hidden, as replicas know it
        self._announcements = 0

    def resume(self) -> None:
        """After a start: mask what the journal says, before the first answer."""
        self.forgetting.resume()
        about = {"version": __version__, "session": self._session, "release": self.live.release.digest}
        with tolerant():
            self._audit.append("agent.started", **about)
        log.info("model.started", model=self.name, release=self.live.release.digest[:12], classes=self.live.card.living)

    def stop(self) -> None:
        """End a running job, and say goodbye."""
        self.forgetting.stop()
        self._broker.publish(self.topics.status, messages.dump(self._birth("offline")), retain=True)

    def close(self) -> None:
        """Write out what is held back."""
        self._cache.close()
        with tolerant():
            self._audit.close()

    @property
    def state_dir(self) -> Path:
        """Where all of it lies."""
        return self._config.gateway.state_dir

    @property
    def has_job(self) -> bool:
        """Whether a forget job runs."""
        return self.forgetting.has_job

    def poll(self, *, may_start: bool) -> None:
        """Let the forget job have its turn."""
        self.forgetting.poll(may_start=may_start)

    def is_asked(self, topic: str) -> bool:
        """Whether a command is for this model."""
        return topic.rpartition("/")[0] == self.topics.unlearn_head

    def knows(self, classes: set[str]) -> bool:
        """Whether it has or had one of these classes."""
        return not classes.isdisjoint(self.live.card.classes)

    def in_words(self) -> str | None:
        """What it is at, for ``systemctl status``."""
        state = self.forgetting.at_work
        return f"forgetting {state.name}: {state.phase}, {state.progress:.0%}" if state else None

    def command(self, name: str, message: Message) -> None:
        """Accept or refuse a command to forget the classes of ``name``; who acknowledges it is the caller."""
        id_ = None
        try:
            if message.retained:
                raise Refused("E_RETAINED", "the command is retained; it would run again after every reconnect")
            command = parse_unlearn(name, message.payload)
            name, id_ = command.name, command.id
            self.announce(self.forgetting.accept(command))
        except (Refused, StorageFailed) as error:
            self.tally.show(message, error)
            if len(name) <= LONGEST_NAME:
                self._reject(name, id_ or id_of(message.payload), error)
            with tolerant():
                self._audit.refused(message.topic, message.payload, error)
            return
        self.tally.counters["commands_accepted"] += 1
        self._tell_replicas()

    def _reject(self, name: str, id_: str | None, error: EdgeAgentError) -> None:
        """Tell who asked. Not retained: a refused command does not change what is known of the class."""
        content = {
            "id": id_,
            "classes": name.split(","),
            "status": "rejected",
            "code": error.code,
            "reason": error.reason,
        }
        self._broker.publish(self.topics.unlearn_status(name), messages.dump(content))

    def announce(self, state: messages.JobState) -> None:
        """Publish a command's state; after that of an older one the newest of its classes, which alone is retained."""
        topic, newest = self.topics.unlearn_status(state.name), self.forgetting.newest()[state.name]
        if newest.id != state.id:
            self._broker.publish(topic, messages.dump(messages.job_status(state)))
        self._broker.publish(topic, messages.dump(messages.job_status(newest)), retain=True)
        if state.finished:  # what is cached and masked is not what it was
            self._status_s = float("-inf")

    def publish_certificate(self, name: str, document: bytes) -> None:
        """Publish the certificate of a forget command, retained, byte for byte as it was signed."""
        self._broker.publish(self.topics.certificate(name), document, retain=True)

    def publish_release(self) -> None:
        """Publish the live release's card, retained, what no answer may name, and the status that names it.

        Replicas go by it. They tell an old one by the start of the agent and its number in that. They hide also what
        this release does not know: theirs may be an older one.
        """
        self._announced, self._announcements = self._to_tell, self._announcements + 1
        digest, hidden = self._to_tell
        content = {
            "digest": digest,
            "hidden": sorted(hidden),
            "order": [self.forgetting.fingerprint, self._session, self._announcements],
            **self.live.card.model_dump(mode="json"),
        }
        self._broker.publish(self.topics.release, messages.dump(content), retain=True)
        self.publish_status()

    @property
    def _to_tell(self) -> tuple[str, frozenset[str]]:
        return self.live.release.digest, self.live.hidden

    def _tell_replicas(self) -> bool:
        """Announce what serves, if it is not what was announced last."""
        if self._announced in (None, self._to_tell):
            return False
        self.publish_release()
        return True

    def republish(self) -> None:
        """The broker's retained topics are a projection of our state: publish all of it again."""
        self.publish_release()
        self.forgetting.republish()

    def publish_status(self) -> None:
        """Publish the birth message, retained."""
        self._status_s = time.monotonic()
        counters = self.tally.counters
        counters["cache_over_budget"] = self._cache.over_budget
        if (written := bytes_written()) is not None:
            counters["bytes_written"] = written
        self._broker.publish(self.topics.status, messages.dump(self._birth("online")), retain=True)

    def _birth(self, state: str) -> dict[str, object]:
        return {
            "state": state,
            "session": self._session,
            "gateway": self._config.gateway.name,
            "version": __version__,
            "release": self.live.release.digest,
            "masked": self.live.masked,
            "cached": self._cache.counts(),
            "counters": dict(self.tally.counters),
            **self.forgetting.credentials(),
        }

    def housekeep(self, now_s: float) -> None:
        """Once a second."""
        self.tally.next_second()
        self.serving.retry(now_s)
        for duty in (self._revive, self.forgetting.guard):
            with tolerant():
                duty()
        self.adopting.settle(now_s)
        if not self._tell_replicas() and now_s >= self._status_s + STATUS_EVERY_S:
            self.publish_status()
        with tolerant():
            if self.adopting.poll(now_s):
                self.publish_release()

    def look(self) -> ModelSnapshot:
        """What it shows of itself."""
        at_work = self.forgetting.at_work
        return replace(
            self.live.look(),
            cached=self._cache.counts(),
            slot_bytes=self._cache.slot_bytes,
            commands=self.forgetting.by_status(),
            running=None if at_work is None else Running(at_work.phase, at_work.progress),
        )

    def _revive(self) -> None:
        self._masks.revive_wanted(self._config.gateway.state_dir)

    def reload(self, config: Config) -> list[str]:
        """Take over what may change while it runs; returns what has changed besides the configuration.

        Raises:
            Misconfigured: ``E_KEY``, a key of commands cannot be read; then nothing has changed.
        """
        replaced = self.forgetting.reload(config.forget, command_keys(config))
        self._config, self.serving.settings = config, config.cache
        self.live.max_abs = config.serving.max_abs
        return [f"commands.keys.{id_}" for id_ in replaced]
