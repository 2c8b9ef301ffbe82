"""A job's folder is filled beside the thread that answers windows."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters import job_folder
from edge_agent.adapters.windows import WindowCache
from edge_agent.adapters.workplace import Workplace
from edge_agent.core.errors import JobFailed, StorageFailed
from edge_agent.jobs import Ended, Jobs, Started
from edge_agent.live import LiveModel
from edge_agent.reservoir import Source
from edge_agent.schemas.messages import JobState
from edge_agent.settings import Forget
from tests.cache_kit import SLOT_BYTES, files_of, open_cache, window_of
from tests.plant import store_at, wait_until

STATE = JobState("command-1", ("hum",), "digest", "executing", "probing")
SETTINGS = Forget(min_windows=8, max_windows=20)


@pytest.fixture
def cache(tmp_path: Path) -> WindowCache:
    """Twelve windows of one class, eight of them labelled."""
    cache = open_cache(tmp_path, per_class=12)
    for seq in range(12):
        assert cache.offer("hum", window_of(seq), Source.LABEL if seq < 8 else Source.DIAGNOSIS)
    return cache


@pytest.fixture
def jobs(tmp_path: Path, cache: WindowCache, toy_release: Path) -> Iterator[Jobs]:
    store = store_at(tmp_path)
    live = LiveModel(store, threads=1, max_abs=100.0)
    live.adopt(store.add(toy_release))
    jobs = Jobs(Workplace(tmp_path), cache, live)
    yield jobs
    jobs.stop()
    jobs.clear()


def folder_of(state_dir: Path) -> Path:
    return Workplace(state_dir).folder(f"{zlib.crc32(STATE.id.encode()):08x}", 0)


def damage(state_dir: Path, slots: int) -> None:
    """Flip a byte in the samples of the first slots, in place: the cache has the file open."""
    (path,) = (path for path, content in files_of(state_dir).items() if content)
    with path.open("r+b") as file:
        for slot in range(slots):
            file.seek((slot + 1) * SLOT_BYTES - 1)
            last = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([last ^ 1]))


def test_a_job_runs_from_the_start_on_and_is_given_what_was_cached_then(
    jobs: Jobs, cache: WindowCache, tmp_path: Path
) -> None:
    jobs.start(STATE, SETTINGS, frozenset())
    assert jobs.running == STATE.id
    cache.fit(("whine",), (2, 8))  # a release adopted before is settled late: the cache is opened anew
    started = wait_until(jobs.poll)
    assert isinstance(started, Started)
    assert started.id == jobs.running == STATE.id
    folder = folder_of(tmp_path)
    assert sorted(job_folder.read_windows(folder)["hum"][:, 0, 0].tolist()) == [seq + 0.5 for seq in range(12)]
    assert job_folder.read_job(folder).windows == {"diagnosis": 4, "label": 8, "sender": 0}


def test_windows_found_damaged_are_given_up_also_where_too_few_are_left_for_the_job(
    jobs: Jobs, cache: WindowCache, tmp_path: Path
) -> None:
    damage(tmp_path, 5)
    jobs.start(STATE, SETTINGS, frozenset())
    ended = wait_until(jobs.poll)
    assert isinstance(ended, Ended)
    assert isinstance(ended.failure, JobFailed)
    assert ended.failure.code == "E_TOO_FEW_WINDOWS"
    assert ended.failure.reason == "only 7 windows of hum are sound, 8 are needed"
    assert jobs.running is None
    assert cache.counts()["hum"] == 7


def test_a_slot_filled_anew_since_it_was_found_damaged_keeps_its_window(cache: WindowCache, tmp_path: Path) -> None:
    damage(tmp_path, 2)
    damaged = cache.reader("hum").read(12).damaged
    assert damaged == (0, 1)
    cache.drop_damaged("hum", damaged[:1])
    cache.offer("hum", window_of(99), Source.LABEL)
    cache.drop_damaged("hum", damaged)
    assert cache.counts()["hum"] == 11
    assert 99.5 in cache.reader("hum").read(12).windows


def test_nobody_waits_for_a_folder_to_be_filled_but_who_stops_the_job(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = hold(monkeypatch)
    jobs.start(STATE, SETTINGS, frozenset())
    assert jobs.poll() is None
    threading.Timer(0.1, go_on.set).start()
    jobs.stop()
    assert (go_on.is_set(), jobs.running) == (True, None)
    jobs.clear()
    assert not folder_of(tmp_path).exists()
    jobs.start(STATE, SETTINGS, frozenset())
    assert isinstance(wait_until(jobs.poll), Started)


def test_a_folder_that_is_never_full_ends_the_job_and_is_not_left_behind(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command was executing for ever, its class masked, and no other model's job began."""
    go_on = hold(monkeypatch)
    monkeypatch.setattr("edge_agent.jobs.STOP_S", 0.1)
    jobs.start(STATE, SETTINGS.model_copy(update={"timeout_s": 0.1}), frozenset())
    ended = wait_until(jobs.poll)
    assert isinstance(ended, Ended)
    assert ended.failure is not None
    assert (ended.failure.code, ended.failure.reason) == (
        "E_TIMEOUT",
        "the job took longer than 0.1 s (forget.timeout_s)",
    )
    with pytest.raises(StorageFailed, match="still being filled"):
        jobs.clear()
    jobs.start(STATE, SETTINGS, frozenset())
    jobs.stop()  # waits, but not for ever
    go_on.set()
    wait_until(lambda: cleared(jobs))
    assert not folder_of(tmp_path).exists()


def test_jobs_leave_no_file_open_also_where_the_second_class_cannot_be_opened(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = JobState("command-2", ("hum", "rattle"), "digest", "executing", "probing")
    jobs.start(both, SETTINGS, frozenset())
    jobs.stop()
    before, dup, calls = len(list(Path("/proc/self/fd").iterdir())), os.dup, count()

    def out_of_descriptors(descriptor: int) -> int:
        if next(calls) % 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return dup(descriptor)

    for _ in range(3):
        jobs.start(both, SETTINGS, frozenset())
        jobs.stop()
    monkeypatch.setattr(os, "dup", out_of_descriptors)
    with pytest.raises(StorageFailed, match="windows of rattle cannot be read"):
        jobs.start(both, SETTINGS, frozenset())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def hold(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No folder is filled until the event is set, as on a disk that does not answer."""
    go_on, prepare = threading.Event(), job_folder.prepare

    def held(*order: Any) -> None:
        assert go_on.wait(30)
        prepare(*order)

    monkeypatch.setattr(job_folder, "prepare", held)
    return go_on


def cleared(jobs: Jobs) -> bool:
    try:
        jobs.clear()
    except StorageFailed:
        return False
    return True
