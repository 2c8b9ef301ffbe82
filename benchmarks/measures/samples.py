"""Which windows a measure sees, and how answers are scored."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.task import Labelled


def evenly(pairs: Labelled, most: int) -> Labelled:
    """At most ``most`` windows of each class, evenly spaced in the given order: it needs no randomness."""
    chosen = [(pairs.labels == label).nonzero().squeeze(1) for label in pairs.labels.unique()]
    spread = [rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)] for rows in chosen]
    return pairs.pick(torch.cat(spread))


def drawn(pairs: Labelled, count: int, generator: torch.Generator) -> Labelled:
    """``count`` random windows of each class; all of a class that has no more."""
    order = torch.randperm(len(pairs), generator=generator)
    labels = pairs.labels[order]
    return pairs.pick(torch.cat([order[labels == label][:count] for label in labels.unique()]))


def together(one: Labelled, other: Labelled) -> Labelled:
    """Both, one after the other."""
    return Labelled(torch.cat([one.windows, other.windows]), torch.cat([one.labels, other.labels]))


def answered(output: Tensor) -> Tensor:
    """The class that logits (n, K) name, int64 (n,); -1 where they are not numbers: training ran away."""
    return output.argmax(1).masked_fill(output.isnan().any(1), -1)


def recall(answers: Tensor, labels: Tensor) -> float:
    """Percent of answers int64 (n,) that are the label."""
    return 100.0 * (answers == labels).double().mean().item()


def known(output: Tensor, labels: Tensor) -> float:
    """Percent of forget windows answered right, from logits (n, K); what is no number counts: it forgets nothing."""
    right = (output.argmax(1) == labels) | output.isnan().any(1)
    return 100.0 * right.double().mean().item()
