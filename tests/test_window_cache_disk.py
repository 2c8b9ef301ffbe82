"""The window cache on the disk: restarts, other releases, damage, a full disk."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.adversity import crashes
from edge_agent.adapters.windows import WindowCache
from edge_agent.core.errors import StorageFailed
from edge_agent.core.types import Window
from edge_agent.files import size_of
from edge_agent.reservoir import Source
from edge_agent.slots import SlotFile
from edge_agent.vault import Vault
from tests.cache_kit import (
    CLASSES,
    SHAPE,
    SLOT_BYTES,
    erase,
    files_of,
    found_in,
    open_cache,
    seqs_of,
    window_of,
)
from tests.plant import unlimited
from tests.scripts import run_script


def test_a_restart_finds_every_window(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    long = Window("a" * 64, "b" * 64, 2**63 - 1, 2**63 - 1, None, np.full(SHAPE, 77.5, np.float32))
    for seq in range(6):
        cache.offer(CLASSES[seq % 3], window_of(seq), Source.LABEL)
    cache.offer("hum", long, Source.SENDER)
    cache.close()
    cache = open_cache(tmp_path)
    assert (seqs_of(cache, "hum"), seqs_of(cache, "rattle"), seqs_of(cache, "whine")) == ([0, 3, 77], [1, 4], [2, 5])
    assert not cache.offer("hum", long, Source.SENDER)


def test_fewer_windows_per_class_after_a_restart_are_what_the_file_is_cut_to(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, per_class=8)
    for seq in range(8):
        cache.offer("hum", window_of(seq), Source.SENDER)
    cache.close()
    assert seqs_of(open_cache(tmp_path, per_class=3), "hum") == [0, 1, 2]
    assert size_of(tmp_path / "cache") == 3 * SLOT_BYTES


def test_another_release_keeps_the_classes_in_common_and_the_rest_is_destroyed(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for seq, label in enumerate(CLASSES):
        cache.offer(label, window_of(seq), Source.SENDER)
    kept = files_of(tmp_path)
    (tmp_path / "cache" / "stray").mkdir()
    (tmp_path / "cache" / "stray" / "file").write_bytes(b"x")
    assert cache.fit(("hum", "squeal"), SHAPE) == 2
    assert cache.counts() == {"hum": 1, "squeal": 0}
    assert found_in(tmp_path, kept) == [0]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    cache.fit(("hum", "squeal"), (2, 9))
    assert cache.counts() == {"hum": 0, "squeal": 0}
    assert size_of(tmp_path / "cache") == 0
    assert found_in(tmp_path, kept) == []


def test_another_release_opens_no_file_anew_unless_its_slots_become_fewer(tmp_path: Path) -> None:
    """An adoption read every header of a full cache again, 56 to 180 ms for eight classes, and windows waited."""
    cache = open_cache(tmp_path, max_bytes=SLOT_BYTES * 12)
    for seq in range(4):
        cache.offer("hum", window_of(seq), Source.SENDER)
    opened = cache._classes["hum"]
    cache.fit(("squeal", "hum", "whine"), SHAPE)
    assert cache._classes["hum"] is opened
    assert not cache.offer("hum", window_of(3), Source.SENDER)  # it is known still
    cache.fit(("hum", "a", "b", "c"), SHAPE)
    assert (cache.per_class, seqs_of(cache, "hum")) == (3, [0, 1, 2])
    cache.drop_damaged("hum", (3,))  # of before: there is no such slot any more


def test_a_lost_key_costs_the_windows_of_its_class_and_no_others(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for seq in range(4):
        cache.offer(CLASSES[seq % 2], window_of(seq), Source.SENDER)
    cache.close()
    key = next((tmp_path / "keys").iterdir())
    key.write_bytes(key.read_bytes()[:-1] + b"\0\0")
    cache = WindowCache(tmp_path / "cache", Vault(tmp_path), 8, 1 << 20, 4, unlimited(), np.random.default_rng(0))
    assert cache.fit(CLASSES, SHAPE) == 1
    assert sorted(cache.counts().values()) in ([0, 0, 2], [0, 2, 2])
    assert all(cache.offer(label, window_of(9, label), Source.SENDER) for label in CLASSES)


def test_a_file_whose_opening_fails_halfway_loses_nothing_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had counted by then ended the agent when it came again, and the next opening cleared it."""
    cache = open_cache(tmp_path)
    for seq in range(3):
        cache.offer("rattle", window_of(seq), Source.DIAGNOSIS)
    before = files_of(tmp_path)
    cache.label("press", "b", 2, "hum")
    cache.close()
    for path, content in before.items():  # a power cut that brings the moved window back where it was
        if content:
            path.write_bytes(content)
    clear, failures = SlotFile.clear, [OSError(errno.EIO, os.strerror(errno.EIO))]

    def clear_later(file: SlotFile, slot: int) -> None:
        if failures:
            raise failures.pop()
        clear(file, slot)

    monkeypatch.setattr(SlotFile, "clear", clear_later)
    cache = WindowCache(tmp_path / "cache", Vault(tmp_path), 8, 1 << 20, 4, unlimited(), np.random.default_rng(0))
    with pytest.raises(StorageFailed):
        cache.fit(CLASSES, SHAPE)
    assert opened_below(tmp_path) == 2  # of the two other classes
    assert not cache.offer("rattle", window_of(0), Source.SENDER)
    with pytest.raises(StorageFailed, match="the cached windows of rattle cannot be opened"):
        cache.label("press", "b", 0, "rattle")  # was refused, as if the release did not know the class
    erase(cache, "whine")
    assert (seqs_of(cache, "hum"), seqs_of(cache, "rattle")) == ([2], [0, 1])
    cache.close()


def opened_below(folder: Path) -> int:
    """How many descriptors of this process are of files in a folder; others come and go."""
    links = [*Path("/proc/self/fd").iterdir()]
    return sum(os.path.realpath(link).startswith(f"{folder}/") for link in links)


def test_a_file_that_cannot_be_opened_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An erasure tries again every five seconds."""
    open_cache(tmp_path).close()

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("edge_agent.slots.os.ftruncate", failing)
    cache = WindowCache(tmp_path / "cache", Vault(tmp_path), 8, 1 << 20, 4, unlimited(), np.random.default_rng(0))
    for _ in range(3):
        with pytest.raises(StorageFailed):
            cache.fit(CLASSES, SHAPE)
    assert opened_below(tmp_path) == 0


@pytest.mark.parametrize("content", [b"", b"\0", b"[1", b"7", b"null"])
def test_where_windows_were_moved_to_is_taken_to_be_everywhere_if_the_list_is_damaged(
    tmp_path: Path, content: bytes
) -> None:
    """Then no file got a new key, and a window of the erased class could still be had from a copy of the disk."""
    cache = open_cache(tmp_path)
    cache.offer("rattle", window_of(1), Source.DIAGNOSIS)
    image = files_of(tmp_path)
    cache.label("press", "b", 1, "hum")
    cache.close()
    (lent,) = (tmp_path / "cache").glob("*.lent")
    lent.write_bytes(content)
    cache = open_cache(tmp_path)
    erase(cache, "hum")
    cache.close()
    assert found_in(tmp_path, image) == []


def forgotten_in_spite_of_the_disk(folder: Path) -> None:
    """Erase a class whose windows were partly moved from another; if the disk fails, once more when it is sound."""
    crashes.mended = True
    cache = open_cache(folder)
    crashes.mended, crashes.count = False, 0  # what is counted is erasing
    try:
        erase(cache, "hum")
    except StorageFailed:
        crashes.mend()
        erase(cache, "hum")
        assert cache.counts() == {"hum": 0, "rattle": 4, "whine": 5}
        assert not cache.offer("hum", window_of(99), Source.SENDER)
        raise
    finally:
        cache.close()


@pytest.mark.parametrize("how", [errno.ENOSPC, errno.EIO])
def test_a_class_is_gone_also_when_the_disk_failed_at_first(tmp_path: Path, how: int) -> None:
    """After an error of the disk the second try did nothing, and the certificate said that all was destroyed."""
    script = f"""
from pathlib import Path
from benchmarks.adversity import crashes
from tests.test_window_cache_disk import forgotten_in_spite_of_the_disk, three_classes
print(crashes.everywhere(Path({str(tmp_path)!r}), three_classes, forgotten_in_spite_of_the_disk, {how}))
"""
    number = int(run_script(script).splitlines()[-1])
    assert number > 12
    for place in range(1, number + 1):
        kept = {path: path.read_bytes() for path in (tmp_path / f"{place}" / "before").glob("*.slots")}
        assert found_in(tmp_path / f"{place}", kept) == [20, 21, 22, 23, 24], place
        assert found_in(tmp_path / f"{place}", files_of(tmp_path / f"{place}")) == [*range(10, 14), *range(20, 25)]


def three_classes(folder: Path) -> None:
    """Five windows of each class, one of which turned out to be of the class that goes."""
    cache = open_cache(folder)
    for place, label in enumerate(CLASSES):
        for seq in range(10 * place, 10 * place + 5):
            cache.offer(label, window_of(seq), Source.DIAGNOSIS)
    cache.label("press", "b", 14, "hum")
    cache.close()
    shutil.copytree(folder / "cache", folder / "before")  # as somebody may have kept it


def _five_windows(folder: Path) -> Path:
    cache = open_cache(folder)
    for seq in range(5):
        cache.offer("hum", window_of(seq), Source.SENDER)
    cache.close()
    return next(path for path in (folder / "cache").glob("*.slots") if path.stat().st_size)


@given(place=st.integers(0, 5 * SLOT_BYTES - 1), flip=st.integers(1, 255))
@settings(max_examples=150)
def test_a_flipped_byte_loses_its_window_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    path = _five_windows(folder)
    content = bytearray(path.read_bytes())
    content[place] ^= flip
    path.write_bytes(content)
    cache = open_cache(folder)
    lost = place // SLOT_BYTES
    assert seqs_of(cache, "hum") == [seq for seq in range(5) if seq != lost]
    assert cache.counts()["hum"] == 4
    assert cache.offer("hum", replace(window_of(lost), boot="again"), Source.SENDER)
    assert seqs_of(cache, "hum") == list(range(5))
    cache.close()


@pytest.mark.parametrize("size", range(0, 5 * SLOT_BYTES + 1, 13))
def test_a_torn_tail_loses_only_the_torn_window(tmp_path: Path, size: int) -> None:
    path = _five_windows(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    cache = open_cache(tmp_path)
    assert cache.counts()["hum"] == size // SLOT_BYTES
    assert seqs_of(cache, "hum") == list(range(size // SLOT_BYTES))
    assert cache.offer("hum", window_of(9), Source.SENDER)


def test_a_full_disk_is_reported_and_the_cache_goes_on(tmp_path: Path) -> None:
    script = f"""
import resource
from pathlib import Path
from edge_agent.reservoir import Source
from benchmarks.adversity import crashes
from edge_agent.core.errors import StorageFailed, StorageFailed
from tests.cache_kit import open_cache, seqs_of, window_of

cache = open_cache(Path({str(tmp_path)!r}))
cache.offer("hum", window_of(0), Source.DIAGNOSIS)
resource.setrlimit(resource.RLIMIT_FSIZE, ({SLOT_BYTES + 200}, {SLOT_BYTES * 100}))
for seq in (1, 2):
    try:
        cache.offer("hum", window_of(seq), Source.SENDER)
    except StorageFailed as error:
        assert error.code == "E_STORAGE", error
    else:
        raise SystemExit("a full disk went unnoticed")
assert seqs_of(cache, "hum") == [0], seqs_of(cache, "hum")
cache.label("press", "b", 0, "rattle")  # there is room in the other file
assert (seqs_of(cache, "hum"), seqs_of(cache, "rattle")) == ([], [0])
resource.setrlimit(resource.RLIMIT_FSIZE, ({SLOT_BYTES * 100}, {SLOT_BYTES * 100}))
assert cache.offer("hum", window_of(1), Source.SENDER)
cache.close()
assert seqs_of(open_cache(Path({str(tmp_path)!r})), "hum") == [1]
"""
    run_script(script)


def test_a_file_cut_short_while_it_is_open_costs_only_the_windows_that_are_gone(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for seq in range(8):
        cache.offer("hum", window_of(seq), Source.SENDER)
    path = max((tmp_path / "cache").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(path, 3 * SLOT_BYTES + 50)
    assert seqs_of(cache, "hum") == [0, 1, 2]
    cache.close()
