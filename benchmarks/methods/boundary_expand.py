"""Boundary Expand: train the forget set into a shadow class, then drop it ("Boundary Expanding").

Chen et al., "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary", CVPR 2023.

The head gets a row K + 1, a class that does not exist. All forget windows are trained on it: descend
CE(f_wide(x), K + 1) over all weights. Then the row is cut off, and the first K rows with the changed features are the
network that has forgotten. Every answer that anyone sees, between the epochs as well, comes from the K rows.

Defaults: SGD with rate 1e-5, momentum 0.9, mini-batches of 64, 10 epochs, batch norm in training mode, and for the new
row Xavier's normal initialisation with zero bias, as in the published code.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from benchmarks.methods.common import trainable
from benchmarks.task import Method, Task
from edge_agent.core.training import step


@dataclass(frozen=True)
class Settings:
    """How long to train on the shadow class."""

    rate: float = 1e-5
    epochs: int = 10
    batch: int = 64
    momentum: float = 0.9
    train_norms: bool = True  # batch norm in training mode, as in the published code


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Train D_f on the shadow class, in place; ``task.network`` itself never has more than K rows."""
    network = trainable(task.network, train_norms=settings.train_norms)
    features, head = network[:-1], network[-1]
    assert isinstance(head, nn.Linear)
    wide = widened(head, task.generator)
    optimiser = torch.optim.SGD([*features.parameters(), *wide.parameters()], settings.rate, settings.momentum)
    for _epoch in range(settings.epochs):
        for windows, labels in task.forget_windows.batches(settings.batch, task.generator):
            shadow = torch.full_like(labels, task.classes)
            step(optimiser, functional.cross_entropy(wide(features(windows)), shadow))
        with torch.no_grad():
            head.weight.copy_(wide.weight[:-1])
            head.bias.copy_(wide.bias[:-1])
        task.on_epoch(network)
    return network


def widened(head: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """A copy of the head, with one more row; its hooks, which count the cost, come along."""
    wide = copy.deepcopy(head)
    row = torch.empty(1, head.in_features)
    xavier_std = (2 / (head.in_features + head.out_features + 1)) ** 0.5  # of the whole wide layer
    nn.init.normal_(row, std=xavier_std, generator=generator)
    wide.weight = nn.Parameter(torch.cat([head.weight.detach(), row]))
    wide.bias = nn.Parameter(torch.cat([head.bias.detach(), torch.zeros(1)]))
    wide.out_features += 1
    return wide


_SEARCH: Final = {
    "rate": (3e-6, 1e-5, 3e-5, 1e-4),
    "epochs": (2, 5, 10, 20),
    "train_norms": (True, False),
}
METHOD: Final = Method("boundary_expand", "Boundary Expand", "forget", Settings(), _SEARCH, unlearn)
