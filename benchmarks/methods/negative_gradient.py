"""Negative gradient: climb the loss on the forget set (Golatkar et al., CVPR 2020; "gradient ascent").

Per mini-batch, w <- w + rate * gradient of the cross entropy of D_f. Nothing bounds it, so the number of epochs is all
that keeps the other classes. ``Settings.stop`` ends it at the first step after which no forget window is answered with
a forget class, the remedy of later papers.

Defaults: SGD with momentum 0.9 as in the code of Boundary Unlearning (Chen et al., CVPR 2023), which compares with it.
Its rate of 0.01 leaves nothing of our networks, so that ours starts at a tenth. The number of epochs has no source: it
is tuned, and with the stop it is only a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from benchmarks.methods.common import forget_share, trainable
from benchmarks.task import Method, Task
from edge_agent.core.training import step


@dataclass(frozen=True)
class Settings:
    """How far to climb."""

    rate: float = 1e-3
    epochs: int = 5
    batch: int = 64
    momentum: float = 0.9
    train_norms: bool = True  # batch norm in training mode, as in the published code
    stop: bool = False


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Ascend on D_f, in place."""
    network = trainable(task.network, train_norms=settings.train_norms)
    optimiser = torch.optim.SGD(network.parameters(), settings.rate, settings.momentum)
    for _epoch in range(settings.epochs):
        for windows, labels in task.forget_windows.batches(settings.batch, task.generator):
            step(optimiser, -functional.cross_entropy(network(windows), labels))
            if settings.stop and forget_share(network, task) == 0.0:
                return network
        task.on_epoch(network)
    return network


_SEARCH: Final = {
    "rate": (3e-6, 1e-5, 3e-5, 1e-4, 1e-3),
    "epochs": (1, 2, 5, 10),
    "train_norms": (True, False),
}
METHOD: Final = Method("negative_gradient", "Negative Gradient", "forget", Settings(), _SEARCH, unlearn)
WITH_STOP: Final = Method(
    "negative_gradient_stop", "Negative Gradient + stop", "forget", Settings(epochs=20, stop=True),
    {"rate": (*_SEARCH["rate"], 3e-4), "train_norms": _SEARCH["train_norms"]}, unlearn,
)  # fmt: skip
