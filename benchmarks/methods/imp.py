"""IMP (L2UL): climb the loss on the forget set, held by adversarial examples and weight importance.

Cha et al., "Learning to Unlearn: Instance-wise Unlearning for Pre-trained Classifiers", AAAI 2024, with both of its
regularisers. Per step, n_f forget windows and n_a adversarial ones; w0 are the weights of f0:

    loss = -n_f / (n_f + n_a) * CE(f(x), y)  +  n_a / (n_f + n_a) * CE(f(x_a), y_a)
           + importance / 2 * sum_i o_i (w_i - w0_i)^2

- x_a: a forget window moved by **targeted** projected gradient descent in an L2 ball until f0 takes it for y_a, a
  random class that stays. It stands for the retained windows that are not at hand.
- o_i = 1 - m_i, where m_i is the importance of a weight to the forget set by memory aware synapses (Aljundi et al.,
  ECCV 2018): |gradient of a mini-batch's mean L2 norm of the logits|, in the mean over D_f's mini-batches as in the
  official code, scaled to [0, 1] within each tensor. Weights that matter little to the forget set are held.

It ends with the first **step** after which no forget window is answered with a forget class.

Defaults: importance 1, SGD with rate 1e-3, momentum 0.9 and weight decay 1e-4, mini-batches of 32 forget windows and
batch norm in training mode as in the official script for CIFAR-10. Its ball of radius 4 in [0, 1] pixels has a root
mean square of 0.072, that is 0.3 of the standard deviation of CIFAR-10's channels (0.25; the script divides by 0.2). It
forgets 16 images; its 20 copies of each, 100 attack steps, 256 adversarial windows per step and 1000 epochs at most are
too dear for 500 windows: 1, 20, 128 and 4 here, and longer attack steps, so that they reach 2.5 radii in all, as there.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.common import endless, forget_share, random_staying, trainable
from benchmarks.task import Labelled, Method, Task
from edge_agent.core.networks import channel_std
from edge_agent.core.probing import STEP_PER_RADIUS
from edge_agent.core.training import step


@dataclass(frozen=True)
class Settings:
    """How to climb, and how strongly to hold."""

    rate: float = 1e-3
    importance: float = 1.0
    epsilon: float = 0.3  # radius of the ball: root mean square, in channel standard deviations
    copies: int = 1  # adversarial examples of each forget window
    attack_steps: int = 20
    epochs: int = 4  # passes over D_f at most
    batch: int = 32
    adversarial_batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    train_norms: bool = True  # batch norm in training mode, as in the published code


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Climb on D_f until none of it is answered with a forget class, in place."""
    others = endless(adversarial(task, settings), settings.adversarial_batch, task.generator)
    network = trainable(task.network, train_norms=settings.train_norms)
    start = [weight.detach().clone() for weight in network.parameters()]
    held = holds(network, task, settings)
    optimiser = torch.optim.SGD(
        network.parameters(), settings.rate, settings.momentum, weight_decay=settings.weight_decay
    )
    for _epoch in range(settings.epochs):
        for batch in task.forget_windows.batches(settings.batch, task.generator):
            loss = _climb(network, batch, next(others))
            loss = loss + settings.importance / 2 * sum(
                (hold * (weight - before).square()).sum()
                for hold, weight, before in zip(held, network.parameters(), start, strict=True)
            )
            step(optimiser, loss)
            if forget_share(network, task) == 0.0:
                task.on_epoch(network)
                return network
        task.on_epoch(network)
    return network


def _climb(network: nn.Module, forget: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> Tensor:
    up, down = (functional.cross_entropy(network(windows), labels) for windows, labels in (forget, others))
    share = len(forget[1]) / (len(forget[1]) + len(others[1]))
    return (1 - share) * down - share * up


def adversarial(task: Task, settings: Settings) -> Labelled:
    """``copies`` of each forget window, each moved toward a random class that stays, with that class as its label."""
    windows = task.forget_windows.windows.repeat(settings.copies, 1, 1)
    targets = random_staying(task, len(windows))
    size, generator = settings.adversarial_batch, task.generator
    pairs = zip(windows.split(size), targets.split(size), strict=True)
    moved = [_towards(task.network, part, toward, settings, generator) for part, toward in pairs]
    return Labelled(torch.cat(moved), targets)


def _towards(
    network: nn.Sequential, windows: Tensor, targets: Tensor, settings: Settings, generator: torch.Generator
) -> Tensor:
    """Descend the targets' cross entropy inside the L2 ball, by steps of equal length from a random start."""
    unit, radius = channel_std(network), settings.epsilon * windows[0].numel() ** 0.5
    stride = radius * STEP_PER_RADIUS / settings.attack_steps
    delta = _within(settings.epsilon * torch.randn(windows.shape, generator=generator), radius)
    for _step in range(settings.attack_steps):
        delta.requires_grad_()
        loss = functional.cross_entropy(network(windows + delta * unit), targets, reduction="sum")
        gradient = torch.autograd.grad(loss, delta)[0]
        delta = _within(delta.detach() - stride * gradient / _norm(gradient), radius)
    return windows + delta * unit


def _within(delta: Tensor, radius: float) -> Tensor:
    return delta * (radius / _norm(delta)).clamp(max=1)


def _norm(delta: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2), keepdim=True)
    return lengths.clamp_min(1e-12)


def holds(network: nn.Sequential, task: Task, settings: Settings) -> list[Tensor]:
    """How strongly each weight is held, in [0, 1], one tensor per parameter; 0 is the most important to D_f."""
    probe = copy.deepcopy(network)  # in the mode of training, whose running statistics must not move
    totals = [torch.zeros_like(weight) for weight in probe.parameters()]
    for windows, _labels in task.forget_windows.batches(settings.batch, task.generator):
        lengths = torch.linalg.vector_norm(probe(windows), dim=1)
        gradients = torch.autograd.grad(lengths.mean(), list(probe.parameters()))
        totals = [total + gradient.abs() * len(windows) for total, gradient in zip(totals, gradients, strict=True)]
    return [1 - (total - total.min()) / (total.max() - total.min()).clamp_min(1e-12) for total in totals]


_SEARCH: Final = {
    "rate": (1e-4, 3e-4, 1e-3, 3e-3),
    "importance": (1.0, 10.0, 30.0),
    "train_norms": (True, False),
}
METHOD: Final = Method("imp", "IMP", "forget", Settings(), _SEARCH, unlearn)
