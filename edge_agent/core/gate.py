"""The gate: may this edit go live? A verdict with reasons in words and numbers, from evidence without retained windows.

``predicted_loss`` reads quantiles of margins that training measured on validation windows and left in the card.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import inf, isnan

import torch
from torch import Tensor, nn

from edge_agent.core.evidence import ClassEvidence, Evidence
from edge_agent.core.networks import channel_std
from edge_agent.core.probing import known_share
from edge_agent.core.training import logits


@dataclass(frozen=True)
class GateSettings:
    """Limits; docs/decisions/0005-the-gate.md says how each was chosen."""

    max_forget_share: float = 0.0  # of all forget windows
    max_noisy_share: float = 0.05  # of the forget windows with sensor noise
    max_int8_share: float = 0.01  # of the forget windows, weights rounded to 8 bits
    noise_std: float = 0.3  # of a channel's standard deviation
    max_predicted_loss: float = 0.03  # worst retained class: its windows whose answers the dreams' margins say are lost
    min_agreement: float = 0.6  # worst retained class on its dreams
    min_border_kept: float = 0.4  # worst retained class on its border dreams
    max_drift: float = 0.5  # relative change of the edited weights, Frobenius


@dataclass(frozen=True)
class Reason:
    """One check: what was measured, its limit, and a sentence."""

    check: str
    value: float
    limit: float
    passed: bool
    words: str


@dataclass(frozen=True)
class Verdict:
    """Accepted only if every check passed."""

    accepted: bool
    reasons: tuple[Reason, ...]
    classes: tuple[ClassEvidence, ...]

    @property
    def refusal(self) -> str:
        """The sentences of the checks that failed."""
        return "; ".join(reason.words for reason in self.reasons if not reason.passed)


def judge(
    original: nn.Sequential,
    edited: nn.Sequential,
    windows: Tensor,
    names: tuple[str, ...],
    evidence: Evidence,
    settings: GateSettings,
    generator: torch.Generator,
) -> Verdict:
    """Judge an edit.

    Args:
        windows: all forget windows, those held out included, float32 (n, channels, length).
        names: class names, for the sentences.
    """
    forget = evidence.forget
    gone = "+".join(names[index] for index in forget)
    noisy = torch.randn(windows.shape, generator=generator)
    noisy.mul_(channel_std(original)).mul_(settings.noise_std).add_(windows)  # in place: windows are most of the memory
    shares = (
        ("forget_share", forget_share(edited, windows, forget), settings.max_forget_share, "its cached windows"),
        (
            "noisy_share",
            forget_share(edited, noisy, forget),
            settings.max_noisy_share,
            f"them with {settings.noise_std:g} sigma of noise",
        ),
        (
            "int8_share",
            forget_share(rounded(edited, bits=8), windows, forget),
            settings.max_int8_share,
            "them after rounding the weights to 8 bits",
        ),
    )
    reasons = [
        _most(check, value, limit, f"{gone} is still answered for {value:.1%} of {what}, limit {limit:.1%}")
        for check, value, limit, what in shares
    ]
    rows = evidence.compare(original, edited)
    reasons += [_none(names[label]) for label in evidence.missing(len(names))]
    reasons += _of_evidence(rows, names, settings)
    moved = drift(original, edited)
    words = f"the edited weights moved by {moved:.1%}, limit {settings.max_drift:.0%}"
    reasons.append(_most("drift", moved, settings.max_drift, words))
    return Verdict(all(reason.passed for reason in reasons), tuple(reasons), tuple(rows))


def _of_evidence(rows: list[ClassEvidence], names: tuple[str, ...], settings: GateSettings) -> list[Reason]:
    """What dreams tell of the retained classes, each check at its worst class."""
    if not rows:
        return []
    worst = max(rows, key=lambda row: _or(row.predicted_loss, inf))
    value, limit = worst.predicted_loss, settings.max_predicted_loss
    words = f"{names[worst.label]}: {value:.1%} of its windows would be answered otherwise, limit {limit:.1%}"
    reasons = [_most("predicted_loss", value, limit, words)]
    worst = min(rows, key=lambda row: _or(row.agreement, -inf))
    value, limit = worst.agreement, settings.min_agreement
    words = f"{names[worst.label]}: {value:.1%} of its dreams are answered as before, limit {limit:.0%}"
    reasons.append(_least("agreement", value, limit, words))
    worst = min(rows, key=lambda row: _or(row.border_kept, -inf))
    value, limit = worst.border_kept, settings.min_border_kept
    words = f"{names[worst.label]}: {value:.1%} of its probability at its borders is kept, limit {limit:.0%}"
    reasons.append(_least("border_kept", value, limit, words))
    return reasons


def _or(value: float, worst: float) -> float:
    """A number, or the worst there is where it is none: ``max`` and ``min`` pass over NaN."""
    return worst if isnan(value) else value


def _none(name: str) -> Reason:
    return Reason("evidence", 0.0, 1.0, passed=False, words=f"{name}: no dreams tell what it did to this class")


def _least(check: str, value: float, limit: float, words: str) -> Reason:
    return Reason(check, value, limit, value >= limit, words)


def _most(check: str, value: float, limit: float, words: str) -> Reason:
    return Reason(check, value, limit, value <= limit, words)


def forget_share(network: nn.Module, windows: Tensor, forget: tuple[int, ...]) -> float:
    """Share of windows that ``network`` answers with a forget class, nothing masked."""
    return known_share(logits(network, windows), forget)


def rounded(network: nn.Sequential, bits: int) -> nn.Sequential:
    """A copy whose weights are rounded to ``bits`` bits, symmetric, one scale per output channel."""
    copied = copy.deepcopy(network)
    most = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                scale = module.weight.flatten(1).abs().amax(1).clamp_min(1e-12) / most
                scale = scale.view(-1, *[1] * (module.weight.dim() - 1))
                module.weight.copy_((module.weight / scale).round() * scale)
    return copied


@torch.no_grad()
def drift(original: nn.Module, edited: nn.Module) -> float:
    """Relative Frobenius distance of the parameters that changed; 0 if none did."""
    pairs = [
        (before, after)
        for before, after in zip(original.parameters(), edited.parameters(), strict=True)
        if not torch.equal(before, after)
    ]
    if not pairs:
        return 0.0
    moved = sum(float((after - before).square().sum()) for before, after in pairs)
    size = sum(float(before.square().sum()) for before, _ in pairs)
    return float((moved / size) ** 0.5)
