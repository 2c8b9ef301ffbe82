"""The window cache: bounded, fair, never believes a damaged slot, and forgets without a trace."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_agent.adapters.windows import Source, WindowCache
from edge_agent.budget import Budget
from edge_agent.core.errors import KeyLost, Refused
from edge_agent.core.types import Window
from edge_agent.files import size_of
from edge_agent.vault import Vault
from tests.plant import unlimited
from tests.scripts import run_script

CLASSES = ("hum", "rattle", "whine")
SHAPE = (2, 8)
HEADER_BYTES = 145 + 28
SLOT_BYTES = HEADER_BYTES + 64 + 28  # header and samples, each sealed


def _cache(
    folder: Path,
    per_class: int = 8,
    seed: int = 0,
    max_bytes: int = 1 << 20,
    recent: int = 4,
    budget: Budget | None = None,
) -> WindowCache:
    generator = np.random.default_rng(seed)
    cache = WindowCache(folder / "cache", Vault(folder), per_class, max_bytes, recent, budget or unlimited(), generator)
    cache.fit(CLASSES, SHAPE)
    return cache


def _window(seq: int, asset: str = "press", boot: str = "b") -> Window:
    """A window whose samples are all its sequence number, in which no byte string of another window occurs."""
    return Window(asset, boot, seq, 1000 + seq, None, np.full(SHAPE, seq + 0.5, np.float32))


def _seqs(cache: WindowCache, label: str) -> list[int]:
    windows, _ = cache.load(label, 10**6)
    assert all((window == window[0, 0]).all() for window in windows)
    return sorted(int(window[0, 0]) for window in windows)


def _files(folder: Path) -> dict[Path, bytes]:
    """What the disk holds of windows: an image, as somebody may have kept it."""
    return {path: path.read_bytes() for path in (folder / "cache").glob("*.slots")}


def _found(folder: Path, image: dict[Path, bytes]) -> list[int]:
    """The windows in an image that the keys of today open."""
    vault, found = Vault(folder), []
    ciphers = [vault.find(name) for name in vault.names("cache-")]
    for path, content in image.items():
        name = path.name.partition(".")[0]
        for slot in range(len(content) // SLOT_BYTES):
            sealed = content[slot * SLOT_BYTES + HEADER_BYTES : (slot + 1) * SLOT_BYTES]
            for cipher in ciphers:
                with suppress(KeyLost):
                    found.append(int(np.frombuffer(cipher.open(sealed, f"{name}/{slot}/body"), np.float32)[0]))
    return sorted(found)


def _code(cache: WindowCache, *arguments: object) -> str:
    with pytest.raises(Refused) as caught:
        cache.label(*arguments)  # type: ignore[arg-type]
    return caught.value.code


def test_a_class_never_holds_more_than_its_share_of_windows_or_bytes(tmp_path: Path) -> None:
    cache = _cache(tmp_path, per_class=8)
    for seq in range(300):
        cache.offer(CLASSES[seq % 3], _window(seq), Source(1 + seq % 3))
        assert size_of(tmp_path / "cache") <= 3 * 8 * SLOT_BYTES
    assert cache.counts() == dict.fromkeys(CLASSES, 8)


def test_the_limit_in_bytes_lowers_the_windows_per_class(tmp_path: Path) -> None:
    cache = _cache(tmp_path, per_class=100, max_bytes=3 * 5 * SLOT_BYTES + 10)
    assert cache.per_class == 5
    for seq in range(60):
        cache.offer("hum", _window(seq), Source.SENDER)
    assert size_of(tmp_path / "cache") == 5 * SLOT_BYTES


@pytest.mark.parametrize("source", [Source.DIAGNOSIS, Source.SENDER])
def test_the_reservoir_keeps_early_and_late_windows_alike(tmp_path: Path, source: Source) -> None:
    kept = np.zeros(100)
    for seed in range(120):
        cache = _cache(tmp_path / str(seed), per_class=8, seed=seed)
        for seq in range(100):
            cache.offer("hum", _window(seq), source)
        kept[_seqs(cache, "hum")] += 1
        cache.close()
    assert kept.sum() == 120 * 8
    assert stats.chisquare(kept.reshape(10, 10).sum(axis=1)).pvalue > 0.01


def test_the_disk_is_written_less_and_less(tmp_path: Path) -> None:
    cache = _cache(tmp_path, per_class=8)
    taken = [cache.offer("hum", _window(seq), Source.SENDER) for seq in range(1000)]
    assert sum(taken[:100]) > 5 * sum(taken[900:])


def test_labelled_windows_replace_unlabelled_ones_and_never_the_reverse(tmp_path: Path) -> None:
    cache = _cache(tmp_path, per_class=8)
    for seq in range(20):
        cache.offer("hum", _window(seq), Source.DIAGNOSIS)
    for seq in range(100, 105):
        assert cache.offer("hum", _window(seq), Source.LABEL)
    for seq in range(200, 400):
        cache.offer("hum", _window(seq), Source.DIAGNOSIS)
    assert {100, 101, 102, 103, 104} < set(_seqs(cache, "hum"))
    for seq in range(105, 108):
        assert cache.offer("hum", _window(seq), Source.SENDER)
    for seq in range(400, 500):
        assert not cache.offer("hum", _window(seq), Source.DIAGNOSIS)
    assert _seqs(cache, "hum") == list(range(100, 108))


def test_best_sources_are_loaded_first_and_counted(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    for seq, source in enumerate([Source.DIAGNOSIS, Source.SENDER, Source.LABEL, Source.DIAGNOSIS, Source.SENDER]):
        cache.offer("hum", _window(seq), source)
    windows, counts = cache.load("hum", 3)
    assert sorted(windows[:2, 0, 0].tolist()) == [1.5, 4.5]
    assert windows[2, 0, 0] == 2.5
    assert counts == {"diagnosis": 0, "label": 1, "sender": 2}


def test_an_empty_class_loads_as_no_windows(tmp_path: Path) -> None:
    windows, counts = _cache(tmp_path).load("hum", 10)
    assert windows.shape == (0, *SHAPE)
    assert windows.dtype == np.float32
    assert sum(counts.values()) == 0


def test_a_repeat_is_not_cached_twice_also_after_a_restart(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    assert cache.offer("hum", _window(3), Source.SENDER)
    assert not cache.offer("hum", _window(3), Source.SENDER)
    cache.close()
    cache = _cache(tmp_path)
    assert not cache.offer("hum", _window(3), Source.SENDER)
    assert cache.offer("hum", _window(3, boot="c"), Source.SENDER)
    assert cache.offer("hum", _window(3, asset="fan"), Source.SENDER)
    assert cache.counts()["hum"] == 3


def test_a_class_that_the_release_does_not_know_is_not_cached(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    assert not cache.offer("squeal", _window(1), Source.SENDER)
    assert _code(cache, "press", "b", 1, "squeal") == "E_CLASS"


def test_a_late_label_finds_the_window_in_memory(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    for seq in range(6):
        cache.remember(_window(seq))
    cache.label("press", "b", 5, "whine")
    cache.label("press", None, 4, "hum")
    assert (_seqs(cache, "whine"), _seqs(cache, "hum")) == ([5], [4])
    assert cache.load("hum", 9)[1] == {"diagnosis": 0, "label": 1, "sender": 0}
    assert _code(cache, "press", "b", 1, "hum") == "E_NOT_CACHED"  # four are remembered, 0 and 1 were too long ago
    assert _code(cache, "press", "c", 3, "hum") == "E_NOT_CACHED"
    assert _code(cache, "fan", "b", 3, "hum") == "E_NOT_CACHED"


def test_a_late_label_confirms_or_moves_a_window_on_disk(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    for seq in range(3):
        cache.offer("hum", _window(seq), Source.DIAGNOSIS)
    cache.label("press", "b", 0, "hum")
    cache.label("press", None, 1, "rattle")
    cache.close()
    cache = _cache(tmp_path)
    assert (_seqs(cache, "hum"), _seqs(cache, "rattle")) == ([0, 2], [1])
    assert cache.load("hum", 9)[1] == {"diagnosis": 1, "label": 1, "sender": 0}
    assert cache.load("rattle", 9)[1] == {"diagnosis": 0, "label": 1, "sender": 0}


def test_a_worse_source_changes_nothing(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    cache.offer("hum", _window(0), Source.SENDER)
    cache.label("press", "b", 0, "rattle")
    assert not cache.offer("rattle", _window(0), Source.DIAGNOSIS)
    assert (_seqs(cache, "hum"), _seqs(cache, "rattle")) == ([0], [])


def test_no_samples_and_no_names_lie_bare_on_the_disk(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    cache.offer("hum", _window(1, asset="press-with-a-name"), Source.SENDER)
    cache.label("press-with-a-name", "b", 1, "hum")
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert _window(1).samples.tobytes()[:8] not in everything
    assert b"press-with-a-name" not in everything
    assert _found(tmp_path, _files(tmp_path)) == [1]


def test_what_the_disk_kept_of_a_moved_window_does_not_outlive_the_class_that_it_was_moved_to(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    for seq in range(4):
        cache.offer("hum", _window(seq), Source.DIAGNOSIS)
    kept = _files(tmp_path)  # flash writes elsewhere: what was there may stay
    cache.label("press", "b", 1, "rattle")
    assert _found(tmp_path, _files(tmp_path)) == [0, 1, 2, 3]
    cache.close()
    cache = _cache(tmp_path)  # that a window was moved is known after a restart
    assert cache.erase("rattle") == 1
    assert _found(tmp_path, kept) == []
    assert _found(tmp_path, _files(tmp_path)) == _seqs(cache, "hum") == [0, 2, 3]
    cache.close()
    assert _seqs(_cache(tmp_path), "hum") == [0, 2, 3]


def test_closed_classes_take_nothing_and_forget_who_waits_for_a_label(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    cache.offer("hum", _window(0), Source.DIAGNOSIS)
    cache.remember(_window(1))
    cache.close_classes(frozenset({"hum"}))
    assert not cache.offer("hum", _window(2), Source.SENDER)
    assert _code(cache, "press", "b", 1, "hum") == "E_NOT_CACHED"
    cache.remember(_window(3))
    cache.label("press", "b", 3, "hum")
    assert _seqs(cache, "hum") == [0]
    assert cache.offer("rattle", _window(4), Source.SENDER)
    cache.close_classes(frozenset())
    assert cache.offer("hum", _window(5), Source.SENDER)


def test_erasing_a_class_leaves_nothing_of_it_and_everything_of_the_others(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    for seq in range(12):
        cache.offer(CLASSES[seq % 2], _window(seq), Source.SENDER)
    cache.remember(_window(50))
    kept = _files(tmp_path)
    assert cache.erase("hum") == 6
    assert _found(tmp_path, kept) == _found(tmp_path, _files(tmp_path)) == [1, 3, 5, 7, 9, 11]
    assert cache.counts() == {"hum": 0, "rattle": 6, "whine": 0}
    assert not cache.offer("hum", _window(60), Source.SENDER)
    assert _code(cache, "press", "b", 50, "hum") == "E_NOT_CACHED"
    assert _code(cache, "press", "b", 0, "hum") == "E_NOT_CACHED"
    cache.close()
    assert _cache(tmp_path).counts() == {"hum": 0, "rattle": 6, "whine": 0}


def test_a_restart_finds_every_window(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    long = Window("a" * 64, "b" * 64, 2**63 - 1, 2**63 - 1, None, np.full(SHAPE, 77.5, np.float32))
    for seq in range(6):
        cache.offer(CLASSES[seq % 3], _window(seq), Source.LABEL)
    cache.offer("hum", long, Source.SENDER)
    cache.close()
    cache = _cache(tmp_path)
    assert (_seqs(cache, "hum"), _seqs(cache, "rattle"), _seqs(cache, "whine")) == ([0, 3, 77], [1, 4], [2, 5])
    assert not cache.offer("hum", long, Source.SENDER)


def test_fewer_windows_per_class_after_a_restart_are_what_the_file_is_cut_to(tmp_path: Path) -> None:
    cache = _cache(tmp_path, per_class=8)
    for seq in range(8):
        cache.offer("hum", _window(seq), Source.SENDER)
    cache.close()
    assert _seqs(_cache(tmp_path, per_class=3), "hum") == [0, 1, 2]
    assert size_of(tmp_path / "cache") == 3 * SLOT_BYTES


def test_another_release_keeps_the_classes_in_common_and_the_rest_is_destroyed(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    for seq, label in enumerate(CLASSES):
        cache.offer(label, _window(seq), Source.SENDER)
    kept = _files(tmp_path)
    (tmp_path / "cache" / "stray").mkdir()
    (tmp_path / "cache" / "stray" / "file").write_bytes(b"x")
    assert cache.fit(("hum", "squeal"), SHAPE) == 2
    assert cache.counts() == {"hum": 1, "squeal": 0}
    assert _found(tmp_path, kept) == [0]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    cache.fit(("hum", "squeal"), (2, 9))
    assert cache.counts() == {"hum": 0, "squeal": 0}
    assert size_of(tmp_path / "cache") == 0
    assert _found(tmp_path, kept) == []


def test_a_lost_key_costs_the_windows_of_its_class_and_no_others(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    for seq in range(4):
        cache.offer(CLASSES[seq % 2], _window(seq), Source.SENDER)
    cache.close()
    key = next((tmp_path / "keys").iterdir())
    key.write_bytes(key.read_bytes()[:-1] + b"\0\0")
    cache = WindowCache(tmp_path / "cache", Vault(tmp_path), 8, 1 << 20, 4, unlimited(), np.random.default_rng(0))
    assert cache.fit(CLASSES, SHAPE) == 1
    assert sorted(cache.counts().values()) in ([0, 0, 2], [0, 2, 2])
    assert all(cache.offer(label, _window(9, label), Source.SENDER) for label in CLASSES)


def _five_windows(folder: Path) -> Path:
    cache = _cache(folder)
    for seq in range(5):
        cache.offer("hum", _window(seq), Source.SENDER)
    cache.close()
    return next(path for path in (folder / "cache").glob("*.slots") if path.stat().st_size)


@given(place=st.integers(0, 5 * SLOT_BYTES - 1), flip=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_loses_its_window_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    path = _five_windows(folder)
    content = bytearray(path.read_bytes())
    content[place] ^= flip
    path.write_bytes(content)
    cache = _cache(folder)
    lost = place // SLOT_BYTES
    assert _seqs(cache, "hum") == [seq for seq in range(5) if seq != lost]
    assert cache.counts()["hum"] == 4
    assert cache.offer("hum", replace(_window(lost), boot="again"), Source.SENDER)
    assert _seqs(cache, "hum") == list(range(5))
    cache.close()


@pytest.mark.parametrize("size", range(0, 5 * SLOT_BYTES + 1, 13))
def test_a_torn_tail_loses_only_the_torn_window(tmp_path: Path, size: int) -> None:
    path = _five_windows(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    cache = _cache(tmp_path)
    assert cache.counts()["hum"] == size // SLOT_BYTES
    assert _seqs(cache, "hum") == list(range(size // SLOT_BYTES))
    assert cache.offer("hum", _window(9), Source.SENDER)


def test_a_full_disk_is_reported_and_the_cache_goes_on(tmp_path: Path) -> None:
    script = f"""
import resource
from pathlib import Path
from edge_agent.adapters.windows import Source
from edge_agent.core.errors import StorageFailed
from tests.test_window_cache import _cache, _seqs, _window

cache = _cache(Path({str(tmp_path)!r}))
cache.offer("hum", _window(0), Source.DIAGNOSIS)
resource.setrlimit(resource.RLIMIT_FSIZE, ({SLOT_BYTES + 200}, {SLOT_BYTES * 100}))
for seq in (1, 2):
    try:
        cache.offer("hum", _window(seq), Source.SENDER)
    except StorageFailed as error:
        assert error.code == "E_STORAGE", error
    else:
        raise SystemExit("a full disk went unnoticed")
assert _seqs(cache, "hum") == [0], _seqs(cache, "hum")
cache.label("press", "b", 0, "rattle")  # there is room in the other file
assert (_seqs(cache, "hum"), _seqs(cache, "rattle")) == ([], [0])
resource.setrlimit(resource.RLIMIT_FSIZE, ({SLOT_BYTES * 100}, {SLOT_BYTES * 100}))
assert cache.offer("hum", _window(1), Source.SENDER)
cache.close()
assert _seqs(_cache(Path({str(tmp_path)!r})), "hum") == [1]
"""
    run_script(script)


def test_a_label_finds_one_of_two_windows_with_the_same_number(tmp_path: Path) -> None:
    """A redelivered window and its label ended the agent: the windows were compared sample by sample."""
    cache = _cache(tmp_path)
    cache.remember(_window(7))
    cache.remember(_window(7))
    cache.label("press", "b", 7, "hum")
    assert _seqs(cache, "hum") == [7]
    cache.close()


def test_a_file_cut_short_while_it_is_open_costs_only_the_windows_that_are_gone(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    for seq in range(8):
        cache.offer("hum", _window(seq), Source.SENDER)
    path = max((tmp_path / "cache").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(path, 3 * SLOT_BYTES + 50)
    assert _seqs(cache, "hum") == [0, 1, 2]
    cache.close()
