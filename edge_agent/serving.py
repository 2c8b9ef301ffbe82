"""Windows and labels: decode, answer in batches, cache."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import replace
from typing import Final

import numpy as np
import structlog

from edge_agent.adapters.mqtt import Broker
from edge_agent.adapters.windows import WindowCache
from edge_agent.core.errors import BrokenRelease, Refused, StorageFailed
from edge_agent.core.types import Float32, Window
from edge_agent.discovery import Discovery
from edge_agent.live import LiveModel
from edge_agent.mqtt_link import Message
from edge_agent.reservoir import Source
from edge_agent.schemas import messages
from edge_agent.schemas.commands import parse_label
from edge_agent.schemas.snapshot import Latency
from edge_agent.schemas.topics import Topics
from edge_agent.schemas.windows import examine, read
from edge_agent.settings import Cache
from edge_agent.tally import Tally, acknowledge

log = structlog.get_logger(__name__)

LONGEST_STUCK_S: Final = 60.0  # with the time of a start it keeps below the restarts that systemd allows
LONGEST_RETRY_S: Final = 0.5  # of a second: commands and the watchdog wait meanwhile
MOST_STUCK: Final = 256
MOST_ASSETS: Final = 4096  # whose sequence numbers are followed; the longest silent one is dropped


class Serving:
    """Answers what the inbox holds. Owner of the sequence numbers last seen.

    Args:
        raw_boot: boot of the windows that carry no number, told apart from that of every other start and gateway: the
            replicas of a model answer under one topic.
        topics: of the gateway, where windows come in and diagnoses go out whatever the model.
        cache: None for a replica, which keeps nothing.
        latency: of all models together.
        discovery: told of each asset; None: nobody wants to know.
        alone: whether every window of an asset comes here; else its numbers say nothing of gaps and repeats.
    """

    def __init__(
        self,
        settings: Cache,
        raw_boot: str,
        topics: Topics,
        broker: Broker,
        live: LiveModel,
        cache: WindowCache | None,
        tally: Tally,
        latency: Latency,
        discovery: Discovery | None = None,
        *,
        alone: bool = True,
    ) -> None:
        self.settings = settings
        self._raw_boot, self._raw_seq = raw_boot, 0
        self._topics, self._broker = topics, broker
        self._live, self._cache = live, cache
        self._alone, self._discovery = alone, discovery
        self._tally, self._counters, self._latency = tally, tally.counters, latency
        self._stuck: deque[tuple[Message, Window, BrokenRelease]] = (
            deque()
        )  # windows that the model could not be run on
        self._stuck_s: float | None = None  # since when there have been any
        self._left_out = False  # whether there were more, which the broker has
        self._runs = self._runs_before = 0  # of the model that gave answers, by now and by then
        self._last_seen: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def serve(self, arrived: list[Message]) -> None:
        """Answer windows in batches; a label is looked at after the windows that came before it."""
        batch: list[tuple[Message, Window]] = []
        for message in arrived:
            try:
                if message.retained:
                    raise Refused("E_RETAINED", "the message is retained; windows and labels must not be")
                kind, asset = self._topics.parse(message.topic)
                if kind == "label":
                    self._answer(batch)
                    batch = []
                    self._label(asset, message)
                else:
                    batch.append((message, self._read(asset, message.payload)))
            except Refused as error:
                self._tally.refuse(message, error)
        self._answer(batch)

    def _read(self, asset: str, payload: bytes) -> Window:
        self._raw_seq += 1
        return read(asset, payload, self._live.spec, self._raw_boot, self._raw_seq)

    def _numbered(self, window: Window, found: tuple[str, ...]) -> Window:
        """The window with all its flags: what was found in it, and what its number says."""
        flags = (*found, *self._flag(window))
        return replace(window, flags=flags) if flags else window

    def _flag(self, window: Window) -> tuple[str, ...]:
        """Whether windows are missing before it, or it came before."""
        if window.boot == self._raw_boot or not self._alone:
            return ()  # its number is ours, one count for all assets: it says nothing of gaps and repeats
        boot, seq = self._last_seen.pop(window.asset, ("", -1))
        self._last_seen[window.asset] = window.boot, max(window.seq, seq) if window.boot == boot else window.seq
        if len(self._last_seen) > MOST_ASSETS:
            self._last_seen.popitem(last=False)
        if window.boot != boot or window.seq == seq + 1:
            return ()
        flag = "repeat" if window.seq <= seq else "gap"
        self._counters[f"windows_{flag}"] += 1
        return (flag,)

    def _examined(self, batch: list[tuple[Message, Window]]) -> tuple[list[tuple[Message, Window]], Float32]:
        """Those whose samples are sound, and these samples, float32 (n, channels, length); the others are refused."""
        windows = [window.samples for _, window in batch]
        # Most come alone, and a copy would take as long as looking at it.
        samples = windows[0][np.newaxis] if len(windows) == 1 else np.stack(windows)
        sound, kept = [], []
        for index, ((message, window), found) in enumerate(zip(batch, examine(samples, self._live.spec), strict=True)):
            if isinstance(found, Refused):
                self._tally.refuse(message, found)
            else:
                sound.append((message, self._numbered(window, found)))
                kept.append(index)
        return sound, samples if len(kept) == len(batch) else samples[kept]

    def _answer(self, batch: list[tuple[Message, Window]]) -> None:
        if not batch:
            return
        batch, samples = self._examined(batch)
        if batch:
            self._run(batch, samples)

    def _run(self, batch: list[tuple[Message, Window]], samples: Float32) -> None:
        """Answer windows, float32 (n, channels, length); where the model cannot be run on all, on each by itself."""
        try:
            answers = self._live.answer(samples)
        except BrokenRelease as error:
            if error.code == "E_ERASED":  # no class may be named, and none will
                for message, _ in batch:
                    self._tally.refuse(message, error)
            elif len(batch) > 1:
                for index, one in enumerate(batch):
                    self._run([one], samples[index : index + 1])
            else:
                self._hold(*batch[0], error)
            return
        self._runs += 1
        self._told(batch, answers)

    def _told(self, batch: list[tuple[Message, Window]], answers: list[messages.Answer | None]) -> None:
        for (message, window), answer in zip(batch, answers, strict=True):
            if answer is None:
                self._tally.refuse(message, Refused("E_MODEL", "the model's output for this window is not finite"))
                continue
            self._publish(message, window, answer)
            self._keep(message, window, answer)

    def _hold(self, message: Message, window: Window, error: BrokenRelease) -> None:
        """Keep a window that the model could not be run on, or leave it to the broker until it is acknowledged."""
        self._counters["model_failures"] += 1
        if len(self._stuck) == MOST_STUCK:
            if message.receipt is None or message.receipt.qos == 0 or not self._broker.keeps_windows:
                self._tally.refuse(message, error)
            else:
                self._left_out = True
            return
        self._stuck.append((message, window, error))
        if self._stuck_s is None:
            self._stuck_s, self._runs_before = time.monotonic(), self._runs
            log.error("model.failed", code=error.code, reason=error.reason)

    def disconnected(self) -> None:
        """What was not acknowledged the broker sends again."""
        self._stuck.clear()
        self._stuck_s, self._left_out = None, False

    def retry(self, now_s: float) -> None:
        """Once a second: run the model again on the windows that it could not be run on, and were not acknowledged.

        What fails again while others are answered, or while the model passes its self-test, is the window's fault, and
        is refused. Else the model has failed, or what it runs on, and the process must end: the broker keeps the
        windows for the next.

        Raises:
            BrokenRelease: ``E_MODEL``, nothing could be answered for some time.
        """
        until_s = time.monotonic() + LONGEST_RETRY_S
        while self._stuck and time.monotonic() < until_s:
            message, window, error = self._stuck[0]
            try:
                answers = self._live.answer(window.samples[np.newaxis], again=True)
            except BrokenRelease as failure:
                if self._runs == self._runs_before and failure.code != "E_ERASED":
                    break
                self._tally.refuse(message, error)
            else:
                self._runs += 1
                self._told([(message, window)], answers)
            self._stuck.popleft()
        if not self._stuck:
            self._recall()
        elif self._stuck_s is not None and now_s >= self._stuck_s + LONGEST_STUCK_S:
            self._give_up(now_s - self._stuck_s)

    def _give_up(self, seconds: float) -> None:
        if not self._live.works():
            words = f"the model could not be run for {seconds:.0f} s: {self._stuck[0][2].reason}"
            raise BrokenRelease("E_MODEL", f"{words}; the broker keeps the windows")
        for message, _, error in self._stuck:
            self._tally.refuse(message, error)
        self._stuck.clear()
        self._recall()

    def _recall(self) -> None:
        """None waits any more: what was left to the broker comes again with the next connection."""
        self._stuck_s = None
        if self._left_out:
            self._left_out = False
            log.warning("windows.recalled", most_waiting=MOST_STUCK, remedy="reconnecting")
            self._broker.reconnect()

    def _publish(self, message: Message, window: Window, answer: messages.Answer) -> None:
        latency_s = time.monotonic() - message.received_s
        self._latency.observe(latency_s)
        release, masked = self._live.release.digest, self._live.masked
        content = messages.diagnosis(window, answer, release, masked, latency_s * 1000)
        if self._broker.answer(message.receipt, self._topics.diagnosis(window.asset), messages.dump(content)):
            self._counters["windows_answered"] += 1
            if self._discovery is not None:
                self._discovery.tell(window.asset)
        else:
            self._counters["windows_unanswered"] += 1  # not acknowledged, so the broker sends it again

    def _keep(self, message: Message, window: Window, answer: messages.Answer) -> None:
        """Cache a window whose class is known; remember one whose label may come."""
        if self._cache is None:
            return
        settings = self.settings
        name, confidence = answer.top[0]
        # Windows of a class that is masked or forgotten are answered with another one, often as surely as its own.
        sure = (
            settings.from_diagnosis
            and not self._live.hidden
            and confidence >= settings.min_confidence
            and not answer.unusual
        )
        known = window.label in self._live.card.classes
        if window.label is not None and not known:
            words = f"the window's label {window.label[:64]!r} is no class of the live release; it was answered"
            self._tally.show(message, Refused("E_CLASS", words))
            return  # its sender says that it is of none of the classes that are kept
        try:
            if window.label is not None:
                self._cache.offer(window.label, window, Source.SENDER)
            elif not (sure and self._cache.offer(name, window, Source.DIAGNOSIS)):
                self._cache.remember(window)
        except StorageFailed as error:
            self._tally.failed("cache_failures", "cache.failed", error.code, error.reason)

    def _label(self, asset: str, message: Message) -> None:
        if self._cache is None:
            raise Refused("E_TOPIC", "a replica takes no labels")
        label = parse_label(message.payload)
        try:
            self._cache.label(asset, label.boot, label.seq, label.label)
        except StorageFailed as error:
            self._tally.failed("cache_failures", "cache.failed", error.code, error.reason)
        self._counters["labels"] += 1
        acknowledge(message)
