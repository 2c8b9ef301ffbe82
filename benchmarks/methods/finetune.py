"""Finetune: go on training on the retain set alone and hope that the rest fades (Golatkar et al., CVPR 2020, baseline).

Per mini-batch of D_r, one descent step on the cross entropy. No forget window is read, so nothing but the drift of
shared weights forgets; every paper since shows it as the rival that keeps everything, the forget class included.

Defaults: SGD with momentum 0.9, weight decay 5e-4 and rate 0.01 as in the code of SCRUB (Kurmanji et al., NeurIPS 2023)
and of SalUn (Fan et al., ICLR 2024), which both run 10 epochs; ours are 5, each over all of D_r, to stay near 40 s on
one thread with 5000 windows. Tuning may take 10.
"""

from __future__ import annotations

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
    """How long to go on training."""

    rate: float = 1e-2
    epochs: int = 5  # over D_r
    batch: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    train_norms: bool = True  # batch norm in training mode, as in the published code


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Descend on D_r, in place."""
    network = trainable(task.network, train_norms=settings.train_norms)
    optimiser = torch.optim.SGD(
        network.parameters(), settings.rate, settings.momentum, weight_decay=settings.weight_decay
    )
    for _epoch in range(settings.epochs):
        for windows, labels in task.retain_windows.batches(settings.batch, task.generator):
            step(optimiser, functional.cross_entropy(network(windows), labels))
        task.on_epoch(network)
    return network


_SEARCH: Final = {
    "rate": (3e-3, 1e-2, 3e-2, 1e-1),
    "epochs": (2, 5, 10),
    "train_norms": (True, False),
}
METHOD: Final = Method("finetune", "Finetune", "retain", Settings(), _SEARCH, unlearn)
