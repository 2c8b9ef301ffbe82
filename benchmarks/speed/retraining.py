"""What forgetting is held against: retraining without the class, and DELETE, on one thread as the forget job has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from benchmarks.methods import METHODS
from benchmarks.speed.figures import Figure
from benchmarks.speed.plan import Plan, say
from benchmarks.task import Labelled, hand_over
from edge_agent import rig
from edge_agent.adapters import checkpoints
from edge_agent.adapters.releases import read_release
from edge_agent.core import networks, training
from edge_agent.core.training import TrainingSettings
from edge_agent.core.types import Float32
from edge_agent.schemas.card import DREAMS, WEIGHTS

PART: Final = "forgetting"  # its figures stand beside those of the forget command
FORGET: Final = "IF-1"
CACHED: Final = 512
DELETE_EPOCHS: Final = 20
TIMED_STEPS: Final = 6  # of training, where a whole retraining would take too long

Pair = tuple[torch.Tensor, torch.Tensor]


def stock(name: str, count: int) -> list[Float32]:
    """Windows of one class of the rig, (9, 1024) each, from turns of fresh runs."""
    takes = (take.samples for take in rig.stream(np.random.default_rng(1)) if take.fault_class == name)
    return list(islice(takes, count))


def measure(plan: Plan, _: Path) -> Iterator[Figure]:
    """Both, at each width.

    The whole retraining is timed at the smallest width. At the others some of its steps are, times as many as the whole
    took: widths differ little in the epochs that they need.
    """
    torch.set_num_threads(1)
    label = rig.CLASSES.index(FORGET)
    data = rig.dataset(0)
    sides = [
        (split.windows[split.labels != label], split.labels[split.labels != label])
        for split in (data.train, data.validation)
    ]
    train, validation = ((torch.from_numpy(windows), torch.from_numpy(labels)) for windows, labels in sides)
    forget = torch.from_numpy(np.stack(stock(FORGET, CACHED)))
    epochs = 0.0
    for width, release in plan.releases.items():
        at = f"width {width}"
        if epochs == 0.0:
            seconds, epochs = _retrain_s(train, validation, width, quick=plan.quick)
        else:
            seconds = epochs * _epoch_s(train, validation, width)
        delete_s = _delete_s(release, label, forget)
        say(f"{at}: retraining {seconds:.0f} s ({epochs:.0f} epochs), DELETE {delete_s:.1f} s")
        yield Figure(PART, "retrain", at, "seconds", seconds)
        yield Figure(PART, "retrain", at, "epochs", epochs)
        yield Figure(PART, "delete", at, "seconds", delete_s)


def _retrain_s(train: Pair, validation: Pair, width: int, *, quick: bool) -> tuple[float, float]:
    """Seconds and epochs; the quick run times two epochs and counts the most that there may be."""
    most = TrainingSettings().epochs
    settings = TrainingSettings(epochs=2) if quick else TrainingSettings()
    network = _untrained(width)
    started_s = time.monotonic()
    history = training.fit(network, train, validation, settings, torch.Generator().manual_seed(0))
    seconds = time.monotonic() - started_s
    return (seconds * most / 2, most) if quick else (seconds, len(history))


def _epoch_s(train: Pair, validation: Pair, width: int) -> float:
    """What an epoch takes, from some of its mini-batches and as great a share of the validation windows."""
    settings = replace(TrainingSettings(), epochs=1)
    share = TIMED_STEPS * settings.batch / len(train[1])
    few, some = (
        (windows[: round(share * len(labels))], labels[: round(share * len(labels))])
        for windows, labels in (train, validation)
    )
    network = _untrained(width)
    started_s = time.monotonic()
    training.fit(network, few, some, settings, torch.Generator().manual_seed(0))
    return (time.monotonic() - started_s) / share


def _untrained(width: int) -> nn.Sequential:
    size = {"channels": len(rig.CHANNELS), "classes": len(rig.CLASSES), "width": width, "length": rig.LENGTH}
    return networks.build(networks.DEFAULT, **size)


def _delete_s(release: Path, label: int, forget: torch.Tensor) -> float:
    """Twenty epochs of DELETE on all weights, from what three take and what one does: its targets are made once."""
    once_s, thrice_s = (_delete_epochs_s(release, label, forget, epochs) for epochs in (1, 3))
    return once_s + (DELETE_EPOCHS - 1) * (thrice_s - once_s) / 2


def _delete_epochs_s(release: Path, label: int, forget: torch.Tensor, epochs: int) -> float:
    found = read_release(release)
    network = checkpoints.load_network(found.read(WEIGHTS), found.card)
    windows = Labelled(forget, torch.full((len(forget),), label))
    method = METHODS["delete"]
    task = hand_over(method, network, (label,), checkpoints.load_dreams(release / DREAMS), windows, windows, 0)
    started_s = time.monotonic()
    method.unlearn(task, replace(method.settings, epochs=epochs))
    return time.monotonic() - started_s
