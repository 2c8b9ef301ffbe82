"""CWRU from its original files and from the prepared archives: which stretch of which record goes where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from edge_agent.adapters import datasets
from edge_agent.adapters.datasets import CWRU_CLASSES, CWRU_FIRST_FILE, LENGTH
from edge_agent.core.types import Float32
from tests.data_sides import REAL, needs_real_data, refusal, share_nothing, sides


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
    share_nothing(data)


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
    for side, same in zip(sides(data), sides(by_time), strict=True):
        assert np.array_equal(side.of(normal), same.of(normal))
    share_nothing(data)


def test_by_load_a_class_without_a_record_at_load_3_is_named(tmp_path: Path) -> None:
    (_cwru_originals(tmp_path) / "108.mat").unlink()
    datasets.cwru(tmp_path)
    said = refusal(lambda folder: datasets.cwru(folder, split_by="load"), tmp_path)
    assert "no CWRU record of IR007 for test, split by load" in said


def test_the_normal_record_is_brought_from_48_to_12_khz(tmp_path: Path) -> None:
    _cwru_originals(tmp_path)
    time_s = np.arange(64_000) / 48_000
    tone = np.sin(2 * np.pi * 750 * time_s)
    _write_mat(tmp_path / "97.mat", np.stack([tone, tone]).astype(np.float32), "097")
    window = datasets.cwru(tmp_path).test.of(CWRU_CLASSES.index("Normal"))[0, 0]
    assert np.abs(np.fft.rfft(window)).argmax() == 750 / 12_000 * LENGTH


def test_cwru_records_that_are_missing_short_or_broken_are_named(tmp_path: Path) -> None:
    assert "holds no CWRU records" in refusal(datasets.cwru, tmp_path)
    _cwru_originals(tmp_path)
    for number in (234, 237):
        (tmp_path / f"{number}.mat").unlink()
    assert "no CWRU record of OR021@6" in refusal(datasets.cwru, tmp_path)
    _write_mat(tmp_path / "234.mat", _record(0, 2000), "234")
    assert "2000 samples" in refusal(datasets.cwru, tmp_path)
    savemat(tmp_path / "234.mat", {"X234_DE_time": np.zeros((16_000, 1))})
    assert "ends in FE_time" in refusal(datasets.cwru, tmp_path)
    for content in (b"", b"no mat file at all" * 20, (tmp_path / "97.mat").read_bytes()[:5000]):
        (tmp_path / "234.mat").write_bytes(content)
        assert "234.mat cannot be read as .mat" in refusal(datasets.cwru, tmp_path)


def test_cwru_archives_with_strange_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cwru_mine.npz"
    np.savez(path, IR007_0=_record(0, 16_000))
    assert "no key _keys" in refusal(datasets.cwru, path.parent)
    np.savez(path, IR999_0=_record(0, 16_000), _keys=np.array(["IR999_0"]))
    assert "'IR999_0'" in refusal(datasets.cwru, path.parent)
    np.savez(path, _keys=np.array(["IR007_0"]))
    assert "'IR007_0'" in refusal(datasets.cwru, path.parent)


@needs_real_data
def test_no_stretch_of_a_real_cwru_record_is_on_two_sides() -> None:
    data = datasets.cwru(REAL)
    for side in sides(data):
        assert all(len(side.of(label)) >= 5 for label in range(len(CWRU_CLASSES)))
        assert np.isfinite(side.windows).all()
    share_nothing(data)
