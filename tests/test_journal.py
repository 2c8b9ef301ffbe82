"""The journal: what was written is there after a crash, and what is damaged is never taken for a state."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_agent.adapters.journal import Journal, _read, read_states
from edge_agent.core.errors import StorageFailed
from edge_agent.schemas.messages import JobState, Phase, Status
from tests.scripts import ROOT, run_script

states = st.builds(
    JobState,
    id=st.text(min_size=1, max_size=6),
    classes=st.lists(st.text(max_size=5), min_size=1, max_size=3).map(tuple),
    digest=st.text("0123456789abcdef", max_size=8),
    status=st.sampled_from(get_args(Status)),
    phase=st.sampled_from(get_args(Phase)),
    progress=st.floats(0, 1),
    eta_s=st.none() | st.floats(0, 1e6),
    code=st.none() | st.just("E_GATE"),
    reason=st.none() | st.text(max_size=9),
    attempts=st.integers(0, 5),
    kept_s=st.none() | st.floats(0, 1e6),
    metrics=st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False) | st.text(max_size=4), max_size=3),
)


def _state(number: int, **changes: object) -> JobState:
    state = JobState(f"id-{number}", ("IF-1", f"c{number}"), "d" * 64, "accepted", "masked")
    return replace(state, **changes)  # type: ignore[arg-type]


def _history(path: Path) -> list[JobState]:
    """Write three commands, one of them twice; returns the four rows in the order of writing."""
    journal = Journal(path)
    rows = [
        journal.write(_state(1)),
        journal.write(_state(2)),
        journal.write(_state(1, status="successful", phase="done", metrics={"steps": 9})),
        journal.write(_state(3, reason="größer\nals\0")),
    ]
    journal.close()
    return rows


def _after(rows: list[JobState], count: int) -> list[JobState]:
    """The states after the first ``count`` rows."""
    return list({row.id: row for row in rows[:count]}.values())


def _reopened(path: Path) -> list[JobState]:
    journal = Journal(path)
    journal.close()
    active = {state.id: state for state in journal.states() if not state.finished or state.kept_s is not None}
    assert {state.id: state for state in journal.active()} == active
    return journal.states()


@given(written=st.lists(states, max_size=8))
@settings(max_examples=40)
def test_every_state_written_is_there_after_reopening(
    tmp_path_factory: pytest.TempPathFactory, written: list[JobState]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    journal = Journal(path)
    rows = [journal.write(state) for state in written]
    journal.close()
    expected = _after(rows, len(rows))
    assert read_states(path) == expected
    assert _reopened(path) == expected
    assert _reopened(path) == expected  # opening writes the file again


def test_a_row_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from edge_agent.adapters.journal import Journal
from tests.test_journal import _state

journal = Journal(Path({str(tmp_path / "journal")!r}))
journal.write(_state(1))
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, timeout=60).returncode == 9
    assert _reopened(tmp_path / "journal") == [_state(1, rev=1)]


def test_the_revision_of_a_command_rises_with_each_state_and_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    assert [journal.write(_state(1)).rev, journal.write(_state(2)).rev, journal.write(_state(1)).rev] == [1, 1, 2]
    journal.close()
    journal = Journal(path)
    assert journal.write(_state(1, rev=0)).rev == 3
    journal.close()


def test_a_note_is_seen_but_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.write(_state(1))
    noted = journal.note(_state(1, progress=0.5))
    assert (noted.progress, noted.rev) == (0.5, 2)
    assert journal.get("id-1") == noted
    journal.close()
    assert _reopened(path) == [_state(1, rev=1)]


def test_an_unknown_id_has_no_state_and_no_file_has_no_states(tmp_path: Path) -> None:
    assert read_states(tmp_path / "journal") == []
    journal = Journal(tmp_path / "journal")
    assert journal.get("nobody") is None
    assert journal.states() == []
    journal.close()


def test_a_journal_cut_at_any_byte_holds_every_row_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    rows = _history(path)
    content = path.read_bytes()
    ends = [end for end, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        expected = _after(rows, sum(end <= size for end in ends))  # a row without its line end is whole
        assert read_states(path) == expected
        if size % 17 == 0 or size in ends:  # opening waits for the disk several times
            assert _reopened(path) == expected


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
@settings(max_examples=100)
def test_a_flipped_byte_costs_its_row_and_no_other_and_invents_none(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    """A row given up with all later ones would take tombstones and waiting commands with it."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    rows = _history(path)
    content = bytearray(path.read_bytes())
    place %= len(content)
    hit = content[:place].count(b"\n")
    joins = content[place] == ord("\n")  # the row and the next one become one line
    content[place] ^= flip
    path.write_bytes(content)
    left = [row for number, row in enumerate(rows) if number != hit and not (joins and number == hit + 1)]
    expected = _after(left, len(left))
    assert read_states(path) == expected
    journal = Journal(path)
    journal.close()
    assert journal.states() == expected
    last_end = joins and place == len(content) - 1
    assert journal.damaged_lines > 0 or last_end


@given(junk=st.binary(max_size=200) | st.text("0 \n{}", max_size=40).map(str.encode))
@example(junk=b"00000000")
@example(junk=b"00000000 \n")
@example(junk=bytes(4096))
@settings(max_examples=80)
def test_junk_after_the_rows_changes_no_state(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    rows = _history(path)
    with path.open("ab") as file:
        file.write(junk)
    assert read_states(path) == _after(rows, 4)
    assert _reopened(path) == _after(rows, 4)


@given(content=st.integers() | st.none() | st.lists(st.integers()) | st.text() | st.just({"classes": 4}))
def test_a_line_that_is_whole_and_no_state_is_none(content: object) -> None:
    """A line that held a number ended the agent at its start, which a fuzzer found out."""
    body = json.dumps(content).encode()
    assert _read(b"%08x %s" % (zlib.crc32(body), body)) is None


def test_damaged_lines_are_counted_kept_aside_and_no_longer_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    rows = _history(path)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[1][:20] + b"#" + lines[1][21:]
    path.write_bytes(lines[0] + damaged + lines[2] + lines[3])
    journal = Journal(path)
    assert journal.damaged_lines == 1
    assert path.with_name("journal.damaged").read_bytes() == damaged.rstrip(b"\n")
    row = journal.write(_state(9))
    journal.close()
    journal = Journal(path)
    journal.close()
    assert journal.damaged_lines == 0
    assert journal.states() == [*_after([rows[0], *rows[2:]], 3), row]


def test_the_file_does_not_grow_with_the_number_of_restarts_or_states(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for _ in range(200):
        journal.write(_state(1))
    journal.close()
    size = path.stat().st_size
    assert _reopened(path) == [_state(1, rev=200)]
    assert path.stat().st_size < size / 100


def test_a_full_disk_leaves_the_old_state_and_a_journal_that_can_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = f"""
import resource
from pathlib import Path
from edge_agent.adapters.journal import Journal, read_states
from edge_agent.core.errors import StorageFailed
from tests.test_journal import _state

path = Path({str(path)!r})
journal = Journal(path)
first = journal.write(_state(1))
for spare in (0, 1, 100):  # none of a line, or a part of it
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + spare, 1 << 20))
    for number in (1, 2):
        try:
            journal.write(_state(number, status="executing"))
        except StorageFailed as error:
            assert error.code == "E_STORAGE", error
        else:
            raise SystemExit("a full disk went unnoticed")
    assert journal.states() == read_states(path) == [first]
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
second = journal.write(_state(2))
assert second.rev == 1
assert journal.states() == read_states(path) == [first, second]
"""
    run_script(script)
    assert [state.id for state in _reopened(path)] == ["id-1", "id-2"]


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_command_accepted_after_a_start_at_which_the_disk_failed_once_is_on_the_disk(
    tmp_path: Path, failing: int
) -> None:
    """Where only the folder could not be synced, commands went to the old file, which had no name any more."""
    script = f"""
import errno
import os
from pathlib import Path
from edge_agent.adapters.journal import Journal, read_states
from edge_agent.core.errors import StorageFailed
from tests.test_journal import _history, _state

path = Path({str(tmp_path / "journal")!r})
_history(path)
sync, calls = os.fsync, []

def fails_once(descriptor):
    calls.append(descriptor)
    if len(calls) == {failing}:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    sync(descriptor)

os.fsync = fails_once
journal = Journal(path)
for number in (8, 9):
    try:
        journal.write(_state(number))
    except StorageFailed:
        journal.write(_state(number))
assert len(calls) >= {failing}
assert journal.states() == read_states(path)
assert b"\\0" not in path.read_bytes()
"""
    run_script(script)
    assert [state.id for state in _reopened(tmp_path / "journal")] == ["id-1", "id-2", "id-3", "id-8", "id-9"]


def test_a_journal_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(StorageFailed, match="E_STORAGE: the journal cannot be opened"):
        Journal(tmp_path / "journal")
