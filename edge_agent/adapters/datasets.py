"""Labelled data sets from files: CWRU bearing records, DSADS, and plain ``.npz`` archives.

No split is by window: neighbouring windows of one recording are near copies, and a random split of them measures
memory. CWRU is split by time block within each record, DSADS by subject, an archive by the groups it names.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.bearing import Bearing
from edge_agent.core.errors import Misconfigured
from edge_agent.core.types import Dataset, Float32, Split
from edge_agent.schemas.windows import MOST_RPM

LENGTH: Final = 1024
CWRU_RATE_HZ: Final = 12_000.0
CWRU_CLASSES: Final = (
    *("IR007", "IR014", "IR021", "B007", "B014", "B021"),
    *("OR007@6", "OR014@6", "OR021@6", "Normal"),
)
# The original files are named by number: the record of a class at motor loads 0, 1, 2, 3 hp.
CWRU_FIRST_FILE: Final = {
    "IR007": 105,
    "B007": 118,
    "OR007@6": 130,
    "IR014": 169,
    "B014": 185,
    "OR014@6": 197,
    "IR021": 209,
    "B021": 222,
    "OR021@6": 234,
}
CWRU_NORMAL_FILE: Final = 97  # recorded at 48 kHz, load 0
CWRU_TEST_LOAD: Final = 3
DSADS_RATE_HZ: Final = 25.0
DSADS_CHANNELS: Final = ("T_x", "T_y", "T_z", "RA_x", "RA_y", "RA_z", "RL_x", "RL_y", "RL_z")
DSADS_COLUMNS: Final = (0, 1, 2, 9, 10, 11, 27, 28, 29)  # of 45: accelerometers of torso, right arm, right leg
DSADS_CLASSES: Final = (
    *("sitting", "standing", "lying_back", "lying_right", "ascending_stairs", "descending_stairs"),
    *("standing_elevator", "moving_elevator", "walking_parking", "walking_treadmill_4kmh_flat"),
    *("walking_treadmill_4kmh_15deg", "running_treadmill_8kmh", "stepper", "cross_trainer"),
    *("cycling_horizontal", "cycling_vertical", "rowing", "jumping", "basketball"),
)
DSADS_SHAPE: Final = (19, 8, 9, 7500)  # activities, subjects, channels, samples
DSADS_TRAIN, DSADS_VALIDATION, DSADS_TEST = (0, 1, 2, 3, 4), (5,), (6, 7)
# Activity and subject of recordings that subject 8, who tests, has too, ten samples later: bit for bit the same.
DSADS_COPIES: Final = frozenset({(DSADS_CLASSES.index("rowing"), 3), (DSADS_CLASSES.index("jumping"), 3)})

CWRU_BEARING: Final = Bearing(elements=9, element_mm=7.94, pitch_mm=39.04)  # drive end: SKF 6205-2RS JEM
CWRU_RPM: Final = 1762.0  # 1797 without load to 1730 at the greatest
CWRU_SOURCE: Final = "Case Western Reserve University Bearing Data Center (12k drive end records, .mat)"
DSADS_SOURCE: Final = "UCI Machine Learning Repository, 'Daily and Sports Activities' (folders a01 to a19)"


def cwru(folder: Path, *, split_by: Literal["time block", "load"] = "time block", held_stride: int = LENGTH) -> Dataset:
    """Ten classes, two channels, 12 kHz.

    By time block, 65 % of each record train, 15 % validate and 20 % test; by load, of the records at loads 0 to 2 80 %
    train and 20 % validate, and those at load 3 test. A window's gap lies between blocks. Training windows overlap by
    half, the others start every ``held_stride`` samples. ``Normal`` is there at load 0 only and always split by time;
    it is decimated from 48 kHz: taking the raw record for 12 kHz, as is common, would hand the classifier a
    sampling-rate cue.

    Raises:
        Misconfigured: the folder holds neither the prepared archives nor the original files.
    """
    records = _cwru_archives(folder) if any(folder.glob("cwru_*.npz")) else _cwru_originals(folder)
    columns: dict[str, list[tuple[Float32, int]]] = {"train": [], "validation": [], "test": []}
    for name, load, signal in records:
        label, samples = CWRU_CLASSES.index(name), signal.shape[1]
        if 0.15 * samples < 2 * LENGTH:
            raise Misconfigured("E_DATA", f"{folder}: a record of {name} has {samples} samples, too few to split")
        for side, (start, end) in _cwru_blocks(name, load, split_by).items():
            first = int(start * samples) + (LENGTH if start else 0)
            stride = LENGTH // 2 if side == "train" else held_stride
            columns[side].append((windowed(signal[:, first : int(end * samples)], stride), label))
    for side, rows in columns.items():
        missing = [name for label, name in enumerate(CWRU_CLASSES) if label not in {own for _, own in rows}]
        if missing:
            words = f"{folder} has no CWRU record of {', '.join(missing)} for {side}, split by {split_by}"
            raise Misconfigured("E_DATA", f"{words}; get them from {CWRU_SOURCE}")
    splits = {side: _split(rows) for side, rows in columns.items()}
    notes = "Normal: load 0 only, decimated from 48 kHz to 12 kHz"
    about: dict[str, Any] = {"notes": notes, "bearing": CWRU_BEARING, "shaft_rpm": CWRU_RPM, **splits}
    return Dataset("cwru", CWRU_CLASSES, ("DE", "FE"), CWRU_RATE_HZ, "g", split_by=split_by, **about)


def _cwru_blocks(name: str, load: int, split_by: str) -> dict[str, tuple[float, float]]:
    """Which share of a record goes where, as (start, end)."""
    if split_by == "time block" or name == "Normal":
        return {"train": (0.0, 0.65), "validation": (0.65, 0.80), "test": (0.80, 1.0)}
    if load == CWRU_TEST_LOAD:
        return {"test": (0.0, 1.0)}
    return {"train": (0.0, 0.80), "validation": (0.80, 1.0)}


def _cwru_archives(folder: Path) -> Iterator[tuple[str, int, Float32]]:
    for path in sorted(folder.glob("cwru_*.npz")):
        content = _npz(path, {"_keys"})
        for key in content["_keys"].tolist():
            name, _, load = key.rpartition("_")
            if name not in CWRU_CLASSES or key not in content or not load.isdecimal():
                raise Misconfigured("E_DATA", f"{path}: {key!r} is no record of one of {', '.join(CWRU_CLASSES)}")
            yield name, int(load), content[key]


def _cwru_originals(folder: Path) -> Iterator[tuple[str, int, Float32]]:
    if not (folder / f"{CWRU_NORMAL_FILE}.mat").exists():
        raise Misconfigured("E_DATA", f"{folder} holds no CWRU records; get them from {CWRU_SOURCE}")
    for name, first in CWRU_FIRST_FILE.items():
        for load in range(4):
            path = folder / f"{first + load}.mat"
            if path.exists():
                yield name, load, _mat_channels(path)
    from scipy.signal import decimate

    yield "Normal", 0, decimate(_mat_channels(folder / f"{CWRU_NORMAL_FILE}.mat"), 4, axis=1).astype(np.float32)


def _mat_channels(path: Path) -> Float32:
    """Drive end and fan end of one original record, (2, samples)."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content: dict[str, Any] = loadmat(path)
    # Of a damaged file scipy reports what it notices and lets through what numpy, struct and zlib say.
    except (MatReadError, OSError, ValueError, TypeError, LookupError, zlib.error) as error:
        raise Misconfigured("E_DATA", f"{path} cannot be read as .mat: {error}") from error
    # Some files carry a second record's keys; the file's own number decides, else the first that ends so.
    rows = []
    for ending in ("DE_time", "FE_time"):
        keys = sorted((key for key in content if key.endswith(ending)), key=lambda key: path.stem not in key)
        if not keys:
            raise Misconfigured("E_DATA", f"{path} has no variable that ends in {ending}")
        rows.append(content[keys[0]].ravel())
    return np.stack([row[: min(map(len, rows))] for row in rows]).astype(np.float32)


def dsads(folder: Path, *, held_stride: int = LENGTH // 2) -> Dataset:
    """Nineteen activities, nine accelerometer channels, 25 Hz, split by subject: 1-5 train, 6 validates, 7-8 test.

    Training windows start every quarter of a window, the others every ``held_stride`` samples.
    Human motion, not a machine: it shows that nine real channels go through the whole path.
    """
    archive = folder / "dsads_nine_accelerometers.npz"
    signals = _dsads_archive(archive) if archive.exists() else _dsads_originals(folder)

    def side(subjects: tuple[int, ...], stride: int) -> Split:
        pairs = {(label, subject) for label in range(len(DSADS_CLASSES)) for subject in subjects} - DSADS_COPIES
        return _split([(windowed(signals[label, subject], stride), label) for label, subject in sorted(pairs)])

    return Dataset(
        "dsads",
        DSADS_CLASSES,
        DSADS_CHANNELS,
        DSADS_RATE_HZ,
        "m/s^2",
        "subject",
        train=side(DSADS_TRAIN, LENGTH // 4),
        validation=side(DSADS_VALIDATION, held_stride),
        test=side(DSADS_TEST, held_stride),
        notes="subject 4 without rowing and jumping, which are copies of subject 8's",
    )


def _dsads_archive(path: Path) -> Float32:
    signals = _npz(path, {"X"})["X"]
    if signals.shape != DSADS_SHAPE:
        raise Misconfigured("E_DATA", f"{path}: X has shape {signals.shape}, expected {DSADS_SHAPE}")
    return signals.astype(np.float32)


def _dsads_originals(folder: Path) -> Float32:
    """Read a01..a19 / p1..p8 / s01..s60, 125 rows of 45 columns each, into (19, 8, 9, 7500)."""
    if not (folder / "a01" / "p1" / "s01.txt").exists():
        raise Misconfigured("E_DATA", f"{folder} holds no DSADS; get it from {DSADS_SOURCE}")
    out = np.empty(DSADS_SHAPE, np.float32)
    for label, subject in np.ndindex(DSADS_SHAPE[:2]):
        recording = folder / f"a{label + 1:02d}" / f"p{subject + 1}"
        parts = sorted(recording.glob("s*.txt"))
        try:
            columns = [np.loadtxt(part, delimiter=",", usecols=DSADS_COLUMNS, ndmin=2) for part in parts]
        except (OSError, ValueError) as error:
            raise Misconfigured("E_DATA", f"{recording}: {error}") from error
        rows = np.concatenate([np.empty((0, len(DSADS_COLUMNS))), *columns])
        if len(rows) != DSADS_SHAPE[3]:
            raise Misconfigured("E_DATA", f"{recording} has {len(rows)} rows, expected {DSADS_SHAPE[3]}")
        out[label, subject] = rows.T
    return out


def archive(path: Path) -> Dataset:
    """Read a data set of the user's own, an ``.npz`` with these keys.

    - ``windows``: float32 (n, channels, length), in the sensor's unit;
    - ``labels``: int (n,), indices into ``classes``; ``classes``: str (k,);
    - ``groups``: int or str (n,): the record, machine or subject of each window. Whole groups go to one side;
    - ``rate_hz``: float; optionally ``channels``: str (c,) and ``unit``: str;
    - optionally ``bearing``: float (4,): number of rolling elements, their and the pitch circle's diameter in mm, and
      the contact angle in degrees; and ``shaft_rpm``: float. The page marks the fault frequencies with them.

    In each class the last fifth of its groups (at least one) tests, the one before validates, the others train.
    """
    values = _npz(path, {"windows", "labels", "classes", "groups", "rate_hz"})
    windows, labels, groups = values["windows"], values["labels"], values["groups"]
    if windows.ndim != 3 or not labels.shape == groups.shape == windows.shape[:1] or not windows.size:
        raise Misconfigured("E_DATA", f"{path}: windows {windows.shape}, labels {labels.shape}, groups {groups.shape}")
    if windows.dtype.kind not in "fiu" or labels.dtype.kind not in "iu":
        raise Misconfigured("E_DATA", f"{path}: windows are {windows.dtype}, labels {labels.dtype}; float32 and int")
    if not np.isfinite(windows).all():
        raise Misconfigured("E_DATA", f"{path}: a sample is NaN or infinite")
    classes = tuple(map(str, np.atleast_1d(values["classes"]).tolist()))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise Misconfigured(
            "E_DATA", f"{path}: labels run from {labels.min()} to {labels.max()}, there are {len(classes)} classes"
        )
    labels = labels.astype(np.int64)
    sides = _sides_by_group(path, labels, groups, classes)
    train, validation, test = (
        Split(windows[sides == number].astype(np.float32), labels[sides == number]) for number in range(3)
    )
    names = values.get("channels", np.array([f"ch{index}" for index in range(windows.shape[1])]))
    unit = str(values.get("unit", "m/s^2"))
    channels = tuple(map(str, np.atleast_1d(names).tolist()))
    if len(channels) != windows.shape[1]:
        raise Misconfigured("E_DATA", f"{path}: {len(channels)} channel names for {windows.shape[1]} channels")
    if values["rate_hz"].size != 1 or values["rate_hz"].dtype.kind not in "fiu":
        raise Misconfigured("E_DATA", f"{path}: rate_hz is not one number")
    rate_hz = float(values["rate_hz"].item())
    known: dict[str, Any] = {"bearing": _bearing(path, values), "shaft_rpm": _shaft_rpm(path, values)}
    return Dataset(path.stem, classes, channels, rate_hz, unit, "group", train, validation, test, **known)


def _bearing(path: Path, values: dict[str, NDArray[Any]]) -> Bearing | None:
    if "bearing" not in values:
        return None
    try:
        elements, *sizes = values["bearing"].astype(float).tolist()
        return Bearing(int(elements), *sizes)
    except (ValueError, TypeError) as error:
        raise Misconfigured("E_DATA", f"{path}: bearing: {error}") from error


def _shaft_rpm(path: Path, values: dict[str, NDArray[Any]]) -> float | None:
    if "shaft_rpm" not in values:
        return None
    rpm = values["shaft_rpm"]
    if rpm.size != 1 or rpm.dtype.kind not in "fiu" or not 0 < rpm.item() <= MOST_RPM:
        raise Misconfigured("E_DATA", f"{path}: shaft_rpm is not one number in 0 .. {MOST_RPM:g}")
    return float(rpm.item())


def _sides_by_group(
    path: Path, labels: NDArray[np.int64], groups: NDArray[Any], classes: tuple[str, ...]
) -> NDArray[np.int64]:
    """0 train, 1 validation, 2 test for each window; a group keeps its side over all classes."""
    side_of: dict[Any, int] = {}
    for label, name in enumerate(classes):
        own = sorted(set(groups[labels == label].tolist()))
        if len(own) < 3:
            raise Misconfigured("E_DATA", f"{path}: class {name} has {len(own)} groups, at least 3 are needed")
        tests = max(1, len(own) // 5)
        wanted = [0] * (len(own) - 2 * tests) + [1] * tests + [2] * tests
        for group, side in zip(own, wanted, strict=True):
            side_of.setdefault(group, side)
    sides = np.array([side_of[group] for group in groups.tolist()])
    for label, name in enumerate(classes):
        if set(sides[labels == label].tolist()) != {0, 1, 2}:
            raise Misconfigured("E_DATA", f"{path}: class {name} shares its groups with others and lacks a side")
    return sides


def _npz(path: Path, needed: set[str]) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            if missing := sorted(needed - set(content.files)):
                raise Misconfigured("E_DATA", f"{path} has no key {', '.join(missing)}")
            return {key: content[key] for key in content.files}
    # numpy lets the errors of zipfile and zlib through, and hands over a plain array for an .npy.
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise Misconfigured("E_DATA", f"{path} cannot be read as .npz: {error}") from error


def windowed(signal: Float32, stride: int) -> Float32:
    """Cut (channels, samples) into (n, channels, 1024), starting every ``stride`` samples."""
    views = np.lib.stride_tricks.sliding_window_view(signal, LENGTH, axis=1)[:, ::stride]
    return np.ascontiguousarray(views.transpose(1, 0, 2), dtype=np.float32)


def _split(rows: list[tuple[Float32, int]]) -> Split:
    labels = np.concatenate([np.full(len(part), label) for part, label in rows])
    return Split(np.concatenate([part for part, _ in rows]), labels.astype(np.int64))
