"""A job's folder is filled beside the thread that answers windows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.adapters import job_folder
from edge_agent.adapters.windows import WindowCache
from edge_agent.adapters.workplace import Workplace
from edge_agent.core.errors import JobFailed
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


def test_a_job_stopped_while_its_folder_is_filled_leaves_nothing_and_the_next_begins_anew(
    jobs: Jobs, tmp_path: Path
) -> None:
    jobs.start(STATE, SETTINGS, frozenset())
    jobs.stop()
    assert jobs.running is None
    jobs.clear()
    assert not folder_of(tmp_path).exists()
    jobs.start(STATE, SETTINGS, frozenset())
    assert isinstance(wait_until(jobs.poll), Started)
