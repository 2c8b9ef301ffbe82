"""Two rivals under what the shipped method is held to: the last stage alone, batch norm frozen, an end once it is gone.

None of that is Probing then Editing, and rivals as published have none of it, so that a comparison with them does not
say what of a difference is the method. These are retain-free as well and tuned as every rival is.

- ``delete_all_last_stage``: DELETE with every forget class masked (``delete.py``, its equation and optimiser), on the
  trunk's features. With ``stop`` it ends with the first epoch after which no window of D_f is answered with a forget
  class. Twenty epochs and a rate of 1e-3 are DELETE's; the rates that are tried go up, for fewer weights move.
- ``pte_published_last_stage``: ``PUBLISHED`` of the shipped code with ``scope="last_stage"``: no views, no anchors.
  It ends once the class is gone in any case. Tried are the settings of ``pte_published``, rates one step higher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from benchmarks.methods import pte
from benchmarks.methods.common import descend, forget_share
from benchmarks.methods.delete import without_all
from benchmarks.task import Method, Task
from edge_agent.core.edit_settings import PUBLISHED
from edge_agent.core.networks import cut
from edge_agent.core.pte import pull_loss
from edge_agent.core.training import logits


@dataclass(frozen=True)
class Settings:
    """How long to distil, and how fast."""

    rate: float = 1e-3
    epochs: int = 20
    stop: bool = True  # at the first epoch that leaves none of D_f
    batch: int = 64
    momentum: float = 0.9


def delete_all(task: Task, settings: Settings) -> nn.Sequential:
    """Distil the masked f0 into its last stage, in place."""
    at = cut(task.network, "last_stage")
    features = logits(task.network[:at], task.forget_windows.windows)  # the trunk is frozen: it runs once
    target = without_all(logits(task.network[at:], features), task.forget)
    tail = task.network[at:].requires_grad_(True)  # in evaluation mode: its norms are frozen
    optimiser = torch.optim.SGD(tail.parameters(), settings.rate, settings.momentum)

    def loss(which: Tensor) -> Tensor:
        return pull_loss(tail(features[which]), target[which], tau=1.0)

    for _epoch in range(settings.epochs):
        descend(task, optimiser, loss, len(features), epochs=1, batch=settings.batch)
        if settings.stop and forget_share(task.network, task) == 0.0:
            break
    return task.network


DELETE_ALL: Final = Method(
    "delete_all_last_stage",
    "DELETE-all, last stage",
    "forget",
    Settings(),
    {"rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "epochs": (5, 10, 20), "stop": (True, False)},
    delete_all,
)
PTE_PUBLISHED: Final = Method(
    "pte_published_last_stage",
    "PTE, published, last stage",
    "forget",
    replace(PUBLISHED, scope="last_stage"),
    {
        "push_rate": (1e-4, 3e-4, 1e-3, 3e-3),
        "pull_rate": (1e-4, 3e-4, 1e-3, 3e-3),
        "consolidation_steps": (0, 40, 120),
        "tau": (1.0, 2.0, 4.0),
    },
    pte.published,
)
