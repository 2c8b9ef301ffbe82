"""Whether rounding the weights brings the class back, as it does where an edit moved them by less than half a code.

Zhang et al. 2025 (arXiv 2410.16454) saw 4-bit rounding restore most of what language models had unlearned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_agent.core.gate import forget_share, rounded


def answered_when_rounded(network: nn.Sequential, windows: Tensor, forget: tuple[int, ...], bits: int) -> float:
    """Percent of ``windows`` answered with a forget class once the weights have ``bits`` bits."""
    return 100.0 * forget_share(rounded(network, bits), windows, forget)


@torch.no_grad()
def codes_changed(original: nn.Sequential, edited: nn.Sequential, bits: int) -> float:
    """Percent of the weights whose ``bits``-bit code differs, both coded with the original's scales.

    Weights and scales are those of ``edge_agent.core.gate.rounded``: convolutions and linear layers, symmetric, one
    scale per output channel. An edited weight beyond the greatest code keeps that code.
    """
    changed = weights = 0
    for before, after in zip(original.modules(), edited.modules(), strict=True):
        if isinstance(before, nn.Conv1d | nn.Linear):
            assert isinstance(after, nn.Conv1d | nn.Linear), "an edit keeps the architecture"
            most = 2 ** (bits - 1) - 1
            scale = before.weight.flatten(1).abs().amax(1, keepdim=True).clamp_min(1e-12) / most
            one, other = (_codes(module.weight, scale, most) for module in (before, after))
            changed += int((one != other).sum())
            weights += one.numel()
    return 100.0 * changed / weights


def _codes(weight: Tensor, scale: Tensor, most: int) -> Tensor:
    return (weight.flatten(1) / scale).round().clamp(-most, most)
