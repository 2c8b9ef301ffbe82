"""Whether the network gives away that it was trained on the forget windows.

The attack looks at the probability p of the true class. It is given its log-odds, log p - log(1 - p): the same order,
hence the same ranks, where p itself rounds to 1 and ties hide the order. Where p rounds to 0 the class is not there,
and how far below the others its logit lies gives nothing away: minus infinity. The other attack, a threshold on p,
belongs to every row (``accuracy.measure``).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from benchmarks.task import Labelled
from edge_agent.core.training import logits
from edge_agent.core.types import Float32


def log_odds(network: nn.Sequential, pairs: Labelled) -> Float32:
    """Log-odds of the true class, float32 (n,)."""
    output, own = logits(network, pairs.windows), pairs.labels.unsqueeze(1)
    others = output.scatter(1, own, -torch.inf).logsumexp(1, keepdim=True)
    absent = output.softmax(1).gather(1, own) == 0.0
    odds: Float32 = (output.gather(1, own) - others).masked_fill(absent, -torch.inf).squeeze(1).numpy()
    return odds


def membership_auc(network: nn.Sequential, forget_train: Labelled, forget_test: Labelled) -> float:
    """AUC of telling a forget class's training windows from its test windows, in [0, 1]; 0.5 gives nothing away.

    Of each forget class by itself, since confidence differs between classes; the mean of them.
    """
    values = []
    for label in forget_train.labels.unique():
        sides = (pairs.pick(pairs.labels == label) for pairs in (forget_train, forget_test))
        values.append(auc(*(log_odds(network, pairs) for pairs in sides)))
    return sum(values) / len(values)


def auc(members: Float32, strangers: Float32) -> float:
    """Share of pairs (member, stranger) in which the member has the higher value; a tie counts half (Mann-Whitney)."""
    ordered = np.sort(strangers)
    below, up_to = (np.searchsorted(ordered, members, side) for side in ("left", "right"))
    return float((below + up_to).sum()) / (2 * len(members) * len(strangers))
