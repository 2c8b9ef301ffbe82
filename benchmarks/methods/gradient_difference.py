"""Gradient difference: climb on the forget set while descending on the retain set.

Kurmanji et al., NeurIPS 2023, as NegGrad+; under the present name in Liu et al., CoLLAs 2022. Per step, with one
mini-batch of each side, descent on

    b * cross entropy on D_r - (1 - b) * cross entropy on D_f.

The second term has no lower bound; b near 1 is what keeps it from taking over.

Defaults: rate 0.01, momentum 0.9, weight decay 5e-4 and b = 0.95, from the paper (b is 0.95 in its small experiments,
0.9999 in its large ones). The published loop runs over D_r and repeats D_f as often as needed, the two sides in batches
of their own. Here both go through the network together: batches of one class alone drag batch norm's statistics to that
class, and 40 % was all that was kept of CWRU. Epochs are counted on D_f, as ``Task.on_epoch`` does: 20 over 500 forget
windows are 2 over 5000 retained ones, where the paper takes 5 to 10; more would pass 40 s on one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from benchmarks.methods.common import endless, trainable
from benchmarks.task import Method, Task
from edge_agent.core.training import step


@dataclass(frozen=True)
class Settings:
    """How to weigh the sides, and how long."""

    retain_weight: float = 0.95  # b
    rate: float = 1e-2
    epochs: int = 20  # over D_f, each with as many mini-batches of D_r
    batch: int = 64  # of each side
    momentum: float = 0.9
    weight_decay: float = 5e-4
    train_norms: bool = True  # batch norm in training mode, as in the published code


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Ascend on D_f and descend on D_r, in place."""
    network = trainable(task.network, train_norms=settings.train_norms)
    optimiser = torch.optim.SGD(
        network.parameters(), settings.rate, settings.momentum, weight_decay=settings.weight_decay
    )
    weight, retained = settings.retain_weight, endless(task.retain_windows, settings.batch, task.generator)
    for _epoch in range(settings.epochs):
        for gone in task.forget_windows.batches(settings.batch, task.generator):
            kept = next(retained)
            output = network(torch.cat([kept[0], gone[0]]))
            keep = functional.cross_entropy(output[: len(kept[1])], kept[1])
            forget = functional.cross_entropy(output[len(kept[1]) :], gone[1])
            step(optimiser, weight * keep - (1 - weight) * forget)
        task.on_epoch(network)
    return network


_SEARCH: Final = {
    "retain_weight": (0.8, 0.95, 0.99, 0.999),
    "rate": (1e-3, 3e-3, 1e-2),
    "epochs": (5, 10, 20),
    "train_norms": (True, False),
}
METHOD: Final = Method("gradient_difference", "Negative Gradient + retain", "retain", Settings(), _SEARCH, unlearn)
