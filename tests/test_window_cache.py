"""The window cache: bounded, fair, never believes a damaged slot, and forgets without a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from edge_agent.files import size_of
from edge_agent.reservoir import Source
from tests.cache_kit import (
    CLASSES,
    SHAPE,
    SLOT_BYTES,
    code_of,
    erase,
    files_of,
    found_in,
    open_cache,
    seqs_of,
    window_of,
)


def test_a_class_never_holds_more_than_its_share_of_windows_or_bytes(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, per_class=8)
    for seq in range(300):
        cache.offer(CLASSES[seq % 3], window_of(seq), Source(1 + seq % 3))
        assert size_of(tmp_path / "cache") <= 3 * 8 * SLOT_BYTES
    assert cache.counts() == dict.fromkeys(CLASSES, 8)


def test_the_limit_in_bytes_lowers_the_windows_per_class(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, per_class=100, max_bytes=3 * 5 * SLOT_BYTES + 10)
    assert cache.per_class == 5
    for seq in range(60):
        cache.offer("hum", window_of(seq), Source.SENDER)
    assert size_of(tmp_path / "cache") == 5 * SLOT_BYTES


@pytest.mark.parametrize("source", [Source.DIAGNOSIS, Source.SENDER])
def test_the_reservoir_keeps_early_and_late_windows_alike(tmp_path: Path, source: Source) -> None:
    kept = np.zeros(100)
    for seed in range(120):
        cache = open_cache(tmp_path / str(seed), per_class=8, seed=seed)
        for seq in range(100):
            cache.offer("hum", window_of(seq), source)
        kept[seqs_of(cache, "hum")] += 1
        cache.close()
    assert kept.sum() == 120 * 8
    assert stats.chisquare(kept.reshape(10, 10).sum(axis=1)).pvalue > 0.01


def test_the_disk_is_written_less_and_less(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, per_class=8)
    taken = [cache.offer("hum", window_of(seq), Source.SENDER) for seq in range(1000)]
    assert sum(taken[:100]) > 5 * sum(taken[900:])


def test_labelled_windows_replace_unlabelled_ones_and_never_the_reverse(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, per_class=8)
    for seq in range(20):
        cache.offer("hum", window_of(seq), Source.DIAGNOSIS)
    for seq in range(100, 105):
        assert cache.offer("hum", window_of(seq), Source.LABEL)
    for seq in range(200, 400):
        cache.offer("hum", window_of(seq), Source.DIAGNOSIS)
    assert {100, 101, 102, 103, 104} < set(seqs_of(cache, "hum"))
    for seq in range(105, 108):
        assert cache.offer("hum", window_of(seq), Source.SENDER)
    for seq in range(400, 500):
        assert not cache.offer("hum", window_of(seq), Source.DIAGNOSIS)
    assert seqs_of(cache, "hum") == list(range(100, 108))


def test_best_sources_are_loaded_first_and_counted(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for seq, source in enumerate([Source.DIAGNOSIS, Source.SENDER, Source.LABEL, Source.DIAGNOSIS, Source.SENDER]):
        cache.offer("hum", window_of(seq), source)
    loaded = cache.reader("hum").read(3)
    windows, counts = loaded.windows, loaded.counts
    assert sorted(windows[:2, 0, 0].tolist()) == [1.5, 4.5]
    assert windows[2, 0, 0] == 2.5
    assert counts == {"diagnosis": 0, "label": 1, "sender": 2}


def test_an_empty_class_loads_as_no_windows(tmp_path: Path) -> None:
    loaded = open_cache(tmp_path).reader("hum").read(10)
    assert loaded.windows.shape == (0, *SHAPE)
    assert loaded.windows.dtype == np.float32
    assert sum(loaded.counts.values()) == 0


def test_a_repeat_is_not_cached_twice_also_after_a_restart(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    assert cache.offer("hum", window_of(3), Source.SENDER)
    assert not cache.offer("hum", window_of(3), Source.SENDER)
    cache.close()
    cache = open_cache(tmp_path)
    assert not cache.offer("hum", window_of(3), Source.SENDER)
    assert cache.offer("hum", window_of(3, boot="c"), Source.SENDER)
    assert cache.offer("hum", window_of(3, asset="fan"), Source.SENDER)
    assert cache.counts()["hum"] == 3


def test_a_class_that_the_release_does_not_know_is_not_cached(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    assert not cache.offer("squeal", window_of(1), Source.SENDER)
    assert code_of(cache, "press", "b", 1, "squeal") == "E_CLASS"


def test_a_late_label_finds_the_window_in_memory(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for seq in range(6):
        cache.remember(window_of(seq))
    cache.label("press", "b", 5, "whine")
    cache.label("press", None, 4, "hum")
    assert (seqs_of(cache, "whine"), seqs_of(cache, "hum")) == ([5], [4])
    assert cache.reader("hum").read(9).counts == {"diagnosis": 0, "label": 1, "sender": 0}
    assert code_of(cache, "press", "b", 1, "hum") == "E_NOT_CACHED"  # four are remembered, 0 and 1 were too long ago
    assert code_of(cache, "press", "c", 3, "hum") == "E_NOT_CACHED"
    assert code_of(cache, "fan", "b", 3, "hum") == "E_NOT_CACHED"


def test_a_late_label_confirms_or_moves_a_window_on_disk(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for seq in range(3):
        cache.offer("hum", window_of(seq), Source.DIAGNOSIS)
    cache.label("press", "b", 0, "hum")
    cache.label("press", None, 1, "rattle")
    cache.close()
    cache = open_cache(tmp_path)
    assert (seqs_of(cache, "hum"), seqs_of(cache, "rattle")) == ([0, 2], [1])
    assert cache.reader("hum").read(9).counts == {"diagnosis": 1, "label": 1, "sender": 0}
    assert cache.reader("rattle").read(9).counts == {"diagnosis": 0, "label": 1, "sender": 0}


def test_a_late_label_without_a_boot_means_the_newest_window_on_disk(tmp_path: Path) -> None:
    """It went to the oldest: a window from before the sender's restart was moved to a class that is not its own."""
    cache = open_cache(tmp_path)
    for label, captured_ns in (("hum", 0), ("whine", 0), ("hum", 3), ("whine", 2)):
        window = replace(window_of(captured_ns, boot=f"{label}-{captured_ns}"), seq=7, captured_ns=captured_ns)
        cache.offer(label, window, Source.DIAGNOSIS)
    cache.close()
    cache = open_cache(tmp_path)
    cache.label("press", None, 7, "rattle")
    assert (seqs_of(cache, "hum"), seqs_of(cache, "whine"), seqs_of(cache, "rattle")) == ([0], [0, 2], [3])


def test_of_windows_whose_sender_says_no_time_a_label_means_that_which_came_last(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for place, boot in enumerate("ab"):
        cache.offer("hum", replace(window_of(place, boot=boot), seq=7, captured_ns=0), Source.DIAGNOSIS)
    cache.label("press", None, 7, "rattle")
    assert (seqs_of(cache, "hum"), seqs_of(cache, "rattle")) == ([0], [1])


def test_a_worse_source_changes_nothing(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.offer("hum", window_of(0), Source.SENDER)
    cache.label("press", "b", 0, "rattle")
    assert not cache.offer("rattle", window_of(0), Source.DIAGNOSIS)
    assert (seqs_of(cache, "hum"), seqs_of(cache, "rattle")) == ([0], [])


def test_no_samples_and_no_names_lie_bare_on_the_disk(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.offer("hum", window_of(1, asset="press-with-a-name"), Source.SENDER)
    cache.label("press-with-a-name", "b", 1, "hum")
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert window_of(1).samples.tobytes()[:8] not in everything
    assert b"press-with-a-name" not in everything
    assert found_in(tmp_path, files_of(tmp_path)) == [1]


def test_what_the_disk_kept_of_a_moved_window_does_not_outlive_the_class_that_it_was_moved_to(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for seq in range(4):
        cache.offer("hum", window_of(seq), Source.DIAGNOSIS)
    kept = files_of(tmp_path)  # flash writes elsewhere: what was there may stay
    cache.label("press", "b", 1, "rattle")
    assert found_in(tmp_path, files_of(tmp_path)) == [0, 1, 2, 3]
    cache.close()
    cache = open_cache(tmp_path)  # that a window was moved is known after a restart
    assert erase(cache, "rattle") == 1
    assert found_in(tmp_path, kept) == []
    assert found_in(tmp_path, files_of(tmp_path)) == seqs_of(cache, "hum") == [0, 2, 3]
    cache.close()
    assert seqs_of(open_cache(tmp_path), "hum") == [0, 2, 3]


def test_what_the_disk_kept_of_a_window_does_not_outlive_the_class_that_it_was_moved_to_at_last(tmp_path: Path) -> None:
    """Only the file that it was moved from last got a new key; the one before kept it for whoever had its blocks."""
    cache = open_cache(tmp_path)
    for seq in range(4):
        cache.offer("hum", window_of(seq), Source.DIAGNOSIS)
    kept = files_of(tmp_path)
    cache.label("press", "b", 1, "rattle")
    assert cache.offer("whine", window_of(1), Source.SENDER)
    assert erase(cache, "whine") == 1
    assert found_in(tmp_path, kept) == []
    assert (seqs_of(cache, "hum"), seqs_of(cache, "rattle")) == ([0, 2, 3], [])
    cache.close()


def test_a_class_stays_closed_in_later_releases(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.close_classes(frozenset({"hum"}))
    cache.fit(CLASSES, (2, 16))
    window = replace(window_of(0), samples=np.zeros((2, 16), np.float32))
    assert not cache.offer("hum", window, Source.SENDER)
    assert cache.offer("rattle", window, Source.SENDER)
    cache.close()


def test_closed_classes_take_nothing_and_forget_who_waits_for_a_label(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.offer("hum", window_of(0), Source.DIAGNOSIS)
    cache.remember(window_of(1))
    cache.close_classes(frozenset({"hum"}))
    assert not cache.offer("hum", window_of(2), Source.SENDER)
    assert code_of(cache, "press", "b", 1, "hum") == "E_NOT_CACHED"
    cache.remember(window_of(3))
    cache.label("press", "b", 3, "hum")
    assert seqs_of(cache, "hum") == [0]
    assert cache.offer("rattle", window_of(4), Source.SENDER)
    cache.close_classes(frozenset())
    assert cache.offer("hum", window_of(5), Source.SENDER)


def test_erasing_a_class_leaves_nothing_of_it_and_everything_of_the_others(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for seq in range(12):
        cache.offer(CLASSES[seq % 2], window_of(seq), Source.SENDER)
    cache.remember(window_of(50))
    kept = files_of(tmp_path)
    assert erase(cache, "hum") == 6
    assert found_in(tmp_path, kept) == found_in(tmp_path, files_of(tmp_path)) == [1, 3, 5, 7, 9, 11]
    assert cache.counts() == {"hum": 0, "rattle": 6, "whine": 0}
    assert not cache.offer("hum", window_of(60), Source.SENDER)
    assert code_of(cache, "press", "b", 50, "hum") == "E_NOT_CACHED"
    assert code_of(cache, "press", "b", 0, "hum") == "E_NOT_CACHED"
    cache.close()
    assert open_cache(tmp_path).counts() == {"hum": 0, "rattle": 6, "whine": 0}


def test_a_label_finds_one_of_two_windows_with_the_same_number(tmp_path: Path) -> None:
    """A redelivered window and its label ended the agent: the windows were compared sample by sample."""
    cache = open_cache(tmp_path)
    cache.remember(window_of(7))
    cache.remember(window_of(7))
    cache.label("press", "b", 7, "hum")
    assert seqs_of(cache, "hum") == [7]
    cache.close()
