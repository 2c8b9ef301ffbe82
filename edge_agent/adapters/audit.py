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
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_agent.clock import Clock
from edge_agent.core.errors import EdgeAgentError, StorageFailed, Untrusted
from edge_agent.files import append_durably, storage, sync_folder, write_atomically
from edge_agent.signing import canonical

Row = dict[str, Any]
WITHDRAWN: Final = "certificate.withdrawn"
EVENTS: Final[dict[str, str]] = {
    "agent.started": "the agent started; version, session, live release",
    "audit.damaged": "what the log could not read when it was opened; bytes given up, or the row where the chain broke",
    WITHDRAWN: "the parent came back during its probation, and with it the classes; id, classes",
    "class.erased": "nothing that knew a class is left; id, classes, what was destroyed and how",
    "class.forgotten": "the same, but for the parent release, which is on probation",
    "class.revived": "an operator allowed a class to come back; class",
    "command.accepted": "a command to forget; id, classes, digest, reason, and the key that signed it",
    "command.failed": "it ended without a new model; id, classes, code, reason",
    "command.refused": "a command was refused; code, reason, topic, digest of the payload",
    "commands.refused": "more were refused than an hour or a day has rows for; count",
    "gate.judged": "the gate's verdict on an edit; id, accepted, reasons",
    "release.adopted": "another release serves; release, reason",
    "release.refused": "a release that an operator asked for was refused; release, code, reason",
}

# What is read again while the agent runs, and so kept in memory; the others are many.
REMEMBERED: Final = frozenset({"audit.damaged", WITHDRAWN, "class.erased", "class.forgotten", "class.revived"})
REFUSALS_PER_HOUR: Final = 60  # that get a row of their own: a flood must not wear out the disk,
REFUSALS_PER_DAY: Final = 100  # nor one a minute, for years, fill it
DAY_S: Final = 86_400.0


@dataclass(frozen=True)
class Head:
    """The newest row."""

    n: int = 0
    hash: str = "0" * 64


class Chain:
    """Holds a log against its chain of hashes, row by row, in the memory of one.

    Attributes:
        count: the lines that have an end, damaged or not.
        broken: what is wrong with the first row that is not as it was written, if one is.
        torn: what comes after the last line's end.
    """

    def __init__(self, head: Head | None = None) -> None:
        self.count, self.torn = 0, b""
        self.broken: str | None = None
        self._head, self._previous = head, Head()

    def rows(self, lines: Iterable[bytes]) -> Iterator[Row]:
        """The rows that are as they were written, wherever they stand; a damaged one must not tell what was erased."""
        for line in lines:
            if not line.endswith(b"\n"):
                self.torn = line
                return
            row = _read(line[:-1])
            self.count += 1
            if self.broken is None:
                self.broken = self._follow(row)
            if row is not None:
                yield row

    @property
    def problem(self) -> str | None:
        """What is wrong with the log that ``rows`` has gone through."""
        head, last = self._head, self._previous
        if self.broken is not None:
            return self.broken
        if self.torn:
            return "the last row was torn"
        if head is not None and head.n > last.n:
            return f"the log ends at row {last.n}, but there was a row {head.n}"
        return None

    def _follow(self, row: Row | None) -> str | None:
        if row is None:
            return f"row {self.count} was changed"
        if (row["n"], row["prev"]) != (self.count, self._previous.hash):
            return f"row {self.count} does not follow the one before: rows were removed or moved"
        self._previous = Head(self.count, row["hash"])
        if self._head is not None and self.count == self._head.n and self._previous != self._head:
            return f"row {self.count} is not the one whose hash is {self._head.hash[:12]}"
        return None


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

    def __init__(self, path: Path, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._monotonic = clock, monotonic
        self.rows: list[Row] = []
        self.head, chain = Head(), Chain()
        with storage("the audit log cannot be opened"):
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            for row in read_rows(path, chain):
                self._take(row)
            if chain.torn:  # else nothing is cut: an operator may have made the log append-only
                os.ftruncate(self._file, os.fstat(self._file).st_size - len(chain.torn))
            sync_folder(path.parent)
        self._refused_s: list[float] = []
        self._refused_more = 0
        if chain.torn:
            with suppress(OSError):  # to keep it is a service, no promise
                write_atomically(path.with_name("audit.damaged"), chain.torn)
            self._own_up(bytes_given_up=len(chain.torn))
        told = [row["content"].get("reason") for row in self.rows if row["event"] == "audit.damaged"]
        if chain.broken is not None and chain.broken not in told:
            self._own_up(reason=chain.broken)

    def _own_up(self, **content: Any) -> None:
        """Say what is damaged; on a full disk that is missing, for it must not keep the agent from serving."""
        with suppress(StorageFailed):
            self.append("audit.damaged", **content)

    def append(self, event: str, **content: Any) -> Head:
        """Write a row durably.

        Raises:
            StorageFailed: it was not written.
        """
        assert event in EVENTS, event
        row: Row = {"n": self.head.n + 1, "prev": self.head.hash, "time": self._clock.now().document()}
        row |= {"event": event, "content": content}
        line, row["hash"] = _written(row)
        with storage("the audit log cannot be written"):
            append_durably(self._file, line + b"\n")
        self._take(row)
        return self.head

    def refused(self, topic: str, payload: bytes, error: EdgeAgentError) -> None:
        """A row for a refused command; beyond some in an hour or a day only how many there were.

        Raises:
            StorageFailed: it was not written.
        """
        now_s = self._monotonic()
        self._refused_s = [at_s for at_s in self._refused_s if at_s > now_s - DAY_S]
        of_hour = sum(at_s > now_s - 3600.0 for at_s in self._refused_s)
        if of_hour >= REFUSALS_PER_HOUR or len(self._refused_s) >= REFUSALS_PER_DAY:
            self._refused_more += 1
            return
        self._refused_s.append(now_s)
        self._tell_of_more()
        digest = hashlib.sha256(payload).hexdigest()
        self.append("command.refused", topic=topic[:200], digest=digest, code=error.code, reason=error.reason)

    def _tell_of_more(self) -> None:
        if self._refused_more:
            self.append("commands.refused", count=self._refused_more)
            self._refused_more = 0

    def _take(self, row: Row) -> None:
        if row["event"] in REMEMBERED:
            self.rows.append(row)
        self.head = Head(row["n"], row["hash"])

    def close(self) -> None:
        """Close the file, once it says how many refused commands have no row.

        Raises:
            StorageFailed: it does not say so; it is closed.
        """
        try:
            self._tell_of_more()
        finally:
            os.close(self._file)


def check(lines: Iterable[bytes], head: Head | None = None, command: str | None = None) -> int:
    """Check a log, line by line, ends included; returns the number of its rows.

    Args:
        command: id of the command whose certificate ``head`` is from.

    Raises:
        Untrusted: ``E_CHAIN``, the first row that is not as it was written, or the head is not among them;
            ``E_WITHDRAWN``, a later row says that the command's certificate was taken back.
    """
    chain, withdrawn = Chain(head), None
    for row in chain.rows(lines):
        later = head is not None and row["n"] > head.n  # an id may come again once the journal is lost
        if later and row["event"] == WITHDRAWN and row["content"].get("id") == command:
            withdrawn = row["n"]
    if chain.problem is not None:
        raise Untrusted("E_CHAIN", chain.problem)
    if withdrawn is not None:
        raise Untrusted("E_WITHDRAWN", f"row {withdrawn} withdraws the certificate of command {command}")
    return chain.count


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


def read_rows(path: Path, chain: Chain | None = None) -> Iterator[Row]:
    """The rows of a log that somebody else may be writing; none if there is no file.

    Args:
        chain: what the whole file is held against on the way.

    Raises:
        StorageFailed: the disk cannot read it now.
    """
    with storage("the audit log cannot be read"), suppress(FileNotFoundError), path.open("rb") as file:
        yield from (chain or Chain()).rows(file)


def _read(line: bytes) -> Row | None:
    """A row as it was written."""
    try:
        row = json.loads(line)
        kinds = {"n": int, "prev": str, "time": dict, "event": str, "content": dict, "hash": str}
        if {name: type(value) for name, value in row.items()} != kinds or _written(row)[0] != line:
            return None
    except (ValueError, AttributeError, RecursionError):  # AttributeError: no object
        return None
    return dict(row)


def _written(row: Row) -> tuple[bytes, str]:
    """A row's canonical line, and the hash in it, which is that of the line without it."""
    front = canonical({name: row[name] for name in ("content", "event")})[:-1]
    back = canonical({name: row[name] for name in ("n", "prev", "time")})[1:]
    value = hashlib.sha256(front + b"," + back).hexdigest()
    return b'%s,"hash":"%s",%s' % (front, value.encode(), back), value
