"""How far two networks' answers lie apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edge_agent.core.training import logits


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits, (n,) in [0, 1], between rows of probabilities (n, K).

    The entropy of the mean less the mean of the entropies (Lin 1991), which is finite where a probability is 0. It is
    the divergence; its square root is the distance that is a metric.
    """
    bits = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return bits.clamp(0.0, 1.0)


def _entropy(p: Tensor) -> Tensor:
    nats: Tensor = torch.special.entr(p).sum(1)
    return nats / math.log(2)


def answers_apart(network: nn.Sequential, other: nn.Sequential, windows: Tensor) -> float:
    """Mean Jensen-Shannon divergence in bits between two networks' softmax answers to windows (n, channels, length)."""
    p, q = (logits(one, windows).double().softmax(1) for one in (network, other))
    return jensen_shannon(p, q).mean().item()
