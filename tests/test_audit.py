"""The audit log: whatever is removed, changed or moved in it is found, and a crash costs no row that was promised."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tracemalloc
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters import audit
from edge_agent.adapters.audit import AuditLog, Head, check, erased_classes
from edge_agent.clock import Clock, Reading
from edge_agent.core.errors import Refused, StorageFailed, Untrusted
from edge_agent.page.records import Records
from edge_agent.signing import canonical
from tests.scripts import run_script

NOW = Reading(datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc), synchronised=True)


def log_in(folder: Path) -> AuditLog:
    folder.mkdir(parents=True, exist_ok=True)
    return AuditLog(folder / "audit.jsonl", Clock(folder / "clock", lambda: NOW))


def five_rows(folder: Path) -> Path:
    log = log_in(folder)
    for number in range(4):
        log.append("command.accepted", id=f"job-{number}", classes=["hum"], reason="Überprüfung")
    log.append("class.erased", id="job-3", classes=["hum"])
    log.close()
    return folder / "audit.jsonl"


def sealed(row: dict[str, Any]) -> bytes:
    """The line of a row, with the hash that fits it."""
    content = {name: value for name, value in row.items() if name != "hash"}
    return canonical({**content, "hash": hashlib.sha256(canonical(content)).hexdigest()})


def checked(content: bytes, head: Head | None = None) -> int:
    return check(io.BytesIO(content), head)


def broken(content: bytes, head: Head | None = None) -> str:
    with pytest.raises(Untrusted) as caught:
        checked(content, head)
    assert caught.value.code == "E_CHAIN"
    return caught.value.reason


def test_a_log_as_it_was_written_checks_out_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = five_rows(tmp_path)
    assert checked(path.read_bytes()) == 5
    log = log_in(tmp_path)
    assert log.head.n == 5
    head = log.append("agent.started", version="1")
    assert checked(path.read_bytes(), head) == 6
    row = json.loads(path.read_bytes().splitlines()[-1])
    assert row["time"] == {"utc": "2030-01-02T03:04:05+00:00", "synchronised": True}
    assert row["content"] == {"version": "1"}


def test_an_empty_log_is_whole(tmp_path: Path) -> None:
    assert checked(b"") == 0
    assert log_in(tmp_path).head == Head()


@given(st.data())
def test_a_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(five_rows(tmp_path_factory.mktemp("log")).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    broken(bytes(content))


@given(st.permutations(range(5)), st.integers(1, 5))
def test_removed_and_moved_rows_are_found(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], count: int
) -> None:
    path = five_rows(tmp_path_factory.mktemp("log"))
    lines, head = path.read_bytes().splitlines(keepends=True), log_in(path.parent).head
    content = b"".join(lines[place] for place in order[:count])
    if order[:count] == list(range(count)):
        assert checked(content) == count
        if count < 5:
            assert "ends at row" in broken(content, head)  # rows cut off at the end are missed by who knows the head
    else:
        broken(content)


def test_a_row_made_up_with_a_right_hash_does_not_fit_the_chain(tmp_path: Path) -> None:
    path = five_rows(tmp_path)
    lines = path.read_bytes().splitlines()
    row = json.loads(lines[2])
    row["content"]["id"] = "somebody else's"
    lines[2] = sealed(row)
    assert "row 4 does not follow" in broken(b"\n".join(lines) + b"\n")


@pytest.mark.parametrize("line", [b"", b"[]", b"1", b"{}", b'{"n":NaN}', b"[" * 100_000, b"\xff"])
def test_a_line_that_is_no_row_is_told(tmp_path: Path, line: bytes) -> None:
    assert "row 6 was changed" in broken(five_rows(tmp_path).read_bytes() + line + b"\n")


def test_a_head_that_is_not_in_the_log_is_told(tmp_path: Path) -> None:
    assert "row 3 is not the one" in broken(five_rows(tmp_path).read_bytes(), Head(3, "a" * 64))


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_last_row_is_cut_off_kept_aside_and_told(tmp_path: Path, cut: int) -> None:
    path = five_rows(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert "torn" in broken(path.read_bytes())
    log = log_in(tmp_path)
    log.append("agent.started")
    assert [row["event"] for row in list(audit.read_rows(path))[-3:]] == [
        "command.accepted",
        "audit.damaged",
        "agent.started",
    ]
    assert checked(path.read_bytes()) == 6
    assert (tmp_path / "audit.damaged").stat().st_size > 50


def test_a_chain_that_was_broken_stays_broken_and_is_told_once(tmp_path: Path) -> None:
    path = five_rows(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"job-1", b"job-9"))
    log_in(tmp_path).close()
    log = log_in(tmp_path)
    told = [row for row in log.rows if row["event"] == "audit.damaged"]
    assert [row["content"]["reason"] for row in told] == ["row 2 was changed"]
    assert broken(path.read_bytes()) == "row 2 was changed"


def test_reading_a_long_log_takes_the_memory_of_what_is_kept_of_it(tmp_path: Path) -> None:
    """Each start held all rows in memory, and the page read them twice: after a year a gateway had no room for them."""
    previous = "0" * 64
    with (tmp_path / "audit.jsonl").open("wb") as file:
        for number in range(1, 4001):
            row = {"n": number, "prev": previous, "time": NOW.document(), "event": "command.failed", "content": {}}
            line = sealed(row)
            previous = json.loads(line)["hash"]
            file.write(line + b"\n")
    tracemalloc.start()
    try:
        log = log_in(tmp_path)
        shown = Records(tmp_path).audit(None, log.head)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (log.head.n, log.rows) == (4000, [])
    assert (shown["count"], shown["problem"], shown["rows"][0]["n"], len(shown["rows"])) == (4000, None, 4000, 50)
    assert peak_bytes < 300_000 < (tmp_path / "audit.jsonl").stat().st_size


def test_a_refused_command_a_minute_leaves_no_more_than_a_days_share_of_rows_and_how_many_have_none(
    tmp_path: Path,
) -> None:
    """It stayed below the share of an hour, and wrote half a million rows in a year."""
    minutes, error = iter(range(2 * 1440)), Refused("E_CLASS", "nobody knows it")
    log = AuditLog(tmp_path / "audit.jsonl", Clock(tmp_path / "clock", lambda: NOW), lambda: 60.0 * next(minutes))
    for _ in range(2 * 1440):
        log.refused("edge/toy/unlearn/x", b"", error)
    log.close()
    rows = list(audit.read_rows(tmp_path / "audit.jsonl"))
    one_by_one = sum(row["event"] == "command.refused" for row in rows)
    more = [row["content"]["count"] for row in rows if row["event"] == "commands.refused"]
    assert one_by_one == 2 * audit.REFUSALS_PER_DAY
    assert more == [1440 - 100, 1440 - 100]


def test_an_erased_class_is_known_until_it_is_revived(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.append("class.erased", id="a", classes=["hum", "whine"])
    log.append("class.revived", **{"class": "hum"})
    assert erased_classes(log.rows) == (frozenset({"whine"}), frozenset({"hum"}))
    log.append("class.erased", id="b", classes=["hum"])
    assert erased_classes(audit.read_rows(tmp_path / "audit.jsonl")) == (frozenset({"hum", "whine"}), frozenset())


@pytest.mark.parametrize("how", ["before", "after", errno.ENOSPC, errno.EIO])
def test_a_power_cut_or_a_full_disk_at_any_write_leaves_a_log_that_goes_on(tmp_path: Path, how: str | int) -> None:
    script = f"""
from pathlib import Path
from edge_agent.core.errors import StorageFailed
from benchmarks.adversity import crashes
from tests.test_audit import five_rows, log_in

def act(place):
    try:
        log_in(place).append("agent.started")
    except StorageFailed:
        raise OSError from None

print(crashes.everywhere(Path({str(tmp_path)!r}), five_rows, act, {how!r}))
"""
    crashed = int(run_script(script))
    assert crashed >= 2  # the row is written, then it is on the disk
    for number in range(1, crashed + 1):
        log = log_in(tmp_path / str(number))
        assert log.head.n in (5, 6)
        log.append("agent.started")
        assert checked((tmp_path / str(number) / "audit.jsonl").read_bytes()) == log.head.n


def test_a_certificate_that_the_log_takes_back_later_is_told(tmp_path: Path) -> None:
    """Both commands that check one called it good, with the row that withdraws it in the very log."""
    log = log_in(tmp_path)
    head = log.append("class.forgotten", id="c-1", classes=["hum"], destroyed=[])
    log.append("certificate.withdrawn", id="c-1", classes=["hum"])
    content = (tmp_path / "audit.jsonl").read_bytes()
    assert check(io.BytesIO(content), Head(head.n, head.hash), "c-2") == 2
    with pytest.raises(Untrusted, match="row 2 withdraws the certificate of command c-1") as error:
        check(io.BytesIO(content), Head(head.n, head.hash), "c-1")
    assert error.value.code == "E_WITHDRAWN"
    again = log.append("class.erased", id="c-1", classes=["hum"], destroyed=[])
    assert check(io.BytesIO((tmp_path / "audit.jsonl").read_bytes()), Head(again.n, again.hash), "c-1") == 3


def test_a_log_that_an_operator_made_append_only_opens_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was cut to its own length at each start, which Linux forbids there, and the agent did not start."""
    log_in(tmp_path).append("agent.started")

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "ftruncate", forbidden)
    log_in(tmp_path).append("agent.started")
    assert check(io.BytesIO((tmp_path / "audit.jsonl").read_bytes())) == 2


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="E_STORAGE: the audit log cannot be opened"):
        AuditLog(tmp_path / "nowhere" / "audit.jsonl", Clock(tmp_path / "clock"))
