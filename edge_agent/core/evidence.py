"""What an edit did to the classes that stay, told from dreams alone.

The gateway holds no retained data. For each retained class the original network's answers on dreams of that class
are compared with the edited network's: the share of answers that stayed the same (typical, noisy and soft dreams),
and the share of the class's probability that was kept (border dreams, which lie where harm shows first).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.dreams import Dreams, anchors_and_evidence, with_noisy
from edge_agent.core.training import logits


@dataclass(frozen=True)
class ClassEvidence:
    """One retained class: agreement on its dreams and probability kept on its borders, both in [0, 1]."""

    label: int
    agreement: float
    border_kept: float

    @property
    def kept(self) -> float:
        """The weaker of the two."""
        return min(self.agreement, self.border_kept)


@dataclass(frozen=True)
class Evidence:
    """Dreams that were not anchors, and the classes to forget."""

    dreams: Dreams
    forget: tuple[int, ...]

    def watch(self, network: nn.Module, trunk: nn.Module) -> Callable[[nn.Module], float]:
        """The worst retained class's ``kept``, as a function of the tail; the trunk runs once."""
        before = self._answers(logits(network, self.dreams.windows))
        features = logits(trunk, self.dreams.windows)

        def worst(tail: nn.Module) -> float:
            after = self._answers(logits(tail, features))
            return min((row.kept for row in self._compare(before, after)), default=1.0)

        return worst

    def compare(self, original: nn.Module, edited: nn.Module) -> list[ClassEvidence]:
        """One row for each retained class that has dreams."""
        windows = self.dreams.windows
        return self._compare(self._answers(logits(original, windows)), self._answers(logits(edited, windows)))

    def _answers(self, output: Tensor) -> Tensor:
        """Probabilities over the classes that stay: what the agent answers once the forget classes are masked."""
        output = output.clone()
        output[:, list(self.forget)] = -torch.inf
        return functional.softmax(output, dim=1)

    def _compare(self, before: Tensor, after: Tensor) -> list[ClassEvidence]:
        dreams, rows = self.dreams, []
        same = (before.argmax(1) == after.argmax(1)).float()
        border = dreams.second >= 0
        for label in range(before.shape[1]):
            inner = (dreams.first == label) & ~border
            edge = border & ((dreams.first == label) | (dreams.second == label))
            if label in self.forget or not inner.any():
                continue
            held = torch.minimum(after[edge, label], before[edge, label]).sum() / before[edge, label].sum()
            rows.append(ClassEvidence(label, same[inner].mean().item(), held.item() if edge.any() else 1.0))
        return rows


def prepare(
    dreams: Dreams, network: nn.Sequential, forget: tuple[int, ...], generator: torch.Generator
) -> tuple[Tensor, Evidence]:
    """What an edit of ``network`` is held by, windows (m, channels, length), and what judges it.

    Different dreams, each side with noisy copies of its typical ones.
    """
    anchors, proof = (with_noisy(side, network, generator) for side in anchors_and_evidence(dreams))
    return anchors.windows, Evidence(proof, forget)


def without(dreams: Dreams, forget: tuple[int, ...]) -> Dreams:
    """The dreams in which no forget class has a part."""
    gone = torch.tensor(forget)
    return dreams.pick(~(torch.isin(dreams.first, gone) | torch.isin(dreams.second, gone)))
