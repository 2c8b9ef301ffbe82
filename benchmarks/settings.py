"""The data settings that results are about, and the one width and stride they share.

Training windows of a record overlap as the loaders cut them; validation and test windows of CWRU and DSADS start every
``HELD_STRIDE`` samples, so that even CWRU's ``Normal``, of which only one short record exists, is measured on dozens of
windows.

``SETTINGS`` are a gateway's, which every table may show; ``IMAGES`` are the paper's pictures, for table T1 alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from benchmarks import images
from benchmarks.images import PerClass
from edge_agent import rig
from edge_agent.adapters import datasets
from edge_agent.core.training import TrainingSettings
from edge_agent.core.types import Dataset, Split

WIDTH: Final = 16
HELD_STRIDE: Final = 256
FORGET_WINDOWS: Final = 512  # as many windows of a class as the agent caches by default
DATA_SEED: Final = 0
SURROGATE_SEED: Final = 9  # the model on which settings are chosen; no result is about it
MODEL_SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True)
class Setting:
    """One data set under one split.

    Attributes:
        paper_class: the class that the paper forgets there, if it has the data set.
        surrogate: the class on which rivals are tuned (on the surrogate model, validation windows); never reported
            in a comparison of methods.
        tuned_on: the setting whose tuned hyper-parameters serve here.
        epochs: of training. Twelve take CWRU to 100 % of its clean test windows; the smaller sets have fewer steps in
            an epoch and take thirty, as ``edge-agent train`` does.
        max_shift: samples by which training windows are rolled at most.
        width: of its networks; a run's id does not tell it apart, for the setting's name does.
    """

    name: str
    title: str
    load: Callable[[Path], Dataset]
    paper_class: str
    surrogate: str
    tuned_on: str
    epochs: int
    max_shift: int = TrainingSettings.max_shift
    width: int = WIDTH

    @property
    def training(self) -> TrainingSettings:
        """How its networks are trained."""
        return TrainingSettings(epochs=self.epochs, max_shift=self.max_shift)


def with_noise(data: Dataset, noise: float, seed: int) -> Dataset:
    """The data set with white noise of ``noise`` standard deviations of each channel."""
    generator = np.random.default_rng(seed)
    std = data.train.windows.std(axis=(0, 2), keepdims=True)

    def noisy(split: Split) -> Split:
        added = generator.standard_normal(split.windows.shape, np.float32) * std * noise
        return Split(split.windows + added.astype(np.float32), split.labels)

    return dataclasses.replace(data, train=noisy(data.train), validation=noisy(data.validation), test=noisy(data.test))


def _cwru(folder: Path) -> Dataset:
    return datasets.cwru(folder, held_stride=HELD_STRIDE)


SETTINGS: Final = {
    setting.name: setting
    for setting in (
        Setting("cwru", "CWRU, time blocks", _cwru, "IR007", "OR007@6", "cwru", epochs=12),
        Setting(
            "cwru-load",
            "CWRU, loads 0-2 to 3",
            lambda folder: datasets.cwru(folder, split_by="load", held_stride=HELD_STRIDE),
            "IR007",
            "OR007@6",
            "cwru",
            epochs=12,
        ),
        Setting(
            "cwru-noise",
            "CWRU, time blocks, 1 sigma of noise",
            lambda folder: with_noise(_cwru(folder), 1.0, DATA_SEED),
            "IR007",
            "OR007@6",
            "cwru-noise",
            epochs=12,
        ),
        Setting("rig", "simulated rig", lambda _: rig.dataset(DATA_SEED), "NC", "OF-1", "rig", epochs=30),
        Setting(
            "dsads",
            "DSADS, by subject",
            lambda folder: datasets.dsads(folder, held_stride=HELD_STRIDE),
            "sitting",
            "cycling_vertical",
            "dsads",
            epochs=30,
        ),
    )
}


# Pictures are rolled by up to four samples: sideways by as many pixels, the usual amount on CIFAR. The columns that
# leave come back on the other side, a row off, where padding would put black. They are not mirrored.
PICTURE_SHIFT: Final = 4
# A fifth of CIFAR-10, at a width that two cores train in minutes.
REDUCED: Final = PerClass(train=1000, validation=200, test=500)

IMAGES: Final = {
    setting.name: setting
    for setting in (
        Setting(
            "cifar10",
            "CIFAR-10, 1000 pictures of a class",
            lambda folder: images.cifar10(folder, REDUCED),
            "airplane",
            "truck",
            "cifar10",
            epochs=20,
            max_shift=PICTURE_SHIFT,
        ),
        Setting(
            "cifar10-full",
            "CIFAR-10, all pictures",
            lambda folder: images.cifar10(folder, PerClass(train=4500, validation=500, test=1000)),
            "airplane",
            "truck",
            "cifar10-full",
            epochs=30,
            max_shift=PICTURE_SHIFT,
            width=64,
        ),
        Setting(
            "cifar100-full",
            "CIFAR-100, all pictures",
            lambda folder: images.cifar100(folder, PerClass(train=450, validation=50, test=100)),
            "apple",
            "worm",
            "cifar100-full",
            epochs=30,
            max_shift=PICTURE_SHIFT,
            width=64,
        ),
    )
}
KNOWN: Final = SETTINGS | IMAGES


def tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Windows float32 (n, channels, length) and labels int64 (n,)."""
    return torch.as_tensor(split.windows), torch.as_tensor(split.labels)
