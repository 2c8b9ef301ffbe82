"""What an edit did to the classes that stay, told from dreams and from what training left in the release's card.

The gateway holds no retained data. For each retained class the original network's answers on dreams of that class
are compared with the edited network's: the share of answers that stayed the same (typical, noisy and soft dreams),
the share of the class's probability that was kept (border dreams, which lie where harm shows first), and the share of
measured windows that would lose their answer if their margins fell as far as those of the dreams (``core.margins``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.dreams import Dreams, anchors_and_evidence, with_noisy
from edge_agent.core.margins import ClassMargins, Margins, margins_of
from edge_agent.core.training import logits


@dataclass(frozen=True)
class ClassEvidence:
    """One retained class; shares in [0, 1]."""

    label: int
    agreement: float  # of the answers to its dreams
    border_kept: float  # of its probability on its border dreams
    predicted_loss: float  # of its measured windows' answers
    named_before: float  # share of its dreams that the original answers with it
    named_after: float  # ... and the edited network
    margins_left: ClassMargins


@dataclass(frozen=True)
class Evidence:
    """Dreams that were not anchors, the classes to forget, and the margins of the release's own windows."""

    dreams: Dreams
    forget: tuple[int, ...]
    margins: Margins

    def watch(self, network: nn.Module, trunk: nn.Module, tau: float) -> Callable[[nn.Module], float]:
        """How far a tail has left the network, low is good; the trunk runs once.

        The mean divergence KL(before || after) over the dreams, among the classes that stay, at temperature ``tau``
        times ``tau`` squared. It tells states apart between which no dream changes its answer.
        """
        before = self._answers(logits(network, self.dreams.windows), tau)
        features = logits(trunk, self.dreams.windows)
        stay = [label for label in range(before.shape[1]) if label not in self.forget]

        def strayed(tail: nn.Module) -> float:
            after = self._answers(logits(tail, features), tau)
            pair = after[:, stay], before[:, stay]
            return functional.kl_div(*pair, reduction="batchmean", log_target=True).item() * tau**2

        return strayed

    def missing(self, classes: int) -> list[int]:
        """The retained ones of so many classes that no dream stands for: harm to them could not be seen."""
        there = set(self.dreams.first[self.dreams.second < 0].tolist())
        return [label for label in range(classes) if label not in {*self.forget, *there}]

    def compare(self, original: nn.Module, edited: nn.Module) -> list[ClassEvidence]:
        """One row for each retained class that has dreams."""
        windows = self.dreams.windows
        return self.compare_answers(logits(original, windows), logits(edited, windows))

    def compare_answers(self, before: Tensor, after: Tensor) -> list[ClassEvidence]:
        """The same, from logits float32 (m, K) on the dreams."""
        return self._compare(self._answers(before), self._answers(after))

    def _answers(self, output: Tensor, tau: float = 1.0) -> Tensor:
        """Log-probabilities over the classes that stay: what the agent answers once the forget classes are masked."""
        output = output / tau
        output[:, list(self.forget)] = -torch.inf
        return functional.log_softmax(output, dim=1)

    def _compare(self, before: Tensor, after: Tensor) -> list[ClassEvidence]:
        dreams, rows = self.dreams, []
        same = (before.argmax(1) == after.argmax(1)).float()
        border = dreams.second >= 0
        for label in range(before.shape[1]):
            inner = (dreams.first == label) & ~border
            edge = border & ((dreams.first == label) | (dreams.second == label))
            if label in self.forget or not inner.any():
                continue
            was, is_now = before[edge, label].exp(), after[edge, label].exp()
            held = (torch.minimum(was, is_now).sum() / was.sum()).item() if edge.any() else 1.0
            labels = dreams.first[inner].numpy()
            falls = margins_of(before[inner].numpy(), labels) - margins_of(after[inner].numpy(), labels)
            own = self.margins[label]
            rows.append(
                ClassEvidence(
                    label=label,
                    agreement=same[inner].mean().item(),
                    border_kept=held,
                    predicted_loss=own.predicted_loss(falls),
                    named_before=(before[inner].argmax(1) == label).float().mean().item(),
                    named_after=(after[inner].argmax(1) == label).float().mean().item(),
                    margins_left=own.after(falls),
                )
            )
        return rows


def prepare(
    dreams: Dreams, network: nn.Sequential, forget: tuple[int, ...], margins: Margins, generator: torch.Generator
) -> tuple[Tensor, Evidence]:
    """What an edit of ``network`` is held by, windows (m, channels, length), and what judges it.

    Different dreams, each side with noisy copies of its typical ones.
    """
    anchors, proof = (with_noisy(side, network, generator) for side in anchors_and_evidence(dreams))
    return anchors.windows, Evidence(proof, forget, margins)


def without(dreams: Dreams, forget: tuple[int, ...]) -> Dreams:
    """The dreams in which no forget class has a part."""
    gone = torch.tensor(forget)
    return dreams.pick(~(torch.isin(dreams.first, gone) | torch.isin(dreams.second, gone)))
