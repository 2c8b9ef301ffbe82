"""Data sets from files: what is read, what is refused, and that no stretch of a recording is on two sides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import toy
from edge_agent.adapters import datasets
from edge_agent.adapters.datasets import DSADS_CLASSES, DSADS_SHAPE, LENGTH
from tests.data_sides import REAL, needs_real_data, refusal, share_nothing, sides


def _values(groups_per_class: int = 5, windows_per_group: int = 3) -> dict[str, Any]:
    """The toy data set as the content of an archive; each class has groups of its own."""
    count = groups_per_class * windows_per_group
    split = toy.split(count, np.random.default_rng(0))
    groups = np.arange(len(split)) // windows_per_group
    return {
        "windows": split.windows,
        "labels": split.labels,
        "classes": np.array(toy.CLASSES),
        "groups": groups,
        "rate_hz": np.array(toy.RATE_HZ),
    }


def _archive(folder: Path, **changes: Any) -> Path:
    """Write an archive with some keys replaced; ``None`` leaves a key out."""
    values = {key: value for key, value in {**_values(), **changes}.items() if value is not None}
    np.savez(folder / "mine.npz", **values)
    return folder / "mine.npz"


def test_an_archive_is_read_with_its_names(tmp_path: Path) -> None:
    data = datasets.archive(_archive(tmp_path, channels=np.array(toy.CHANNELS), unit=np.array("g")))
    assert (data.name, data.classes, data.channels, data.unit) == ("mine", toy.CLASSES, toy.CHANNELS, "g")
    assert (data.rate_hz, data.length, data.split_by) == (toy.RATE_HZ, toy.LENGTH, "group")
    assert [len(side) for side in sides(data)] == [5 * 9, 5 * 3, 5 * 3]
    assert {side.windows.dtype for side in sides(data)} == {np.dtype(np.float32)}


def test_an_archive_without_names_gets_some(tmp_path: Path) -> None:
    data = datasets.archive(_archive(tmp_path))
    assert (data.channels, data.unit) == (("ch0", "ch1", "ch2"), "m/s^2")


def test_groups_may_be_named_and_integers_may_be_windows(tmp_path: Path) -> None:
    values = _values()
    names = np.array([f"record {group:03d}" for group in values["groups"]])
    data = datasets.archive(_archive(tmp_path, groups=names, windows=(values["windows"] * 100).astype(np.int16)))
    assert [len(side) for side in sides(data)] == [45, 15, 15]
    assert data.train.windows.dtype == np.float32


@given(groups_per_class=st.integers(3, 12), windows_per_group=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_whole_groups_go_to_one_side_and_every_class_is_on_each(
    tmp_path_factory: pytest.TempPathFactory, groups_per_class: int, windows_per_group: int, seed: int
) -> None:
    values = _values(groups_per_class, windows_per_group)
    order = np.random.default_rng(seed).permutation(len(values["labels"]))
    for key in ("windows", "labels", "groups"):
        values[key] = values[key][order]
    group_of = {window.tobytes(): group for window, group in zip(values["windows"], values["groups"], strict=True)}
    data = datasets.archive(_archive(tmp_path_factory.mktemp("archive"), **values))
    groups = [{group_of[window.tobytes()] for window in side.windows} for side in sides(data)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == groups_per_class * len(toy.CLASSES)
    for side in sides(data):
        assert set(side.labels.tolist()) == set(range(len(toy.CLASSES)))
    assert sum(map(len, sides(data))) == len(order)


def test_classes_may_share_groups_as_long_as_each_keeps_three_sides(tmp_path: Path) -> None:
    runs = np.tile(np.arange(15) // 3, len(toy.CLASSES))
    assert [len(side) for side in sides(datasets.archive(_archive(tmp_path, groups=runs)))] == [45, 15, 15]
    runs[15:30] = np.arange(15) // 5  # rattle knows only groups that train for hum
    assert "rattle" in refusal(datasets.archive, _archive(tmp_path, groups=runs))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate_hz": None, "groups": None}, "no key groups, rate_hz"),
        ({"windows": np.zeros((75, 256), np.float32)}, "(75, 256)"),
        ({"windows": np.zeros((74, 3, 256), np.float32)}, "(74, 3, 256)"),
        ({"windows": np.full((75, 3, 256), "x")}, "<U1"),
        ({"windows": np.full((75, 3, 256), np.nan)}, "NaN"),
        ({"windows": np.zeros((0, 3, 256)), "labels": np.zeros(0, int), "groups": np.zeros(0)}, "(0, 3, 256)"),
        ({"labels": np.array(["hum"] * 75)}, "<U3"),
        ({"labels": np.zeros((75, 1), int)}, "(75, 1)"),
        ({"labels": np.full(75, 5)}, "5 to 5, there are 5 classes"),
        ({"labels": np.full(75, -1)}, "-1 to -1"),
        ({"groups": np.zeros(75)}, "hum has 1 groups, at least 3"),
        ({"groups": np.zeros((75, 2))}, "(75, 2)"),
        ({"classes": np.array([*toy.CLASSES, "spare"])}, "spare has 0 groups"),
        ({"channels": np.array(["x", "y"])}, "2 channel names for 3 channels"),
        ({"rate_hz": np.array("fast")}, "rate_hz"),
        ({"rate_hz": np.array([1.0, 2.0])}, "rate_hz"),
        ({"groups": np.array([None] * 75)}, "cannot be read"),  # pickled objects are not
    ],
)
def test_a_malformed_archive_is_refused_with_what_is_wrong(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(datasets.archive, _archive(tmp_path, **changes))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04" + bytes(50), b"text", bytes(1000)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.npz"
    if content is not None:
        path.write_bytes(content)
    assert "cannot be read as .npz" in refusal(datasets.archive, path)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.zeros(3))
    assert "cannot be read as .npz" in refusal(datasets.archive, tmp_path / "mine.npy")


def test_a_truncated_or_damaged_archive_is_refused(tmp_path: Path) -> None:
    values = _values()
    np.savez_compressed(tmp_path / "mine.npz", **values)
    content = bytearray((tmp_path / "mine.npz").read_bytes())
    (tmp_path / "mine.npz").write_bytes(content[: len(content) // 2])
    assert "cannot be read" in refusal(datasets.archive, tmp_path / "mine.npz")
    content[2000:2100] = bytes(100)
    (tmp_path / "mine.npz").write_bytes(content)
    assert "cannot be read" in refusal(datasets.archive, tmp_path / "mine.npz")


def _dsads_originals(folder: Path) -> None:
    """All 19 x 8 x 60 files; the files of one recording are one file under sixty names."""
    for label, subject in np.ndindex(19, 8):
        recording = folder / f"a{label + 1:02d}" / f"p{subject + 1}"
        recording.mkdir(parents=True)
        row = ",".join(f"{label}.{subject}{column:02d}" for column in range(45))
        (recording / "s01.txt").write_text(f"{row}\n" * 125)
        for part in range(2, 61):
            os.link(recording / "s01.txt", recording / f"s{part:02d}.txt")


def test_original_dsads_files_are_read_by_activity_subject_and_column(tmp_path: Path) -> None:
    assert "holds no DSADS" in refusal(datasets.dsads, tmp_path)
    _dsads_originals(tmp_path)
    data = datasets.dsads(tmp_path)
    assert (data.classes, len(data.channels), data.split_by) == (DSADS_CLASSES, 9, "subject")
    for side, subjects in [(data.train, range(5)), (data.validation, [5]), (data.test, [6, 7])]:
        for label in range(19):
            own = [subject for subject in subjects if (label, subject) not in datasets.DSADS_COPIES]
            first = side.of(label)[:: len(side.of(label)) // len(own), :, 0]
            expected = [[float(f"{label}.{who}{column:02d}") for column in datasets.DSADS_COLUMNS] for who in own]
            assert np.allclose(first, expected, atol=1e-6)

    (tmp_path / "a01" / "p2" / "s60.txt").unlink()
    assert "p2 has 7375 rows, expected 7500" in refusal(datasets.dsads, tmp_path)
    for path in (tmp_path / "a01" / "p2").iterdir():
        path.unlink()
    assert "p2 has 0 rows" in refusal(datasets.dsads, tmp_path)
    (tmp_path / "a01" / "p2" / "s01.txt").write_text("1,2,3\n")
    assert "a01/p2" in refusal(datasets.dsads, tmp_path)


def test_a_dsads_archive_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dsads_nine_accelerometers.npz"
    np.savez(path, X=np.zeros((19, 8, 9, 75), np.float32))
    assert f"expected {DSADS_SHAPE}" in refusal(datasets.dsads, path.parent)
    np.savez(path, Y=np.zeros(1))
    assert "no key X" in refusal(datasets.dsads, path.parent)


def test_windows_start_every_stride_samples() -> None:
    signal = np.arange(2 * 3000, dtype=np.float32).reshape(2, 3000)
    windows = datasets.windowed(signal, 500)
    assert windows.shape == (4, 2, LENGTH)
    assert windows[:, 0, 0].tolist() == [0, 500, 1000, 1500]
    assert np.array_equal(windows[3], signal[:, 1500 : 1500 + LENGTH])


@needs_real_data
def test_no_stretch_of_a_real_dsads_subject_is_on_two_sides() -> None:
    data = datasets.dsads(REAL)
    assert [len(side) for side in sides(data)] == [(19 * 5 - 2) * 26, 19 * 13, 19 * 2 * 13]
    assert "subject 8" in data.notes
    share_nothing(data)
