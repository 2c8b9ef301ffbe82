"""The audit log: what happened to the gateway's knowledge, in rows that cannot be taken out or changed unseen.

One canonical JSON object per line, fsynced: ``n``, ``prev`` (hash of the row before), ``time``, ``event``, ``content``,
and ``hash``, the SHA-256 of all the rest. Rows at the end can only be missed by somebody who knows a later head: it is
published with the status, and stands in every certificate.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_agent.clock import Clock
from edge_agent.core.errors import EdgeAgentError, Untrusted
from edge_agent.files import append_durably, storage, sync_folder, write_atomically
from edge_agent.signing import canonical

Row = dict[str, Any]
EVENTS: Final[dict[str, str]] = {
    "agent.started": "the agent started; version, session, live release",
    "audit.damaged": "what the log could not read when it was opened; bytes given up, or the row where the chain broke",
    "certificate.withdrawn": "the parent came back during its probation, and with it the classes; id, classes",
    "class.erased": "nothing that knew a class is left; id, classes, what was destroyed and how",
    "class.forgotten": "the same, but for the parent release, which is on probation",
    "class.revived": "an operator allowed a class to come back; class",
    "command.accepted": "a command to forget; id, classes, digest, reason, and the key that signed it",
    "command.failed": "it ended without a new model; id, classes, code, reason",
    "command.refused": "a command was refused; code, reason, topic, digest of the payload",
    "commands.refused": "more were refused than an hour's worth is recorded of one by one; count",
    "gate.judged": "the gate's verdict on an edit; id, accepted, reasons",
    "release.adopted": "another release serves; release, reason",
    "release.refused": "a release that an operator asked for was refused; release, code, reason",
}

# What is read again while the agent runs, and so kept in memory; the others are many.
REMEMBERED: Final = frozenset({"audit.damaged", "class.erased", "class.forgotten", "class.revived"})
REFUSALS_PER_HOUR: Final = 60  # that get a row of their own: a flood must not wear out the disk


@dataclass(frozen=True)
class Head:
    """The newest row."""

    n: int = 0
    hash: str = "0" * 64


class AuditLog:
    """Appends to the log of one gateway. Owned by the agent's main thread.

    A torn last line, which no one was promised, is cut off and kept in ``audit.damaged``; a chain broken further up is
    gone on with, and stays broken for ``check``. Either is a row of its own.

    Attributes:
        rows: those that are read again; all of them are in the file.
        head: the newest row.

    Raises:
        StorageFailed: it cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        with storage("the audit log cannot be opened"):
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._file, len(whole))
            sync_folder(path.parent)
        rows = _believed(whole)
        self.rows = [row for row in rows if row["event"] in REMEMBERED]
        self.head = Head(rows[-1]["n"], rows[-1]["hash"]) if rows else Head()
        self._refused_s: list[float] = []
        self._refused_more = 0
        torn = len(content) - len(whole)
        if torn:
            with suppress(OSError):  # to keep it is a service, no promise
                write_atomically(path.with_name("audit.damaged"), content[len(whole) :])
            self.append("audit.damaged", bytes_given_up=torn)
        try:
            check(whole)
        except Untrusted as error:
            if not any(row["content"].get("reason") == error.reason for row in self._of("audit.damaged")):
                self.append("audit.damaged", reason=error.reason)

    def append(self, event: str, **content: Any) -> Head:
        """Write a row durably.

        Raises:
            StorageFailed: it was not written.
        """
        assert event in EVENTS, event
        row: Row = {"n": self.head.n + 1, "prev": self.head.hash, "time": self._clock.now().document()}
        row |= {"event": event, "content": content}
        row["hash"] = _hash(row)
        with storage("the audit log cannot be written"):
            append_durably(self._file, canonical(row) + b"\n")
        if event in REMEMBERED:
            self.rows.append(row)
        self.head = Head(row["n"], row["hash"])
        return self.head

    def refused(self, topic: str, payload: bytes, error: EdgeAgentError) -> None:
        """A row for a refused command; beyond some in an hour only how many there were.

        Raises:
            StorageFailed: it was not written.
        """
        now_s = time.monotonic()
        self._refused_s = [at_s for at_s in self._refused_s if at_s > now_s - 3600.0]
        if len(self._refused_s) >= REFUSALS_PER_HOUR:
            self._refused_more += 1
            return
        self._refused_s.append(now_s)
        if self._refused_more:
            self.append("commands.refused", count=self._refused_more)
            self._refused_more = 0
        digest = hashlib.sha256(payload).hexdigest()
        self.append("command.refused", topic=topic[:200], digest=digest, code=error.code, reason=error.reason)

    def _of(self, event: str) -> list[Row]:
        return [row for row in self.rows if row["event"] == event]

    def close(self) -> None:
        """Close the file; every row is on disk already."""
        os.close(self._file)


def check(content: bytes, head: Head | None = None) -> int:
    """Check a log's content; returns the number of its rows.

    Raises:
        Untrusted: ``E_CHAIN``, the first row that is not as it was written, or the head is not among them.
    """
    previous = Head()
    *lines, torn = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        row = _parsed(line)
        if row is None or row["hash"] != _hash(row):
            raise Untrusted("E_CHAIN", f"row {number} was changed")
        if (row["n"], row["prev"]) != (number, previous.hash):
            raise Untrusted("E_CHAIN", f"row {number} does not follow the one before: rows were removed or moved")
        previous = Head(number, row["hash"])
        if head is not None and number == head.n and previous != head:
            raise Untrusted("E_CHAIN", f"row {number} is not the one whose hash is {head.hash[:12]}")
    if torn:
        raise Untrusted("E_CHAIN", "the last row was torn")
    if head is not None and head.n > previous.n:
        raise Untrusted("E_CHAIN", f"the log ends at row {previous.n}, but there was a row {head.n}")
    return previous.n


def erased_classes(rows: Iterable[Row]) -> tuple[frozenset[str], frozenset[str]]:
    """Classes that were erased and not revived since, and those that were revived and not erased since."""
    gone, back = set[str](), set[str]()
    for row in rows:
        if row["event"] == "class.erased":
            gone.update(row["content"]["classes"])
            back.difference_update(row["content"]["classes"])
        elif row["event"] == "class.revived":
            gone.discard(row["content"]["class"])
            back.add(row["content"]["class"])
    return frozenset(gone), frozenset(back)


def read_rows(path: Path) -> list[Row]:
    """The rows of a log that somebody else may be writing; none if there is no file."""
    return _believed(path.read_bytes() if path.exists() else b"")


def _believed(content: bytes) -> list[Row]:
    """Rows that are as they were written; a damaged one must not tell which classes were erased."""
    rows = (_parsed(line) for line in content.splitlines())
    return [row for row in rows if row is not None and row["hash"] == _hash(row)]


def _parsed(line: bytes) -> Row | None:
    """A row that could have been written here; whether its hash is right is another question."""
    try:
        row = json.loads(line)
        kinds = {"n": int, "prev": str, "time": dict, "event": str, "content": dict, "hash": str}
        if {name: type(value) for name, value in row.items()} != kinds or canonical(row) != line:
            return None
    except (ValueError, AttributeError, RecursionError):  # AttributeError: no object
        return None
    return dict(row)


def _hash(row: Row) -> str:
    return hashlib.sha256(canonical({name: value for name, value in row.items() if name != "hash"})).hexdigest()
