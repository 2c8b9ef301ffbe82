"""The journal of commands: one JSON line per change of state, fsynced before anything is promised.

Each line starts with the CRC-32 of the rest, so that a torn or damaged line is seen, given up and kept aside; every
other line stands for itself. The last sound line of each command is its state. The file is rewritten on opening, and
when it has grown, so it stays as long as there are commands.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Final

from edge_agent.core.errors import Misconfigured
from edge_agent.files import append_durably, read_if_there, storage, sync_folder, write_atomically
from edge_agent.schemas.messages import JobState

MOST_BYTES: Final = 1 << 20  # before it is compacted; it is at every start


class Journal:
    """All commands this gateway has accepted, by id. Owned by the agent's main thread.

    Attributes:
        damaged_lines: lines that opening had to give up; they are kept in ``journal.damaged``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states: dict[str, JobState] = {}
        self._active: dict[str, JobState] = {}
        self.damaged_lines = self._compact_bytes = 0
        with storage("the journal cannot be opened"):
            whole = self._load(read_if_there(path) or b"")
            self._file: IO[bytes] | None = path.open("ab", buffering=0)
            os.ftruncate(self._file.fileno(), whole)  # a torn last line would take the next one with it
            with suppress(OSError):  # a full disk must not keep the agent from serving
                self._compact()

    def states(self) -> list[JobState]:
        """The state of every command, in order of acceptance."""
        return list(self._states.values())

    def active(self) -> list[JobState]:
        """Those of them that have not ended, or whose parent release is kept: few, however many there have been."""
        return list(self._active.values())

    def _put(self, state: JobState) -> None:
        self._states[state.id] = state
        if not state.finished or state.kept_s is not None:
            self._active[state.id] = state
        else:
            self._active.pop(state.id, None)

    def get(self, id_: str) -> JobState | None:
        """The state of one command."""
        return self._states.get(id_)

    def write(self, state: JobState) -> JobState:
        """Record a state durably and return it with its revision number.

        Raises:
            StorageFailed: nothing was recorded.
        """
        previous = self._states.get(state.id)
        state = replace(state, rev=previous.rev + 1 if previous else 1)
        with storage("the journal cannot be written"):
            file = self._opened()
            append_durably(file.fileno(), _line(state))
        self._put(state)
        if os.fstat(file.fileno()).st_size > max(MOST_BYTES, 2 * self._compact_bytes):
            with suppress(OSError):  # it only grows on
                self._compact()
        return state

    def _compact(self) -> None:
        """Write the newest state of each command, and nothing else."""
        content = b"".join(map(_line, self._states.values()))
        self.close()
        write_atomically(self._path, content)
        self._compact_bytes = len(content)

    def _opened(self) -> IO[bytes]:
        """The file to append to, which a compaction has replaced, even where it failed afterwards."""
        if self._file is None:
            self._path.touch()
            sync_folder(self._path.parent)  # else a power cut might bring the replaced one back
            self._file = self._path.open("ab", buffering=0)
        return self._file

    def note(self, state: JobState) -> JobState:
        """Keep progress in memory only: after a crash the command starts its phase again anyway."""
        state = replace(state, rev=self._states[state.id].rev + 1)
        self._put(state)
        return state

    def close(self) -> None:
        """Close the file; every line is on disk already."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _load(self, content: bytes) -> int:
        """Take over the states of all sound lines; returns where the last whole line ends."""
        damaged = []
        for line in content.split(b"\n"):
            state = _read(line)
            if state is not None:
                self._put(state)
            elif line:
                damaged.append(line)
        self.damaged_lines = len(damaged)
        if damaged:
            with suppress(OSError):  # to keep them is a service, no promise
                write_atomically(self._path.with_name("journal.damaged"), b"\n".join(damaged))
        return content.rfind(b"\n") + 1


def read_states(path: Path) -> list[JobState]:
    """The commands of a journal that another process owns; empty if there is none.

    Raises:
        StorageFailed: the disk cannot read it now.
    """
    with storage("the journal cannot be read"):
        lines = (read_if_there(path) or b"").split(b"\n")
    states = {state.id: state for line in lines if (state := _read(line)) is not None}
    return list(states.values())


def _line(state: JobState) -> bytes:
    body = json.dumps(asdict(state), separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _read(line: bytes) -> JobState | None:
    checksum, _, body = line.partition(b" ")
    if not body or checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        row: dict[str, Any] = json.loads(body)
        row |= {name: tuple(row.get(name, ())) for name in ("classes", "revived")}
    except (ValueError, TypeError, AttributeError, RecursionError):  # AttributeError: no object
        return None
    try:
        return JobState(**row)
    except TypeError as error:  # a whole line, so it is no damage: it has keys that this version does not know
        raise Misconfigured("E_STATE", "journal.jsonl was written by a newer version of the agent") from error
