"""Sits at the wire between agent and broker and keeps the books: what was promised, what was answered, what was right.

A window is lost if the agent acknowledged it and the broker had not acknowledged its diagnosis before; or, where the
broker did not lose its memory in between, if the broker took it from the sender and no diagnosis ever came. An answer
is wrong if it is of no window that was sent, names a class that is masked or was erased before, or is not what the
release that it names says of that window.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import cbor2
import numpy as np

from benchmarks.adversity.mqtt_wire import Acknowledged, Packet, Published
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import Release
from edge_agent.core.types import Float32
from edge_agent.schemas.card import MODEL

NEAR: float = 1e-3  # logits this close may change places: a run of one window rounds otherwise than a run of many


@dataclass(frozen=True)
class Diagnosis:
    """One diagnosis as the agent sent it."""

    seq: int
    name: str
    masked: tuple[str, ...]
    release: str
    erased: frozenset[str]  # what the agent had reported as forgotten by then


@dataclass
class Books:
    """What has come of one stretch of time."""

    sent: dict[int, int] = field(default_factory=dict)  # by number: which window of the pool
    taken: set[int] = field(default_factory=set)  # acknowledged to the sender
    at_risk: set[int] = field(default_factory=set)  # unanswered when the broker lost its memory
    lost: set[int] = field(default_factory=set)  # acknowledged by the agent without a diagnosis
    diagnoses: list[Diagnosis] = field(default_factory=list)
    answered: set[int] = field(default_factory=set)  # whose diagnosis the broker acknowledged

    def unanswered(self) -> set[int]:
        """Windows that must be answered still."""
        return self.taken - self.answered - self.at_risk


class Oracle:
    """The onlooker at a ``Proxy``; ``base`` is that of the agent's topics, ``pool`` the windows that are sent."""

    def __init__(self, base: str, pool: Float32) -> None:
        self._base, self._pool = base, pool
        self.books = Books()
        self.lock = threading.Lock()
        self._windows: dict[tuple[int, int], int] = {}  # connection, message id -> number of the window
        self._answers: dict[tuple[int, int], int] = {}
        self._erased: frozenset[str] = frozenset()
        self._classes: dict[str, tuple[str, ...]] = {}
        self._logits: dict[str, Float32] = {}

    def __call__(self, connection: int, upward: bool, packet: Packet) -> None:
        """Look at one packet."""
        with self.lock:
            match packet:
                case Published() if upward:
                    self._said(connection, packet)
                case Published() if packet.topic.startswith(f"{self._base}/windows/"):
                    if (seq := self._number(packet.payload)) is not None:
                        self._windows[connection, packet.mid] = seq
                case Acknowledged() if upward:
                    seq = self._windows.pop((connection, packet.mid), None)
                    if seq is not None and seq not in self.books.answered:
                        self.books.lost.add(seq)
                case Acknowledged():
                    seq = self._answers.pop((connection, packet.mid), None)
                    if seq is not None:
                        self.books.answered.add(seq)

    def _said(self, connection: int, packet: Published) -> None:
        kind, _, rest = packet.topic.removeprefix(f"{self._base}/").partition("/")
        if kind == "diagnosis":
            content = json.loads(packet.payload)
            masked, release = tuple(content["masked"]), content["release"]
            self.books.diagnoses.append(Diagnosis(content["seq"], content["class"], masked, release, self._erased))
            self._answers[connection, packet.mid] = content["seq"]
        elif kind == "unlearn" and rest.endswith("/status"):
            content = json.loads(packet.payload)
            if content["status"] == "successful":
                self._erased |= set(content["classes"])

    def _number(self, payload: bytes) -> int | None:
        """The number of a window that the sender sent; None of what is malformed."""
        try:
            content = cbor2.loads(payload)
            seq = content["seq"]
        except Exception:  # noqa: BLE001 hostile payloads pass here, and cbor2 raises many things
            return None
        return seq if isinstance(seq, int) and seq in self.books.sent else None

    def broker_forgot(self) -> None:
        """The broker lost its memory: whatever it took and is not answered may never reach the agent."""
        with self.lock:
            self.books.at_risk |= self.books.taken - self.books.answered

    def knows(self, digest: str) -> bool:
        """Whether the release was shown before."""
        return digest in self._logits

    def show(self, release: Release) -> None:
        """Let a release say what is right."""
        self._classes[release.digest] = release.card.classes
        self._logits[release.digest] = OnnxModel(release.read(MODEL), 1).logits(self._pool)

    def releases(self) -> set[str]:
        """Releases that diagnoses named so far."""
        with self.lock:
            return {diagnosis.release for diagnosis in self.books.diagnoses}

    def result(self) -> dict[str, Any]:
        """The books, closed."""
        with self.lock:
            books = self.books
            counts = Counter(diagnosis.seq for diagnosis in books.diagnoses)
            wrong = [problem for one in books.diagnoses if (problem := self._problem(one)) is not None]
            return {
                "windows": len(books.taken),
                "lost": len(books.lost | books.unanswered()),
                "acknowledged_too_soon": len(books.lost),
                "lost_by_broker": len(books.at_risk - books.answered),
                "wrong": len(wrong),
                "repeated": sum(count - 1 for count in counts.values()),
                "problems": wrong[:10],
            }

    def _problem(self, one: Diagnosis) -> str | None:
        if one.seq not in self.books.sent:
            return f"window {one.seq} was never sent"
        if one.name in one.masked or one.name in one.erased:
            return f"window {one.seq} was answered with {one.name}, which is hidden"
        if one.release not in self._logits:
            return f"window {one.seq} was answered by {one.release[:12]}, which nobody has seen"
        names = self._classes[one.release]
        row = self._logits[one.release][self.books.sent[one.seq]]
        shown = np.array([name not in one.masked for name in names])
        if row[names.index(one.name)] < row[shown].max() - NEAR:
            right = names[int(np.where(shown, row, -np.inf).argmax())]
            return f"window {one.seq} was answered with {one.name}, not {right}"
        return None
