"""DELETE: distil f0 with the label masked (Zhou et al., "Decoupled Distillation to Erase", CVPR 2025).

The target of a forget window x with label y is f0's answer without y: z_y is set to minus infinity, then the softmax
is taken, so that the other classes keep their ratios ("dark knowledge").

    KL(softmax(masked f0(x)) || softmax(f(x))),  the mean over the mini-batch

``delete`` masks each window's own label, as published. With several forget classes it may then hand windows of one of
them to another; ``delete_all`` masks them all. With a single forget class the two are the same.

Defaults: SGD with momentum 0.9, rate 1e-3, 20 epochs and batch norm in training mode as in the official code and script
for CIFAR-10 with ResNet-18, mini-batches of 64 instead of 128. On vibration windows that is far more than it takes: the
tuning goes down to a hundredth of the rate. f0 does not change, so its answers are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.common import descend, trainable
from benchmarks.task import Method, Task
from edge_agent.core.probing import masked
from edge_agent.core.pte import pull_loss
from edge_agent.core.training import logits


@dataclass(frozen=True)
class Settings:
    """What to mask, and how long to distil."""

    rate: float = 1e-3
    epochs: int = 20
    batch: int = 64
    momentum: float = 0.9
    mask_all: bool = False  # every forget class, not only the window's own label
    train_norms: bool = True  # batch norm in training mode, as in the published code


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Distil the masked f0 on D_f, in place."""
    windows, labels = task.forget_windows.windows, task.forget_windows.labels
    answers = logits(task.network, windows)
    target = without_all(answers, task.forget) if settings.mask_all else without_own(answers, labels)
    network = trainable(task.network, train_norms=settings.train_norms)
    optimiser = torch.optim.SGD(network.parameters(), settings.rate, settings.momentum)

    def loss(which: Tensor) -> Tensor:
        return pull_loss(network(windows[which]), target[which], tau=1.0)

    descend(task, optimiser, loss, len(windows), epochs=settings.epochs, batch=settings.batch)
    return network


def without_own(answers: Tensor, labels: Tensor) -> Tensor:
    """Probabilities (n, K) of the logits (n, K), none on the label of each window, int64 (n,)."""
    return functional.softmax(answers.scatter(1, labels.unsqueeze(1), -torch.inf), dim=1)


def without_all(answers: Tensor, forget: tuple[int, ...]) -> Tensor:
    """Probabilities (n, K) of the logits (n, K), none on any forget class."""
    return functional.softmax(masked(answers, forget), dim=1)


_SEARCH: Final = {
    "rate": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    "epochs": (1, 2, 5, 10),
    "train_norms": (True, False),
}
METHOD: Final = Method("delete", "DELETE", "forget", Settings(), _SEARCH, unlearn)
MASK_ALL: Final = Method("delete_all", "DELETE-all", "forget", Settings(mask_all=True), _SEARCH, unlearn)
