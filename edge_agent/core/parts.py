"""Parts that networks share: standardisation, pooling over time, and a record of the training windows' spectrum."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

BANDS: Final = 32
FLOOR: Final = 1e-4  # power density, 1 being that of white noise of one standard deviation: below it lies silence


class Standardise(nn.Module):
    """``(x - mean) / std`` per channel, with the training set's values as buffers, so that it is part of the graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1))
        self.register_buffer("std", torch.ones(1, channels, 1))

    def forward(self, windows: Tensor) -> Tensor:
        """Standardise float32 (batch, channels, length)."""
        standardised: Tensor = (windows - self.mean) / self.std
        return standardised


class SpectrumRecord(nn.Module):
    """Hands windows on as they are and keeps the statistics of their spectrum: what dreams are held to.

    For networks that have no batch norm of their own. This one normalises nothing: its running mean and variance,
    over all batches of a training, are the record (docs/decisions/0011-backbones-without-batch-norm.md).
    """

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.bands = min(BANDS, length // 2)
        self.statistics = nn.BatchNorm1d(channels * self.bands, affine=False, momentum=None)

    def forward(self, windows: Tensor) -> Tensor:
        """Take note of standardised windows (batch, channels, length), and return them."""
        self.statistics(self.levels(windows))
        return windows

    def levels(self, windows: Tensor) -> Tensor:
        """Power density in equal bands from 0 to half the sampling rate, in bel: (batch, channels * bands, 1).

        0 bel is white noise of one standard deviation. A window's mean is left out, for it is no vibration.
        """
        density = torch.fft.rfft(windows)[..., 1:].abs().square() / windows.shape[2]
        return (functional.adaptive_avg_pool1d(density, self.bands) + FLOOR).log10().flatten(1).unsqueeze(2)


class MeanOverTime(nn.Module):
    """Global average pooling: (batch, channels, n) -> (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over the last axis."""
        return x.mean(dim=2)
