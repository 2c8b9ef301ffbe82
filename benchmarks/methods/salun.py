"""SalUn: random labels, but only for the weights that matter to the forget set (Fan et al., ICLR 2024).

The mask keeps a weight where |gradient at f0 of the cross entropy of D_f| is among the largest half of all weights (the
paper's median threshold); ``salient_share`` is that half. Then, per epoch, one pass over D_f with random labels, new in
each epoch, and one over D_r with its own, and every step moves the weights inside the mask only.

A random label is never a forget class. The paper's equation excludes the window's own class, its code does not; with
several forget classes, another of them would teach what the next window is to forget.

Defaults: rate 0.01, momentum 0.9 and the mask at 0.5, from the authors' code for CIFAR-10, which runs 10 epochs in
batches of 256 with weight decay 5e-4. Ours are 5 epochs in batches of 64, to stay under two minutes on one thread with
5000 retained windows, and have no weight decay, because the optimiser would apply it outside the mask as well. The mask
is taken at f0, as in the paper; the authors' code takes small steps while it sums the gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.common import random_staying, trainable
from benchmarks.task import Labelled, Method, Task


@dataclass(frozen=True)
class Settings:
    """How much may change, and how long."""

    rate: float = 1e-2
    epochs: int = 5
    salient_share: float = 0.5
    batch: int = 64
    momentum: float = 0.9
    train_norms: bool = True  # batch norm in training mode, as in the published code


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Learn random labels for D_f and the true ones of D_r inside the mask, in place."""
    mask = salient(task.network, task.forget_windows, settings.salient_share, settings.batch)
    network = trainable(task.network, train_norms=settings.train_norms)
    optimiser = torch.optim.SGD(network.parameters(), settings.rate, settings.momentum)
    for _epoch in range(settings.epochs):
        for windows, labels in task.forget_windows.batches(settings.batch, task.generator):
            _masked_step(optimiser, network, mask, windows, random_staying(task, len(labels)))
        for windows, labels in task.retain_windows.batches(settings.batch, task.generator):
            _masked_step(optimiser, network, mask, windows, labels)
        task.on_epoch(network)
    return network


def salient(network: nn.Sequential, forget_set: Labelled, share: float, batch: int) -> tuple[Tensor, ...]:
    """For each parameter, a bool tensor of its shape: whether each weight is among the ``share`` most salient of all.

    Leaves ``network`` in evaluation mode, its parameters trainable and without gradients.
    """
    network.eval().requires_grad_(True)
    parameters = tuple(network.parameters())
    total = [torch.zeros_like(each) for each in parameters]
    for windows, labels in zip(forget_set.windows.split(batch), forget_set.labels.split(batch), strict=True):
        loss = functional.cross_entropy(network(windows), labels, reduction="sum")
        total = [one + other for one, other in zip(total, torch.autograd.grad(loss, parameters), strict=True)]
    size = torch.cat([each.abs().flatten() for each in total])
    chosen = torch.zeros_like(size, dtype=torch.bool)
    chosen[size.topk(round(share * len(size))).indices] = True
    parts = chosen.split([each.numel() for each in parameters])
    return tuple(part.view_as(each) for part, each in zip(parts, parameters, strict=True))


def _masked_step(
    optimiser: torch.optim.Optimizer, network: nn.Sequential, mask: Iterable[Tensor], windows: Tensor, labels: Tensor
) -> None:
    """One descent step that moves the weights inside the mask; outside it gradient and momentum are 0."""
    optimiser.zero_grad(set_to_none=True)
    functional.cross_entropy(network(windows), labels).backward()
    for parameter, inside in zip(network.parameters(), mask, strict=True):
        assert parameter.grad is not None
        parameter.grad *= inside
    optimiser.step()


_SEARCH: Final = {
    "rate": (3e-3, 1e-2, 3e-2, 1e-1),
    "epochs": (2, 5),
    "salient_share": (0.3, 0.5, 0.7),
    "train_norms": (True, False),
}
METHOD: Final = Method("salun", "SalUn", "retain", Settings(), _SEARCH, unlearn)
