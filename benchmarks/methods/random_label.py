"""Random label: train the forget set on wrong labels drawn at random (Hayase et al., 2020; Graves et al., AAAI 2021).

Per mini-batch, descend the cross entropy of D_f to labels that are uniform over the classes that stay. A window gets
a **new label in every epoch**, as in SalUn's code for CIFAR-10 (Fan et al., ICLR 2024), so that the network cannot
learn them by heart: what it is drawn to is the uniform answer. There, and in most later papers, the forget class may
come up as well; here it may not, as in Graves et al., or a K-th of the steps would teach what is to be forgotten.

Defaults: SGD with rate 1e-5, momentum 0.9, mini-batches of 64, 10 epochs and batch norm in training mode: how Boundary
Unlearning (Chen et al., CVPR 2023), which compares with random labels, trains its own methods in its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.common import descend, random_staying, trainable
from benchmarks.task import Method, Task


@dataclass(frozen=True)
class Settings:
    """How long to train on random labels."""

    rate: float = 1e-5
    epochs: int = 10
    batch: int = 64
    momentum: float = 0.9
    train_norms: bool = True  # batch norm in training mode, as in the published code


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Descend on D_f with random labels, in place."""
    network = trainable(task.network, train_norms=settings.train_norms)
    optimiser = torch.optim.SGD(network.parameters(), settings.rate, settings.momentum)
    windows = task.forget_windows.windows

    def loss(which: Tensor) -> Tensor:
        return functional.cross_entropy(network(windows[which]), random_staying(task, len(which)))

    descend(task, optimiser, loss, len(windows), epochs=settings.epochs, batch=settings.batch)
    return network


_SEARCH: Final = {
    "rate": (3e-6, 1e-5, 3e-5, 1e-4),
    "epochs": (1, 2, 5, 10),
    "train_norms": (True, False),
}
METHOD: Final = Method("random_label", "Random Label", "forget", Settings(), _SEARCH, unlearn)
