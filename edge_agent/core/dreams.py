"""Dreams: windows synthesised from a network alone, which stand in for the retained data a gateway does not have.

From noise, Adam minimises the cross entropy to a target answer y and the distance of each batch norm's input mean m and
variance v from its running statistics (the prior of DeepInversion, Yin et al., CVPR 2020), in the mean over the norms:

    CE(f(x), y) + 10 * mean over norms of (||m - running mean|| + ||v - running variance||)

DeepInversion sums over the norms, and adds total variation and length, which are about pictures. Weight, steps and rate
were set by hand. A batch holds all classes evenly, because the running statistics are those of all classes together.

Kinds: *typical* (one class), *soft* (70 % one class, the rest even), *border* (55/45 between two classes), and
*noisy* (a typical dream plus noise of half a standard deviation, made on demand).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.networks import channel_std
from edge_agent.core.training import step

STEPS: Final = 150
RATE: Final = 0.05
PRIOR_WEIGHT: Final = 10.0
NOISE_STD: Final = 0.5  # of a channel's standard deviation
EVIDENCE_EVERY: Final = 3  # every third dream is evidence, the others are anchors


@dataclass(frozen=True)
class DreamSettings:
    """How many dreams of each kind, per class."""

    typical: int = 16
    soft: int = 8
    border: int = 12  # each counts for two classes
    batch: int = 128


DEFAULT: Final = DreamSettings()


@dataclass(frozen=True)
class Dreams:
    """Windows float32 (n, channels, length) in the sensor's unit, and whose they are, int64 (n,).

    ``second`` is the other class of a border dream, else -1; ``typical`` marks the dreams with a one-class target.
    """

    windows: Tensor
    first: Tensor
    second: Tensor
    typical: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def pick(self, which: Tensor) -> Dreams:
        """Those that a mask (n,) or indices name."""
        return Dreams(self.windows[which], self.first[which], self.second[which], self.typical[which])


def dream(
    network: nn.Sequential,
    classes: int,
    shape: tuple[int, int],
    settings: DreamSettings,
    generator: torch.Generator,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Dreams:
    """Dream windows of ``shape`` (channels, length) for every class of ``network``."""
    first, second, target = _targets(classes, settings, generator)
    typical = target.max(1).values == 1.0
    order = torch.randperm(len(first), generator=generator)  # every batch holds all classes, and none is a small rest
    batches = order.tensor_split(-(-len(order) // settings.batch))
    windows = torch.empty(len(first), *shape)
    for done, batch in enumerate(batches):

        def report(step: int, done: int = done) -> None:
            on_step(done * STEPS + step, len(batches) * STEPS)

        windows[batch] = _synthesise(network, target[batch], shape, generator, report)
    return Dreams(windows, first, second, typical)


def noisy(dreams: Dreams, network: nn.Sequential, generator: torch.Generator) -> Dreams:
    """The typical dreams once more, each with noise of half a channel's standard deviation."""
    chosen = dreams.pick(dreams.typical)
    noise = torch.randn(chosen.windows.shape, generator=generator) * channel_std(network) * NOISE_STD
    return Dreams(chosen.windows + noise, chosen.first, chosen.second, torch.zeros_like(chosen.typical))


def with_noisy(dreams: Dreams, network: nn.Sequential, generator: torch.Generator) -> Dreams:
    """The dreams and the noisy copies of the typical ones."""
    return joined((dreams, noisy(dreams, network, generator)))


def joined(parts: tuple[Dreams, ...]) -> Dreams:
    """Several sets as one."""
    return Dreams(
        torch.cat([part.windows for part in parts]),
        torch.cat([part.first for part in parts]),
        torch.cat([part.second for part in parts]),
        torch.cat([part.typical for part in parts]),
    )


def anchors_and_evidence(dreams: Dreams) -> tuple[Dreams, Dreams]:
    """Split, so that what holds an edit back is never what judges it. Every kind and class falls on both sides."""
    turn = torch.arange(len(dreams)) % EVIDENCE_EVERY == 0
    return dreams.pick(~turn), dreams.pick(turn)


def _targets(classes: int, settings: DreamSettings, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    first, second, rows = [], [], []
    eye = torch.eye(classes)
    for label in range(classes):
        soft = torch.full((classes,), 0.3 / (classes - 1))
        soft[label] = 0.7
        others = torch.tensor([other for other in range(classes) if other != label])
        partners = others[torch.randperm(len(others), generator=generator)].repeat(settings.border)[: settings.border]
        first += [label] * (settings.typical + settings.soft + settings.border)
        second += [-1] * (settings.typical + settings.soft) + partners.tolist()
        rows += [eye[label]] * settings.typical + [soft] * settings.soft
        rows += [0.55 * eye[label] + 0.45 * eye[partner] for partner in partners.tolist()]
    return torch.tensor(first), torch.tensor(second), torch.stack(rows)


def _synthesise(
    network: nn.Sequential,
    target: Tensor,
    shape: tuple[int, int],
    generator: torch.Generator,
    on_step: Callable[[int], None],
) -> Tensor:
    """Windows (n, *shape) that ``network`` answers with ``target`` (n, classes)."""
    network.eval().requires_grad_(False)
    body = network[1:]  # dreams live in standardised units: the normalisation is left out
    points = torch.randn(len(target), *shape, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([points], RATE)
    distances: list[Tensor] = []

    def keep_distance(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        assert isinstance(module, nn.BatchNorm1d)
        assert module.running_mean is not None
        assert module.running_var is not None
        mean, variance = inputs[0].mean(dim=(0, 2)), inputs[0].var(dim=(0, 2), unbiased=False)
        distances.append((mean - module.running_mean).norm() + (variance - module.running_var).norm())

    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm1d)]
    hooks = [module.register_forward_hook(keep_distance) for module in norms]
    for done in range(1, STEPS + 1):
        distances.clear()
        loss = functional.cross_entropy(body(points), target)
        if distances:
            loss = loss + PRIOR_WEIGHT * torch.stack(distances).mean()
        step(optimiser, loss)
        on_step(done)
    for hook in hooks:
        hook.remove()
    normalise = network[0]
    return points.detach() * normalise.std + normalise.mean  # type: ignore[operator]
