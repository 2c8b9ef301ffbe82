"""Bad Teacher: distil an incompetent teacher on the forget set (Chundawat et al., AAAI 2023).

"Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks using an Incompetent Teacher". The student starts as
f0 and learns from two teachers, f0 itself and u, a network of the same architecture that never was trained:

    KL(u(x) || f(x)) on forget windows,    KL(f0(x) || f(x)) on a random 30 % of the retained windows

shuffled together and each weighted alike, all at temperature 1. Without retained windows only the first term is left,
and nothing holds the other classes: that is how retain-free comparisons use it.

The divergence is summed over the classes and averaged over the windows; the published code averages over both, K times
less. u keeps f0's normalisation of the input and is new in all else, so that its answers are about even and nearly the
same for every window; where its best answer happens to be the forget class, so will be the student's.

Defaults: Adam, rate 1e-4, temperature 1, 30 % and batch norm in training mode as in the official code. Its example is
one epoch, some 60 steps with mini-batches of 256; here, with mini-batches of 64, that is 5 to 8 epochs of D_f alone and
2 with retained windows.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.common import descend, trainable
from benchmarks.task import Method, Task
from edge_agent.core.pte import pull_loss
from edge_agent.core.training import logits

OWN_PARAMETER_STD: Final = 0.02  # of tokens and positions, which no layer's own initialisation covers (ViT)


@dataclass(frozen=True)
class Settings:
    """How long to be taught."""

    rate: float = 1e-4
    epochs: int = 5
    batch: int = 64
    retain_share: float = 0.0  # of the retained windows, drawn once
    train_norms: bool = True  # batch norm in training mode, as in the published code


def unlearn(task: Task, settings: Settings) -> nn.Sequential:
    """Distil both teachers into f0, in place."""
    windows, target = lessons(task, settings.retain_share)
    network = trainable(task.network, train_norms=settings.train_norms)
    optimiser = torch.optim.Adam(network.parameters(), settings.rate)

    def loss(which: Tensor) -> Tensor:
        return pull_loss(network(windows[which]), target[which], tau=1.0)

    descend(task, optimiser, loss, len(windows), epochs=settings.epochs, batch=settings.batch)
    return network


def lessons(task: Task, retain_share: float) -> tuple[Tensor, Tensor]:
    """Windows (n, channels, length) and what their teacher answers, (n, K): first D_f, then its part of D_r."""
    windows = task.forget_windows.windows
    answers = functional.softmax(logits(incompetent(task.network, task.generator), windows), dim=1)
    if retain_share == 0.0:
        return windows, answers
    retained = task.retain_windows.windows
    order = torch.randperm(len(retained), generator=task.generator)
    kept = retained[order[: int(retain_share * len(retained))]]
    held = functional.softmax(logits(task.network, kept), dim=1)
    return torch.cat([windows, kept]), torch.cat([answers, held])


def incompetent(network: nn.Sequential, generator: torch.Generator) -> nn.Sequential:
    """An untrained network of the same architecture; of ``network`` it keeps the input's normalisation alone."""
    teacher = copy.deepcopy(network)
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # layers initialise themselves from the global generator
        torch.manual_seed(seed)
        for module in teacher.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                nn.init.normal_(parameter, std=OWN_PARAMETER_STD)
    return teacher


_SEARCH: Final = {
    "rate": (3e-5, 1e-4, 3e-4, 1e-3),
    "epochs": (1, 2, 5, 10),
    "train_norms": (True, False),
}
METHOD: Final = Method("bad_teacher", "Bad Teacher (no retain)", "forget", Settings(), _SEARCH, unlearn)
WITH_RETAIN: Final = Method(
    "bad_teacher_retain", "Bad Teacher (30 % retain)", "retain", Settings(epochs=2, retain_share=0.3), _SEARCH, unlearn
)
