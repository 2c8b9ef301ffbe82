"""The main loop: windows in, diagnoses out, commands to forget first.

One thread owns everything here. It takes a batch from the inbox, answers it, lets the forget job have its turn, and
once a second does the housekeeping. A window is acknowledged by the broker adapter when its diagnosis has been; a
refused message is acknowledged, counted and shown.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

import structlog

from edge_agent import __version__, logs
from edge_agent.adapters import heap
from edge_agent.adapters.mqtt import Broker
from edge_agent.adapters.systemd import Notifier
from edge_agent.clock import Clock
from edge_agent.config import changed_keys, needs_restart
from edge_agent.core.errors import EdgeAgentError, Misconfigured, Refused
from edge_agent.discovery import Discovery
from edge_agent.followed import FollowedModel
from edge_agent.inbox import Inbox
from edge_agent.mqtt_link import Connected, Disconnected, Dropped, Message, PublishRefused
from edge_agent.schemas.snapshot import Latency, Snapshot
from edge_agent.schemas.topics import ASSET, Topics
from edge_agent.served import ServedModel
from edge_agent.settings import Config
from edge_agent.tally import acknowledge, storage_failures, tolerant

log = structlog.get_logger(__name__)

TURN_S: Final = 0.1  # longest wait for a message
TURN_OF_A_JOB_S: Final = 0.02  # the same while a model is being changed, which goes on turn by turn
GIVE_BACK_EVERY_S: Final = 10.0
ASSETS_AT_HAND: Final = 4096  # whose model need not be looked up


class Agent:
    """Everything the composition root has made, at work until ``stop``.

    Args:
        models: the gateway's own first; it takes the windows of assets that no other has.
    """

    def __init__(
        self,
        config: Config,
        session: int,
        topics: Topics,
        inbox: Inbox,
        broker: Broker,
        models: Sequence[ServedModel] | Sequence[FollowedModel],
        latency: Latency,
        notifier: Notifier,
        clock: Clock,
        discovery: Discovery | None,
    ) -> None:
        self._config, self._session, self._topics = config, session, topics
        self._inbox, self._broker, self.models = inbox, broker, models
        self._latency, self._notifier, self._clock, self._discovery = latency, notifier, clock, discovery
        self._counters = models[0].tally.counters  # what concerns no model is counted with the gateway's own
        self._model_of = lru_cache(ASSETS_AT_HAND)(self._look_up)
        self._housekeeping_s = self._given_back_s = float("-inf")
        self._stopping = self._online = False
        self._busy_s = 0.0  # in which the main thread did not wait for messages, housekeeping apart
        self._refused: tuple[str, ...] = ()  # subscriptions that the broker does not grant
        self._new_config: Callable[[], Config] | None = None
        self.snapshot: Snapshot | None = None  # replaced as a whole, for other threads to read

    def run(self) -> None:
        """Serve until ``stop`` is called."""
        for model in self.models:
            model.resume()
        self._broker.start()
        self._notifier.send("READY=1")
        log.info("agent.started", version=__version__, session=self._session, models=len(self.models))
        while not self._stopping:
            self.turn(TURN_OF_A_JOB_S if any(model.has_job for model in self.models) else TURN_S)
        self._notifier.send("STOPPING=1")
        for model in self.models:
            model.stop()
        self._broker.stop(timeout_s=5.0)
        for model in self.models:
            model.close()
        log.info("agent.stopped", session=self._session, **self._counted())

    def stop(self) -> None:
        """End after the present turn; safe to call from a signal handler."""
        self._stopping = True

    def reload(self, read: Callable[[], Config]) -> None:
        """Read the configuration again in the next turn; safe to call from a signal handler."""
        self._new_config = read

    def turn(self, timeout_s: float) -> None:
        """Wait for work at most ``timeout_s``, and do it."""
        events, arrived = self._inbox.take(self._config.serving.max_batch, timeout_s)
        began_s = time.monotonic()
        for event in events:
            match event:
                case Connected():
                    self._online, self._refused = True, event.refused
                    self._connected(event)
                case Disconnected():
                    self._online = False
                    self._counters["disconnects"] += 1
                    for model in self.models:
                        model.serving.disconnected()
                    log.warning("broker.disconnected", code="E_BROKER", reason=event.reason)
                case Dropped():
                    self._counters["messages_dropped"] += 1
                case PublishRefused():
                    self.models[0].tally.failed("publishes_refused", "publish.refused", "E_BROKER", event.reason)
                case Message():
                    self._command(event)
        self._serve(arrived)
        for model in self.models:
            model.poll(may_start=not any(other.has_job for other in self.models))
        now_s = time.monotonic()
        self._busy_s += now_s - began_s
        if now_s >= self._housekeeping_s + 1.0:
            self._housekeeping_s = now_s
            self._housekeep(now_s)

    def _serve(self, arrived: list[Message]) -> None:
        """Give each message to the model of its asset; what one asset sends stays in order."""
        if len(self.models) == 1:
            self.models[0].serving.serve(arrived)
            return
        shares: dict[str, list[Message]] = {model.name: [] for model in self.models}
        for message in arrived:
            asset = message.topic.rpartition("/")[2]
            # What is no asset's name is refused by whoever gets it, and not remembered: it may be 65 kB long.
            name = self._model_of(asset) if ASSET.fullmatch(asset) else self.models[0].name
            shares[name].append(message)
        for model in self.models:
            model.serving.serve(shares[model.name])

    def _look_up(self, asset: str) -> str:
        for name, model in self._config.models.items():
            if any(fnmatchcase(asset, pattern) for pattern in model.assets):
                return name
        return self.models[0].name

    def _command(self, message: Message) -> None:
        name = message.topic.rpartition("/")[2]
        if self._topics.is_plant_wide(message.topic):
            classes = set(name.split(","))
            asked = [model for model in self.models if model.knows(classes)] or self.models[:1]
        else:
            asked = [model for model in self.models if model.is_asked(message.topic)]
        for model in asked:
            model.command(name, message)
        if not asked:
            words = f"no model listens to {message.topic[:100]!r}; the configuration names {', '.join(self._names())}"
            self.models[0].tally.show(message, Refused("E_TOPIC", words))
        acknowledge(message)

    def _names(self) -> list[str]:
        return [model.name for model in self.models[1:]] or ["none"]

    def _connected(self, event: Connected) -> None:
        self._counters["connects"] += 1
        log.info("broker.connected", protocol=event.protocol, session_present=event.session_present)
        for model in self.models:
            model.republish()
        if self._discovery is not None:
            self._discovery.again()

    def _housekeep(self, now_s: float) -> None:
        with tolerant():
            self._clock.keep()
        self._counters["storage_failures"] = storage_failures()
        for model in self.models:
            model.housekeep(now_s)
        self._notifier.send("WATCHDOG=1", f"STATUS={self._in_words()}")
        self.snapshot = self._look(now_s)
        if now_s >= self._given_back_s + GIVE_BACK_EVERY_S:
            self._given_back_s = now_s
            heap.give_back()
        if self._new_config is not None:
            read, self._new_config = self._new_config, None
            self._reload(read)

    def _look(self, now_s: float) -> Snapshot:
        return Snapshot(
            turn_s=now_s,
            busy_s=self._busy_s,
            online=self._online,
            refused=self._refused,
            counters=self._counted(),
            latency_counts=tuple(self._latency.counts),
            latency_sum_s=self._latency.sum_s,
            inbox_depth=len(self._inbox),
            inbox_capacity=self._config.mqtt.in_flight,
            models={model.name: model.look() for model in self.models},
            clock_synchronised=self._clock.now().synchronised,
        )

    def _counted(self) -> dict[str, int]:
        """The counters of all models together."""
        total: Counter[str] = Counter()
        for model in self.models:
            total.update(model.tally.counters)
        if "bytes_written" in total:  # of the process, in each
            total["bytes_written"] = self._counters["bytes_written"]
        return dict(total)

    def _in_words(self) -> str:
        """What the agent is doing, for ``systemctl status``."""
        words = [f"{self._counted().get('windows_answered', 0)} windows answered"]
        words += filter(None, (model.in_words() for model in self.models))
        if not self._online:
            words.append("no connection to the broker")
        elif self._refused:
            words.append(f"the broker refuses {len(self._refused)} subscriptions")
        return "; ".join(words)

    def _reload(self, read: Callable[[], Config]) -> None:
        try:
            config = read()
            keys = changed_keys(self._config, config)
            if fixed := needs_restart(keys):
                raise Misconfigured("E_CONFIG", f"a restart is needed to change {', '.join(fixed)}")
            for model in self.models:
                keys += model.reload(config.of_model(model.name))
        except EdgeAgentError as error:
            log.error("config.refused", code=error.code, reason=error.reason)
            return
        self._config = config
        logs.configure(config.logs.level, config.logs.format)
        log.info("config.reloaded", changed=sorted(set(keys)))
