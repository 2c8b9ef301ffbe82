"""Probing: walk each forget window to where the original network first answers a class that stays (eq. 3-5).

The answer found there is the window's edit instruction. Notation as in ``core/pte.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from edge_agent.core.edit_settings import EditSettings
from edge_agent.core.networks import channel_std
from edge_agent.core.training import logits

AT_ONCE: Final = 16  # windows whose gradients are computed together
STEP_PER_RADIUS: Final = 2.5  # the steps of a rung together reach 2.5 radii, as is usual for projected ascent


@dataclass(frozen=True)
class Probes:
    """The edit instructions D_E.

    Attributes:
        windows: probed windows, float32 (n, channels, length).
        answers: y_edit, int64 (n,); never a forget class.
        epsilons: radius at which each window flipped, float32 (n,); 0 where it needed none, NaN where none flipped it.
    """

    windows: Tensor
    answers: Tensor
    epsilons: Tensor

    @property
    def flip_rate(self) -> float:
        """Share of the windows whose answer flipped; the others carry the runner-up class of f0."""
        return 1.0 - self.epsilons.isnan().float().mean().item()


def probe(
    network: nn.Sequential,
    windows: Tensor,
    forget: tuple[int, ...],
    settings: EditSettings,
    generator: torch.Generator,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Probes:
    """Probe float32 ``windows`` (n, channels, length), each up to its first flip (eq. 3-5)."""
    unit = channel_std(network)
    parts = []
    for start in range(0, len(windows), settings.batch):
        parts.append(_probe_batch(network, windows[start : start + settings.batch], unit, forget, settings, generator))
        on_batch(min(start + settings.batch, len(windows)), len(windows))
    return Probes(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _probe_batch(
    network: nn.Sequential,
    windows: Tensor,
    unit: Tensor,
    forget: tuple[int, ...],
    settings: EditSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    start = logits(network, windows)
    probed, answers = windows.clone(), start.argmax(1)
    epsilons = torch.full((len(windows),), torch.nan)
    epsilons[~is_in(answers, forget)] = 0.0
    for epsilon in settings.epsilons:
        for _restart in range(2):  # each radius is tried from two random starts
            left = epsilons.isnan().nonzero().squeeze(1)
            for index, point, answer in _climb(network, windows[left], epsilon * unit, forget, settings, generator):
                probed[left[index]], answers[left[index]] = point, answer
                epsilons[left[index]] = epsilon
    never = epsilons.isnan()
    answers[never] = masked(start[never], forget).argmax(1)
    return probed, answers, epsilons


def _climb(
    network: nn.Sequential,
    windows: Tensor,
    radius: Tensor,
    forget: tuple[int, ...],
    settings: EditSettings,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ascend inside the ball of ``radius``; yield (index, window, answer) of those that flip, and drop them."""
    active = torch.arange(len(windows))
    # Algorithm 1, line 4: normal noise, clipped to the ball.
    delta = torch.randn(windows.shape, generator=generator).clamp(-1, 1) * radius
    for step in range(settings.probe_steps + 1):
        if not len(active):
            return
        point = windows[active] + delta
        if step == settings.probe_steps:  # the last look asks for no way on
            answers, gradient = logits(network, point).argmax(1), torch.zeros_like(point)
        else:
            answers, gradient = _look(network, point, forget, by_sign=settings.probe_by_sign)
        flipped = ~is_in(answers, forget)
        if flipped.any():
            yield active[flipped], point[flipped], answers[flipped]
        stay = ~flipped
        move = gradient[stay].sign() * radius if settings.probe_by_sign else gradient[stay]
        delta = delta[stay] + move * (STEP_PER_RADIUS / settings.probe_steps)
        delta = torch.maximum(torch.minimum(delta, radius), -radius)
        active = active[stay]


def _look(network: nn.Sequential, points: Tensor, forget: tuple[int, ...], *, by_sign: bool) -> tuple[Tensor, Tensor]:
    """What the network answers to ``points``, and the gradient of the loss to climb.

    Some points at a time: their maps of every layer are in memory, 6 MiB a window at width 64.
    """
    answers, gradients = [], []
    for part in points.tensor_split(-(-len(points) // AT_ONCE)):
        point = part.detach().requires_grad_()
        output = network(point)
        answers.append(output.argmax(1))
        gradients.append(torch.autograd.grad(_ascent(output, forget, by_sign=by_sign), point)[0])
    return torch.cat(answers), torch.cat(gradients)


def _ascent(output: Tensor, forget: tuple[int, ...], *, by_sign: bool) -> Tensor:
    """The loss to climb: -log p(C_f), or with signs its log-odds.

    Both have the same gradient up to a positive factor, 1 - p(C_f) per window. On a confident model that factor
    underflows to 0, and the sign of 0 would move nothing.
    """
    stay = masked(output, forget).logsumexp(1)
    gone = output[:, list(forget)].logsumexp(1)
    return (stay - gone).sum() if by_sign else (output.logsumexp(1) - gone).sum()


def masked(output: Tensor, forget: tuple[int, ...]) -> Tensor:
    """Logits (n, K) with every forget class at minus infinity."""
    mask = torch.zeros(output.shape[1], dtype=torch.bool)
    mask[list(forget)] = True
    return output.masked_fill(mask, -torch.inf)


def is_in(answers: Tensor, forget: tuple[int, ...]) -> Tensor:
    """Whether each answer is a forget class."""
    return torch.isin(answers, torch.tensor(forget))


def still_known(output: Tensor, forget: tuple[int, ...]) -> Tensor:
    """Which windows, of logits (n, K), are answered with a forget class.

    Logits that are not numbers count as one: a network that diverged has forgotten nothing.
    """
    return is_in(output.argmax(1), forget) | output.isnan().any(1)


def known_share(output: Tensor, forget: tuple[int, ...]) -> float:
    """Share of such windows, in [0, 1]."""
    return still_known(output, forget).float().mean().item()
