"""Training of the reference model: AdamW, one-cycle rate, early stop on a validation split.

Windows are float32 (n, channels, length) in the sensor's unit, labels int64 (n,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.networks import set_statistics

AT_ONCE: Final = 64  # windows of a batch where only the answers count


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the defaults serve CWRU, DSADS and the simulated rig alike."""

    epochs: int = 30
    batch: int = 64
    rate: float = 2e-3
    weight_decay: float = 1e-2
    patience: int = 8  # epochs without a better validation loss
    max_shift: int = 64  # samples: the random circular shift of each training window


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured; accuracies in [0, 1]."""

    number: int
    epochs: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


def fit(
    network: nn.Sequential,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    settings: TrainingSettings,
    generator: torch.Generator,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> list[Epoch]:
    """Train ``network`` in place, leave it in evaluation mode with the weights of its best epoch.

    Channel statistics are taken from the training windows and written into the network.
    """
    windows, labels = train
    set_statistics(network, windows.mean(dim=(0, 2)), windows.std(dim=(0, 2)))
    steps = settings.epochs * -(-len(labels) // settings.batch)
    optimiser = torch.optim.AdamW(network.parameters(), settings.rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=steps)
    best_loss, best_number, best_state, history = float("inf"), 0, network.state_dict(), []
    for number in range(1, settings.epochs + 1):
        network.train()
        total = 0.0
        for batch in torch.randperm(len(labels), generator=generator).split(settings.batch):
            if len(batch) < 2:  # batch norm has no variance of one window
                schedule.step()
                continue
            shifted = _shift(windows[batch], settings.max_shift, generator)
            loss = functional.cross_entropy(network(shifted), labels[batch])
            step(optimiser, loss)
            schedule.step()
            total += loss.item() * len(batch)
        answers = logits(network, validation[0])
        validation_loss = functional.cross_entropy(answers, validation[1]).item()
        accuracy = (answers.argmax(1) == validation[1]).float().mean().item()
        history.append(Epoch(number, settings.epochs, total / len(labels), validation_loss, accuracy))
        on_epoch(history[-1])
        if validation_loss < best_loss:
            best_loss, best_number = validation_loss, number
            best_state = {name: value.clone() for name, value in network.state_dict().items()}
        elif number - best_number >= settings.patience:
            break
    network.load_state_dict(best_state)
    network.eval()
    return history


def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One descent step."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


@torch.no_grad()
def logits(network: nn.Module, windows: Tensor) -> Tensor:
    """Logits (n, classes) of ``network`` in evaluation mode.

    Batches of at most ``AT_ONCE``, of about the same size: in larger ones the maps of the first layers leave the caches
    and take some 100 MiB at width 64, and a window by itself is summed up in another order.
    """
    network.eval()
    return torch.cat([network(part) for part in windows.tensor_split(max(1, -(-len(windows) // AT_ONCE)))])


def _shift(windows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Roll each window by up to ``most`` samples either way: a window has no natural start."""
    if most == 0:
        return windows
    length = windows.shape[2]
    shifts = torch.randint(-most, most + 1, (len(windows), 1, 1), generator=generator)
    index = (torch.arange(length).view(1, 1, -1) - shifts) % length
    return windows.gather(2, index.expand_as(windows))
