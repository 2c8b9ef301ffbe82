"""A small labelled data set that a narrow network learns in seconds: each class is a tone of its own pitch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_agent.adapters.releases import read_release, write_card
from edge_agent.commands.train import train_release
from edge_agent.core.dreams import DreamSettings
from edge_agent.core.training import TrainingSettings
from edge_agent.core.types import Dataset, Float32, Split, Window
from edge_agent.schemas.windows import encode

CLASSES = ("hum", "rattle", "whine", "squeal", "chirp")
CHANNELS = ("x", "y", "z")
LENGTH = 256
RATE_HZ = 1000.0
CYCLES = (5.0, 12.0, 23.0, 41.0, 70.0)  # per window


def windows(label: int, count: int, generator: np.random.Generator) -> Float32:
    """Float32 (count, 3, 256): the class's tone with random phase, size and pitch, in noise."""
    time = np.arange(LENGTH) / LENGTH
    phase = generator.uniform(0, 2 * np.pi, (count, 3, 1))
    size = generator.uniform(0.7, 1.3, (count, 3, 1))
    pitch = CYCLES[label] * generator.uniform(0.93, 1.07, (count, 1, 1))
    tones = size * np.sin(2 * np.pi * pitch * time + phase)
    return (tones + 0.6 * generator.standard_normal(tones.shape)).astype(np.float32)


def message(
    seq: int, label: str | None, samples: Float32, asset: str = "m1", boot: str = "b", rpm: float | None = None
) -> bytes:
    """A window float32 (3, 256) as a sensor sends it."""
    return encode(Window(asset, boot, seq, 0, label, samples, rpm=rpm), RATE_HZ, "m/s^2")


def split(count: int, generator: np.random.Generator) -> Split:
    """``count`` windows of each class."""
    labels = np.repeat(np.arange(len(CLASSES)), count)
    return Split(np.concatenate([windows(label, count, generator) for label in range(len(CLASSES))]), labels)


def dataset(seed: int = 0) -> Dataset:
    """Training, validation and test windows, drawn independently."""
    generator = np.random.default_rng(seed)
    train, validation, test = (split(count, generator) for count in (120, 30, 60))
    return Dataset("toy", CLASSES, CHANNELS, RATE_HZ, "m/s^2", "draw", train, validation, test)


def twin(release: Path, folder: Path, **card: Any) -> Path:
    """The same release but for some values of its card, and so with another digest."""
    folder.mkdir(parents=True)
    for path in release.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    write_card(folder, read_release(folder).card.model_copy(update=card))
    return folder


def release(folder: Path) -> Path:
    """Train a narrow network on it in some seconds, and write its release."""
    torch.set_num_threads(1)
    settings, dreams = TrainingSettings(epochs=8, batch=32, rate=1e-2), DreamSettings(typical=6, soft=3, border=4)
    run = train_release(dataset(), folder, width=4, seed=0, settings=settings, dream_settings=dreams)
    assert run.test_accuracy > 90
    return folder
