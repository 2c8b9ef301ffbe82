"""Data sets from files: what is read, what is refused, and that no stretch of a recording is on two sides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import savemat

from edge_agent.adapters import datasets
from edge_agent.adapters.datasets import CWRU_CLASSES, CWRU_FIRST_FILE, DSADS_CLASSES, DSADS_SHAPE, LENGTH
from edge_agent.core.errors import Misconfigured
from edge_agent.core.types import Dataset, Float32, Split
from tests import toy

REAL = Path(__file__).parents[2] / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data sets are not in {REAL}")


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


def _refusal(load: Any, path: Path) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(path)
    assert caught.value.code == "E_DATA"
    assert str(path) in caught.value.reason
    return caught.value.reason


def _sides(data: Dataset) -> tuple[Split, Split, Split]:
    return data.train, data.validation, data.test


def _stretches(side: Split) -> NDArray[np.uint64]:
    """A number for every stretch of eight samples of all channels, wherever it starts; constant ones are left out."""
    bits = side.windows.view(np.uint32).astype(np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)
    columns = np.zeros((bits.shape[0], bits.shape[2]), np.uint64)
    for channel in range(bits.shape[1]):
        columns = (columns ^ bits[:, channel]) * factor
        columns ^= columns >> np.uint64(29)
    starts = bits.shape[2] - 7
    stretches = np.zeros((bits.shape[0], starts), np.uint64)
    for offset in range(8):
        stretches = (stretches ^ columns[:, offset : offset + starts]) * factor
        stretches ^= stretches >> np.uint64(31)
    constant = columns[:, :starts] == columns[:, 7:]
    return np.unique(stretches[~constant])


def _share_nothing(data: Dataset) -> None:
    train, validation, test = map(_stretches, _sides(data))
    for one, other in ((train, validation), (train, test), (validation, test)):
        assert len(np.intersect1d(one, other, assume_unique=True)) == 0


def test_an_archive_is_read_with_its_names(tmp_path: Path) -> None:
    data = datasets.archive(_archive(tmp_path, channels=np.array(toy.CHANNELS), unit=np.array("g")))
    assert (data.name, data.classes, data.channels, data.unit) == ("mine", toy.CLASSES, toy.CHANNELS, "g")
    assert (data.rate_hz, data.length, data.split_by) == (toy.RATE_HZ, toy.LENGTH, "group")
    assert [len(side) for side in _sides(data)] == [5 * 9, 5 * 3, 5 * 3]
    assert {side.windows.dtype for side in _sides(data)} == {np.dtype(np.float32)}


def test_an_archive_without_names_gets_some(tmp_path: Path) -> None:
    data = datasets.archive(_archive(tmp_path))
    assert (data.channels, data.unit) == (("ch0", "ch1", "ch2"), "m/s^2")


def test_groups_may_be_named_and_integers_may_be_windows(tmp_path: Path) -> None:
    values = _values()
    names = np.array([f"record {group:03d}" for group in values["groups"]])
    data = datasets.archive(_archive(tmp_path, groups=names, windows=(values["windows"] * 100).astype(np.int16)))
    assert [len(side) for side in _sides(data)] == [45, 15, 15]
    assert data.train.windows.dtype == np.float32


@given(groups_per_class=st.integers(3, 12), windows_per_group=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_whole_groups_go_to_one_side_and_every_class_is_on_each(
    tmp_path_factory: pytest.TempPathFactory, groups_per_class: int, windows_per_group: int, seed: int
) -> None:
    values = _values(groups_per_class, windows_per_group)
    order = np.random.default_rng(seed).permutation(len(values["labels"]))
    for key in ("windows", "labels", "groups"):
        values[key] = values[key][order]
    group_of = {window.tobytes(): group for window, group in zip(values["windows"], values["groups"], strict=True)}
    data = datasets.archive(_archive(tmp_path_factory.mktemp("archive"), **values))
    sides = [{group_of[window.tobytes()] for window in side.windows} for side in _sides(data)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == groups_per_class * len(toy.CLASSES)
    for side in _sides(data):
        assert set(side.labels.tolist()) == set(range(len(toy.CLASSES)))
    assert sum(map(len, _sides(data))) == len(order)


def test_classes_may_share_groups_as_long_as_each_keeps_three_sides(tmp_path: Path) -> None:
    runs = np.tile(np.arange(15) // 3, len(toy.CLASSES))
    assert [len(side) for side in _sides(datasets.archive(_archive(tmp_path, groups=runs)))] == [45, 15, 15]
    runs[15:30] = np.arange(15) // 5  # rattle knows only groups that train for hum
    assert "rattle" in _refusal(datasets.archive, _archive(tmp_path, groups=runs))


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
    assert words in _refusal(datasets.archive, _archive(tmp_path, **changes))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04" + bytes(50), b"text", bytes(1000)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.npz"
    if content is not None:
        path.write_bytes(content)
    assert "cannot be read as .npz" in _refusal(datasets.archive, path)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.zeros(3))
    assert "cannot be read as .npz" in _refusal(datasets.archive, tmp_path / "mine.npy")


def test_a_truncated_or_damaged_archive_is_refused(tmp_path: Path) -> None:
    values = _values()
    np.savez_compressed(tmp_path / "mine.npz", **values)
    content = bytearray((tmp_path / "mine.npz").read_bytes())
    (tmp_path / "mine.npz").write_bytes(content[: len(content) // 2])
    assert "cannot be read" in _refusal(datasets.archive, tmp_path / "mine.npz")
    content[2000:2100] = bytes(100)
    (tmp_path / "mine.npz").write_bytes(content)
    assert "cannot be read" in _refusal(datasets.archive, tmp_path / "mine.npz")


def _record(seed: int, samples: int) -> Float32:
    return np.random.default_rng(seed).standard_normal((2, samples)).astype(np.float32)


def _write_mat(path: Path, record: Float32, number: str, **more: Any) -> None:
    savemat(path, {f"X{number}_DE_time": record[0][:, None], f"X{number}_FE_time": record[1][:, None], **more})


def _cwru_originals(folder: Path, samples: int = 16_000) -> Path:
    for first in CWRU_FIRST_FILE.values():
        for number in (first, first + 3):
            _write_mat(folder / f"{number}.mat", _record(number, samples), f"{number:03d}")
    _write_mat(folder / "97.mat", _record(97, 4 * samples), "097", X097RPM=np.array([[1796]]))
    return folder


def test_original_cwru_records_are_read_by_number_and_split_by_time(tmp_path: Path) -> None:
    _cwru_originals(tmp_path)
    # A record that carries another one's variables, as 99.mat of the original set does.
    _write_mat(tmp_path / "105.mat", _record(105, 16_000), "105", X098_DE_time=np.zeros((500, 1)))
    data = datasets.cwru(tmp_path)
    assert (data.classes, data.channels, data.rate_hz, data.length) == (CWRU_CLASSES, ("DE", "FE"), 12_000.0, LENGTH)
    for side, stride, start, end in [
        (data.train, LENGTH // 2, 0, 10_400),
        (data.validation, LENGTH, 10_400 + LENGTH, 12_800),
        (data.test, LENGTH, 12_800 + LENGTH, 16_000),
    ]:
        expected = [
            _record(number, 16_000)[:, at : at + LENGTH]
            for number in (105, 108)
            for at in range(start, end - LENGTH + 1, stride)
        ]
        assert np.array_equal(side.of(CWRU_CLASSES.index("IR007")), expected)
        assert len(side.of(CWRU_CLASSES.index("Normal"))) == len(expected) // 2
    _share_nothing(data)


def test_by_load_whole_records_at_load_3_test_and_the_normal_record_is_split_by_time(tmp_path: Path) -> None:
    data = datasets.cwru(_cwru_originals(tmp_path), split_by="load", held_stride=256)
    label, normal = CWRU_CLASSES.index("IR007"), CWRU_CLASSES.index("Normal")
    assert data.split_by == "load"
    for side, number, stride, start, end in [
        (data.train, 105, LENGTH // 2, 0, 12_800),
        (data.validation, 105, 256, 12_800 + LENGTH, 16_000),
        (data.test, 108, 256, 0, 16_000),
    ]:
        starts = range(start, end - LENGTH + 1, stride)
        assert np.array_equal(side.of(label), [_record(number, 16_000)[:, at : at + LENGTH] for at in starts])
    by_time = datasets.cwru(tmp_path, held_stride=256)
    for side, same in zip(_sides(data), _sides(by_time), strict=True):
        assert np.array_equal(side.of(normal), same.of(normal))
    _share_nothing(data)


def test_by_load_a_class_without_a_record_at_load_3_is_named(tmp_path: Path) -> None:
    (_cwru_originals(tmp_path) / "108.mat").unlink()
    datasets.cwru(tmp_path)
    said = _refusal(lambda folder: datasets.cwru(folder, split_by="load"), tmp_path)
    assert "no CWRU record of IR007 for test, split by load" in said


def test_the_normal_record_is_brought_from_48_to_12_khz(tmp_path: Path) -> None:
    _cwru_originals(tmp_path)
    time_s = np.arange(64_000) / 48_000
    tone = np.sin(2 * np.pi * 750 * time_s)
    _write_mat(tmp_path / "97.mat", np.stack([tone, tone]).astype(np.float32), "097")
    window = datasets.cwru(tmp_path).test.of(CWRU_CLASSES.index("Normal"))[0, 0]
    assert np.abs(np.fft.rfft(window)).argmax() == 750 / 12_000 * LENGTH


def test_cwru_records_that_are_missing_short_or_broken_are_named(tmp_path: Path) -> None:
    assert "holds no CWRU records" in _refusal(datasets.cwru, tmp_path)
    _cwru_originals(tmp_path)
    for number in (234, 237):
        (tmp_path / f"{number}.mat").unlink()
    assert "no CWRU record of OR021@6" in _refusal(datasets.cwru, tmp_path)
    _write_mat(tmp_path / "234.mat", _record(0, 2000), "234")
    assert "2000 samples" in _refusal(datasets.cwru, tmp_path)
    savemat(tmp_path / "234.mat", {"X234_DE_time": np.zeros((16_000, 1))})
    assert "ends in FE_time" in _refusal(datasets.cwru, tmp_path)
    for content in (b"", b"no mat file at all" * 20, (tmp_path / "97.mat").read_bytes()[:5000]):
        (tmp_path / "234.mat").write_bytes(content)
        assert "234.mat cannot be read as .mat" in _refusal(datasets.cwru, tmp_path)


def test_cwru_archives_with_strange_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cwru_mine.npz"
    np.savez(path, IR007_0=_record(0, 16_000))
    assert "no key _keys" in _refusal(datasets.cwru, path.parent)
    np.savez(path, IR999_0=_record(0, 16_000), _keys=np.array(["IR999_0"]))
    assert "'IR999_0'" in _refusal(datasets.cwru, path.parent)
    np.savez(path, _keys=np.array(["IR007_0"]))
    assert "'IR007_0'" in _refusal(datasets.cwru, path.parent)


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
    assert "holds no DSADS" in _refusal(datasets.dsads, tmp_path)
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
    assert "p2 has 7375 rows, expected 7500" in _refusal(datasets.dsads, tmp_path)
    for path in (tmp_path / "a01" / "p2").iterdir():
        path.unlink()
    assert "p2 has 0 rows" in _refusal(datasets.dsads, tmp_path)
    (tmp_path / "a01" / "p2" / "s01.txt").write_text("1,2,3\n")
    assert "a01/p2" in _refusal(datasets.dsads, tmp_path)


def test_a_dsads_archive_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dsads_nine_accelerometers.npz"
    np.savez(path, X=np.zeros((19, 8, 9, 75), np.float32))
    assert f"expected {DSADS_SHAPE}" in _refusal(datasets.dsads, path.parent)
    np.savez(path, Y=np.zeros(1))
    assert "no key X" in _refusal(datasets.dsads, path.parent)


def test_windows_start_every_stride_samples() -> None:
    signal = np.arange(2 * 3000, dtype=np.float32).reshape(2, 3000)
    windows = datasets.windowed(signal, 500)
    assert windows.shape == (4, 2, LENGTH)
    assert windows[:, 0, 0].tolist() == [0, 500, 1000, 1500]
    assert np.array_equal(windows[3], signal[:, 1500 : 1500 + LENGTH])


@needs_real_data
def test_no_stretch_of_a_real_cwru_record_is_on_two_sides() -> None:
    data = datasets.cwru(REAL)
    for side in _sides(data):
        assert all(len(side.of(label)) >= 5 for label in range(len(CWRU_CLASSES)))
        assert np.isfinite(side.windows).all()
    _share_nothing(data)


@needs_real_data
def test_no_stretch_of_a_real_dsads_subject_is_on_two_sides() -> None:
    data = datasets.dsads(REAL)
    assert [len(side) for side in _sides(data)] == [(19 * 5 - 2) * 26, 19 * 13, 19 * 2 * 13]
    assert "subject 8" in data.notes
    _share_nothing(data)
