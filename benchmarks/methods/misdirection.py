"""Representation misdirection: steer the features of forget windows toward a random direction (RMU).

Li et al., "The WMDP Benchmark", ICML 2024; Huu-Tien et al., "On Effects of Steering Latent Representation for Large
Language Model Unlearning", AAAI 2025. h(x) are the features that the head reads, of d values; u_k is drawn once per
forget class k, uniform in [0, 1]^d and scaled to length 1; c says how far to go:

    || h(x) - c u_y ||^2 / d,  the mean over the mini-batch,    c = scale * mean of ||h0(x)|| over D_f

Where the features lie is up to the network, so c is a multiple of their length in f0, as in the second paper
("adaptive"); the first has a constant. Its other term, which holds the features of retained text, needs retained data
and is left out. Like our features after a ReLU, u has no negative values. What the head makes of c u is open:
it may answer any class with it, the forgotten one included.

Defaults: AdamW as published, scale 5 as in the second paper's code, both tuned with the rate (5e-5 there, for 150 small
steps in a language model). Published: three layers, the steered one the last of them; here the stages up to the pooled
features, from the last or from the first on. The head sees no gradient. Language models have no batch norm: its
statistics are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.common import descend
from benchmarks.task import Method, Task
from edge_agent.core.networks import EditScope, cut
from edge_agent.core.training import logits


@dataclass(frozen=True)
class Settings:
    """How far to steer, and with which weights."""

    rate: float = 3e-4
    scale: float = 5.0  # length of the target, in mean lengths of f0's features of D_f
    scope: EditScope = "last_stage"
    epochs: int = 10
    batch: int = 64


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Steer the features of D_f, in place."""
    network, labels = task.network, task.forget_windows.labels
    at = cut(network, settings.scope)
    tail = network[at:-1].requires_grad_(True)
    before = logits(network[:at], task.forget_windows.windows)  # the trunk is frozen: it runs once
    features = logits(tail, before)
    target = settings.scale * features.norm(dim=1).mean() * random_directions(task, features.shape[1])
    optimiser = torch.optim.AdamW(tail.parameters(), settings.rate)

    def loss(which: Tensor) -> Tensor:
        return functional.mse_loss(tail(before[which]), target[labels[which]])

    descend(task, optimiser, loss, len(labels), epochs=settings.epochs, batch=settings.batch)
    return network


def random_directions(task: Task, features: int) -> Tensor:
    """One unit vector of non-negative values for each class, float32 (K, features)."""
    return functional.normalize(torch.rand(task.classes, features, generator=task.generator), dim=1)


_SEARCH: Final = {
    "rate": (1e-4, 3e-4, 1e-3),
    "scale": (1.0, 2.0, 5.0),
    "scope": ("last_stage", "all"),
    "epochs": (2, 5, 10),
}
METHOD: Final = Method("misdirection", "Representation misdirection", "forget", Settings(), _SEARCH, unlearn)
