"""Boundary Shrink: hand each forget window to its nearest other class (Chen et al., "Boundary Unlearning", CVPR 2023).

A window x is moved once by the sign of the gradient of f0's loss (FGSM), and what f0 answers there names the class y'
across the nearest border:

    x' = x + epsilon * sign(gradient of CE(f0(x), y)),    y' = argmax f0(x')

Then the **clean** window is trained on it: descend CE(f(x), y'). x' itself is never trained on.

Where x' is still answered with a forget class, the published code trains on that answer and so teaches what is to be
forgotten; here y' is the best answer at x' among the classes that stay. What is climbed is the log-odds against the
forget classes: for one class its gradient has the sign of the loss's, but a confident network does not round it to 0.
f0 does not change and x' is not random, so y' is found once, before the first step, and not in each epoch anew.

Defaults: SGD with rate 1e-5, momentum 0.9, mini-batches of 64, 10 epochs and batch norm in training mode as in the
published code; its epsilon is 0.1 of [0, 1] pixels whose channel standard deviation it takes for 0.2, hence 0.5 here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.common import descend, trainable
from benchmarks.task import Method, Task
from edge_agent.core.networks import channel_std
from edge_agent.core.probing import masked
from edge_agent.core.training import logits


@dataclass(frozen=True)
class Settings:
    """How far to look for the nearest class, and how long to train on it."""

    rate: float = 1e-5
    epochs: int = 10
    epsilon: float = 0.5  # in channel standard deviations
    batch: int = 64
    momentum: float = 0.9
    train_norms: bool = True  # batch norm in training mode, as in the published code


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Train D_f on its nearest labels, in place."""
    windows = task.forget_windows.windows
    labels = nearest_labels(task.network, windows, task.forget, settings)
    network = trainable(task.network, train_norms=settings.train_norms)
    optimiser = torch.optim.SGD(network.parameters(), settings.rate, settings.momentum)

    def loss(which: Tensor) -> Tensor:
        return functional.cross_entropy(network(windows[which]), labels[which])

    descend(task, optimiser, loss, len(windows), epochs=settings.epochs, batch=settings.batch)
    return network


def nearest_labels(network: nn.Sequential, windows: Tensor, forget: tuple[int, ...], settings: Settings) -> Tensor:
    """What f0, in evaluation mode, answers at the perturbed windows: int64 (n,), never a forget class."""
    reach = settings.epsilon * channel_std(network)
    labels = []
    for part in windows.split(settings.batch):
        moved = part.clone().requires_grad_()
        output = network(moved)
        odds = masked(output, forget).logsumexp(1) - output[:, list(forget)].logsumexp(1)
        gradient = torch.autograd.grad(odds.sum(), moved)[0]
        labels.append(masked(logits(network, part + reach * gradient.sign()), forget).argmax(1))
    return torch.cat(labels)


_SEARCH: Final = {
    "rate": (3e-6, 1e-5, 3e-5, 1e-4),
    "epochs": (1, 2, 5, 10),
    "epsilon": (0.1, 0.5),
    "train_norms": (True, False),
}
METHOD: Final = Method("boundary_shrink", "Boundary Shrink", "forget", Settings(), _SEARCH, unlearn)
