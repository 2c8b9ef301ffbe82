"""Whether a disturbed window of the class still gets the class for an answer: by chance, or by a push toward it.

Both give the percentage of forget windows that are answered with any forget class.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from edge_agent.core.gate import forget_share
from edge_agent.core.networks import channel_std
from edge_agent.core.probing import STEP_PER_RADIUS, masked

STEPS: Final = 10
BATCH: Final = 64


def with_noise(windows: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
    """Add white noise at a signal-to-noise ratio, in each window and channel, to its own power about its mean."""
    power = windows.var(dim=2, correction=0, keepdim=True)
    noise = torch.randn(windows.shape, generator=generator)
    return windows + noise * (power / 10 ** (snr_db / 10)).sqrt()


def answered_in_noise(
    network: nn.Sequential, windows: Tensor, forget: tuple[int, ...], snr_db: float, generator: torch.Generator
) -> float:
    """Percent of ``windows`` (n, channels, length) answered with a forget class under noise of ``snr_db``."""
    return 100.0 * forget_share(network, with_noise(windows, snr_db, generator), forget)


def pushed(
    network: nn.Sequential, windows: Tensor, forget: tuple[int, ...], radius: float, generator: torch.Generator
) -> Tensor:
    """Windows moved toward the forget classes, by targeted projected gradient ascent (Madry et al. 2018).

    From a random point of the L-infinity ball, ``STEPS`` signed steps up the log-odds of the forget classes. Its
    gradient is that of the log-probability up to a positive factor, which underflows on a confident network.

    Args:
        radius: of the ball, in standard deviations of each channel.
    """
    ball = radius * channel_std(network)
    moved = []
    for part in windows.split(BATCH):
        delta = (2 * torch.rand(part.shape, generator=generator) - 1) * ball
        for _step in range(STEPS):
            point = (part + delta).requires_grad_()
            output = network(point)
            odds = output[:, list(forget)].logsumexp(1) - masked(output, forget).logsumexp(1)
            gradient = torch.autograd.grad(odds.sum(), point)[0]
            # A logit removed by a bias of minus infinity has no gradient (NaN): nothing moves toward it.
            delta = delta + gradient.nan_to_num().sign() * ball * (STEP_PER_RADIUS / STEPS)
            delta = torch.maximum(torch.minimum(delta, ball), -ball)
        moved.append(part + delta)
    return torch.cat(moved)


def answered_when_pushed(
    network: nn.Sequential, windows: Tensor, forget: tuple[int, ...], radius: float, generator: torch.Generator
) -> float:
    """Percent of ``windows`` answered with a forget class after a push within ``radius`` standard deviations."""
    return 100.0 * forget_share(network, pushed(network, windows, forget, radius, generator), forget)
