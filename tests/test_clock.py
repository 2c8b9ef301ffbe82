"""The wall clock: it may be wrong by decades, says so, and never lets time that has passed come back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge_agent import clock
from edge_agent.clock import Clock, Reading

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
DECADES = timedelta(days=365 * 20)


class Wall:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.utc, self.synchronised = NOW, True

    def read(self) -> Reading:
        return Reading(self.utc, self.synchronised)


def test_the_kernel_is_asked_whether_its_clock_is_synchronised() -> None:
    reading = clock.read()
    assert reading.synchronised in (True, False, None)
    assert abs(reading.utc - datetime.now(timezone.utc)) < timedelta(minutes=1)


def test_time_that_was_known_to_have_passed_does_not_come_back(tmp_path: Path) -> None:
    wall = Wall()
    one = Clock(tmp_path / "clock", wall.read)
    assert one.latest() == NOW
    wall.utc, wall.synchronised = datetime(1970, 1, 1, tzinfo=timezone.utc), False
    assert one.latest() == NOW
    assert one.now().utc.year == 1970


def test_the_floor_outlives_a_restart_in_1970(tmp_path: Path) -> None:
    wall = Wall()
    Clock(tmp_path / "clock", wall.read).keep()
    wall.utc, wall.synchronised = datetime(1970, 1, 1, tzinfo=timezone.utc), False
    assert Clock(tmp_path / "clock", wall.read).latest() == NOW


def test_a_jump_ahead_of_an_unsynchronised_clock_is_not_believed_for_ever(tmp_path: Path) -> None:
    wall = Wall()
    one = Clock(tmp_path / "clock", wall.read)
    one.keep()
    wall.utc, wall.synchronised = NOW + DECADES, False
    assert one.latest() == NOW + DECADES
    wall.utc, wall.synchronised = NOW + timedelta(hours=1), True
    assert one.latest() == NOW + timedelta(hours=1)


def test_the_floor_is_written_seldom(tmp_path: Path) -> None:
    one = Clock(tmp_path / "clock", Wall().read)
    one.keep()
    (tmp_path / "clock").unlink()
    one.keep()
    assert not (tmp_path / "clock").exists()


@pytest.mark.parametrize("content", [b"", b"\xff", b"tomorrow", b"2030-01-01", b"2030-01-01T00:00:00"])
def test_a_damaged_floor_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clock").write_bytes(content)
    wall = Wall()
    wall.utc = datetime(1971, 1, 1, tzinfo=timezone.utc)
    assert Clock(tmp_path / "clock", wall.read).latest() == wall.utc


def test_documents_say_whether_the_clock_could_be_trusted() -> None:
    assert Reading(NOW, synchronised=False).document() == {"utc": "2030-01-01T00:00:00+00:00", "synchronised": False}
