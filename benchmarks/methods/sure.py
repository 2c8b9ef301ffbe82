"""SURE: make forget windows look like data never trained on, to a judge of features (Sepahvand et al., ICLR 2025).

**Re-derived.** The authors publish neither code nor pseudocode; this follows the abstract, the objective as its reviews
quote it, and the paper it builds on, DANN (Ganin et al., JMLR 2016). With features G_f (all parts but the head), head
G_y and a domain discriminator G_d, one joint step descends

    cross entropy(G_y(G_f(x)), y) on D_r  +  BCE(G_d(R(G_f(x))), [x is in D_f]) on D_f and a reference set,

where R is the identity forward and multiplies the gradient by -lambda backward: the discriminator learns to tell the
two domains apart while the features learn to fool it. lambda rises from 0 as in DANN, to lambda_max times
2 / (1 + exp(-10 p)) - 1 at the share p of all steps, so that the discriminator gets ahead first. It is not returned.

What that leaves open, and what is done here:
- the reference set. The paper takes validation data "from the same distribution" as D_f, unseen in training. For a
  whole class that would be windows of the class, and hiding which of them were seen forgets no class; nor does a method
  get any data here but D_f and D_r. So the reference is a held share of D_r, which the retain loss does not see.
  f0 was trained on it, so the membership side of SURE is weaker here than in the paper.
- layer, size and optimiser of the discriminator: penultimate features, one hidden layer of 100 as in DANN's smallest,
  and the same SGD at a rate of its own.
- batch norm: the windows of all sides go through the network as one batch, or its statistics alone would tell the sides
  apart. The head sees all of them too; only D_r's logits enter the loss.
- lambda, rates, epochs: the paper finds them by Bayesian optimisation; ours are DANN's (rate 0.01, momentum 0.9,
  lambda_max 1, without its decay of the rate), tuned from there.

An epoch is one pass over D_f, with as many mini-batches of the reference and of D_r: 12 take about 25 s on one thread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.common import endless, trainable
from benchmarks.task import Labelled, Method, Task
from edge_agent.core.training import step


@dataclass(frozen=True)
class Settings:
    """How hard to fool the discriminator, and how long."""

    rate: float = 1e-2
    discriminator_rate: float = 1e-2
    reversal: float = 1.0  # lambda_max
    epochs: int = 12
    batch: int = 64  # of each of D_f, reference and D_r
    reference_share: float = 0.1  # of D_r
    hidden: int = 100
    momentum: float = 0.9
    train_norms: bool = True


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Train features against a discriminator, in place; the discriminator stays behind."""
    network = trainable(task.network, train_norms=settings.train_norms)
    judge = _discriminator(network, settings.hidden, task.generator)
    groups = [
        {"params": list(network.parameters()), "lr": settings.rate},
        {"params": list(judge.parameters()), "lr": settings.discriminator_rate},
    ]
    optimiser = torch.optim.SGD(groups, momentum=settings.momentum)
    reference, retained = (
        endless(side, settings.batch, task.generator)
        for side in _split(task.retain_windows, settings.reference_share, task.generator)
    )
    for epoch in range(settings.epochs):
        batches = task.forget_windows.batches(settings.batch, task.generator)
        for number, (gone, _labels) in enumerate(batches):
            ramp = 2 / (1 + math.exp(-10 * (epoch + number / len(batches)) / settings.epochs)) - 1
            loss = _loss(network, judge, (gone, next(reference)[0]), next(retained), settings.reversal * ramp)
            step(optimiser, loss)
        task.on_epoch(network)
    return network


def _loss(
    network: nn.Sequential,
    judge: nn.Sequential,
    domains: tuple[Tensor, Tensor],
    retained: tuple[Tensor, Tensor],
    reversal: float,
) -> Tensor:
    """The joint loss; ``domains`` are windows of D_f and of the reference."""
    windows, labels = retained
    features = network[:-1](torch.cat((windows, *domains)))
    keep = functional.cross_entropy(network[-1](features)[: len(labels)], labels)
    answers = judge(reverse(features[len(labels) :], reversal)).squeeze(1)
    is_forget = torch.cat([torch.full((len(side),), value) for side, value in zip(domains, (1.0, 0.0), strict=True)])
    return keep + functional.binary_cross_entropy_with_logits(answers, is_forget)


def reverse(features: Tensor, weight: float) -> Tensor:
    """R: the features as they are; their gradient times ``-weight``."""
    return features.detach() * (1 + weight) - features * weight


def _discriminator(network: nn.Sequential, hidden: int, generator: torch.Generator) -> nn.Sequential:
    """Features (n, d) to the log-odds (n, 1) that a window is of D_f; initial weights come from ``generator``."""
    head = network[-1]
    assert isinstance(head, nn.Linear)
    sizes, device = ((head.in_features, hidden), (hidden, 1)), head.weight.device
    layers = [nn.utils.skip_init(nn.Linear, *size, device=device) for size in sizes]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def _split(pairs: Labelled, share: float, generator: torch.Generator) -> tuple[Labelled, Labelled]:
    """A random share, at least two windows, and the rest."""
    order = torch.randperm(len(pairs), generator=generator)
    held = max(2, round(share * len(pairs)))
    return pairs.pick(order[:held]), pairs.pick(order[held:])


_SEARCH: Final = {
    "rate": (1e-3, 3e-3, 1e-2, 3e-2),
    "discriminator_rate": (1e-2, 1e-1),
    "reversal": (0.3, 1.0, 3.0),
    "train_norms": (True, False),
}
METHOD: Final = Method("sure", "SURE", "retain", Settings(), _SEARCH, unlearn)
