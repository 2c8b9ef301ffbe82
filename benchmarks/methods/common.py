"""What several methods do alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks.task import Labelled, Task
from edge_agent.core import gate
from edge_agent.core.training import step


def trainable(network: nn.Sequential, *, train_norms: bool) -> nn.Sequential:
    """Make every parameter trainable; batch norm takes batch statistics only if ``train_norms``."""
    network.requires_grad_(True).train()
    if not train_norms:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
                module.eval()
    return network


def forget_share(network: nn.Sequential, task: Task) -> float:
    """Share of D_f that is answered with a forget class; measured on a copy, so that the modes stay as they are."""
    return gate.forget_share(copy.deepcopy(network), task.forget_windows.windows, task.forget)


def random_staying(task: Task, count: int) -> torch.Tensor:
    """For each of ``count`` windows a class that stays, all equally likely, int64 (count,)."""
    staying = torch.tensor([label for label in range(task.classes) if label not in task.forget])
    return staying[torch.randint(len(staying), (count,), generator=task.generator)]


def endless(pairs: Labelled, size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Mini-batches for ever, a new order each epoch."""
    while True:
        yield from pairs.batches(size, generator)


def descend(
    task: Task,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[torch.Tensor], torch.Tensor],
    count: int,
    *,
    epochs: int,
    batch: int,
) -> None:
    """Mini-batch descent of ``task.network`` over ``count`` windows; a new order each epoch, a rest of one left out.

    ``loss`` maps the indices of a mini-batch, int64 (b,), to a scalar: what belongs to a window and never changes, as
    a teacher's answer, is computed once before and looked up by index.
    """
    for _epoch in range(epochs):
        for which in torch.randperm(count, generator=task.generator).split(batch):
            if len(which) > 1:
                step(optimiser, loss(which))
        task.on_epoch(task.network)
