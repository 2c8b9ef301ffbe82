"""Probing then Editing: make a network forget classes from their own windows alone (Chen et al., arXiv 2511.09414).

Probing (eq. 3-5) walks each forget window to the first point where the original network answers a class that stays,
and keeps that answer as its edit instruction. Editing (algorithm 1) alternates, per mini-batch, a push step (cross
entropy to the instruction, on the probe) and a pull step (masked distillation of the original network, on the window).

Where the paper is silent or contradicts itself, docs/decisions/0003-the-edit.md says what is done here and why:
the direction of the divergence, masking of logits, the ladder of epsilons, the stop at the first flip, frozen batch
norm, the edit scope, the anchors, and when to stop.

Notation: f0 the original network, f the edited one, C_f the forget classes, n windows, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.evidence import Evidence
from edge_agent.core.networks import EditScope, channel_std, cut
from edge_agent.core.training import logits

STEP_PER_RADIUS: Final = 2.5  # the steps of a rung together reach 2.5 radii, as is usual for projected ascent


@dataclass(frozen=True)
class EditSettings:
    """How to edit. The defaults are the method that ships; ``PUBLISHED`` is the paper's."""

    scope: EditScope = "last_stage"
    tau: float = 1.0  # distillation temperature
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)  # radii of the probing ball, in channel standard deviations
    probe_steps: int = 10  # ascent steps per radius
    probe_by_sign: bool = True  # False: the raw gradient of eq. 4
    batch: int = 64  # windows per mini-batch
    push_rate: float = 3e-4
    pull_rate: float = 3e-4
    momentum: float = 0.9
    anchor_weight: float = 5.0  # weight of the dreams in the pull; 0 switches them off
    anchor_batch: int = 128  # dreams per pull step
    holdout: float = 0.1  # share of the forget windows that only watches
    consolidation_steps: int = 40  # steps after the class is gone
    max_steps: int = 240
    check_every: int = 4  # steps between looks at the evidence


PUBLISHED: Final = EditSettings(scope="all", anchor_weight=0.0, consolidation_steps=0)


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


@dataclass(frozen=True)
class Step:
    """What one push and pull measured. Shares are those of windows that still answer a forget class."""

    number: int
    push_loss: float
    pull_loss: float
    anchor_loss: float
    forget_share: float
    holdout_share: float
    worst_kept: float | None = None  # evidence: the worst retained class, where it was looked at


@dataclass(frozen=True)
class Edit:
    """An edit's outcome: the network was changed in place to the best state that had forgotten.

    ``forgotten`` is False if the step budget ended first; the network then is in its last state.
    """

    forgotten: bool
    steps: int
    chosen_step: int
    flip_rate: float
    flipped_to: dict[int, int]
    trace: tuple[Step, ...]


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
    epsilons[~_is_in(answers, forget)] = 0.0
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
        point = (windows[active] + delta).requires_grad_()
        output = network(point)
        answers = output.argmax(1)
        flipped = ~_is_in(answers, forget)
        if flipped.any():
            yield active[flipped], point.detach()[flipped], answers[flipped]
        if step == settings.probe_steps:
            return
        gradient = torch.autograd.grad(_ascent(output, forget, by_sign=settings.probe_by_sign), point)[0]
        stay = ~flipped
        move = gradient[stay].sign() * radius if settings.probe_by_sign else gradient[stay]
        delta = delta[stay] + move * (STEP_PER_RADIUS / settings.probe_steps)
        delta = torch.maximum(torch.minimum(delta, radius), -radius)
        active = active[stay]


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


def pull_target(output: Tensor, forget: tuple[int, ...], tau: float) -> Tensor:
    """The target of eq. 7-9, float32 (n, K): the softmax of masked logits.

    Masking probabilities and dividing, as eq. 9 is written, is 0/0 once p_u is 1 in floating point.
    """
    return functional.softmax(masked(output.float(), forget) / tau, dim=1)


def pull_loss(output: Tensor, target: Tensor, tau: float) -> Tensor:
    """tau^2 KL(target || softmax(output / tau)), the mean over the batch, as algorithm 1 line 22 has it."""
    return functional.kl_div(functional.log_softmax(output / tau, 1), target, reduction="batchmean") * tau**2


def edit(
    network: nn.Sequential,
    windows: Tensor,
    forget: tuple[int, ...],
    settings: EditSettings,
    generator: torch.Generator,
    anchors: Tensor | None = None,
    evidence: Evidence | None = None,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Edit:
    """Make ``network`` forget, in place.

    Args:
        network: f0 on entry; put into evaluation mode, so that batch-norm statistics stay as they are.
        windows: the forget windows D_f of all forget classes, float32 (n, channels, length), n >= 2.
        forget: the forget classes' indices C_f.
        anchors: dreams of the classes that stay, float32 (m, channels, length).
        evidence: other dreams of the classes that stay; decides which state that has forgotten is kept.
    """
    network.eval().requires_grad_(False)
    order = torch.randperm(len(windows), generator=generator)
    held = max(1, round(settings.holdout * len(windows)))
    holdout, windows = windows[order[:held]], windows[order[held:]]
    probes = probe(network, windows, forget, settings, generator, on_probe)

    at = cut(network, settings.scope)
    trunk, tail = network[:at], network[at:]
    task = _Task(
        forget=forget,
        settings=settings,
        clean=_features(trunk, windows),
        target=pull_target(logits(network, windows), forget, settings.tau),
        probes=_features(trunk, probes.windows),
        answers=probes.answers,
        holdout=_features(trunk, holdout),
    )
    if anchors is not None and len(anchors) and settings.anchor_weight > 0:
        task.anchors = _features(trunk, anchors)
        task.anchor_target = pull_target(logits(network, anchors), forget, settings.tau)
    watch = evidence.watch(network, trunk) if evidence is not None else None
    forgotten, chosen, trace = _run(tail.requires_grad_(True), task, watch, generator, on_step)
    network.requires_grad_(False)
    flipped_to = torch.bincount(probes.answers, minlength=int(task.target.shape[1])).tolist()
    return Edit(
        forgotten=forgotten,
        steps=len(trace),
        chosen_step=chosen,
        flip_rate=probes.flip_rate,
        flipped_to={label: count for label, count in enumerate(flipped_to) if count},
        trace=tuple(trace),
    )


@dataclass
class _Task:
    """Everything the steps read, as trunk features: the trunk is frozen, so they are computed once."""

    forget: tuple[int, ...]
    settings: EditSettings
    clean: Tensor
    target: Tensor
    probes: Tensor
    answers: Tensor
    holdout: Tensor
    anchors: Tensor | None = None
    anchor_target: Tensor | None = None


def _run(
    tail: nn.Module,
    task: _Task,
    watch: Callable[[nn.Module], float] | None,
    generator: torch.Generator,
    on_step: Callable[[Step], None],
) -> tuple[bool, int, list[Step]]:
    """Push and pull until the class is gone, then consolidate; leave the best state in ``tail``."""
    settings = task.settings
    push = torch.optim.SGD(tail.parameters(), settings.push_rate, settings.momentum)
    pull = torch.optim.SGD(tail.parameters(), settings.pull_rate, settings.momentum)
    probe_batches = _batches(len(task.probes), settings.batch, generator)
    clean_batches = _batches(len(task.clean), settings.batch, generator)
    best: tuple[float, int, dict[str, Tensor]] | None = None
    trace: list[Step] = []
    gone_at: int | None = None
    for number in range(1, settings.max_steps + 1):
        batch = next(probe_batches)
        push_loss = functional.cross_entropy(tail(task.probes[batch]), task.answers[batch])
        _descend(push, push_loss)
        batch = next(clean_batches)
        loss = pull_loss(tail(task.clean[batch]), task.target[batch], settings.tau)
        anchor_loss = _anchor_loss(tail, task, generator)
        _descend(pull, loss + settings.anchor_weight * anchor_loss)

        forget_share = _share(tail, task.clean, task.forget)
        holdout_share = _share(tail, task.holdout, task.forget)
        gone = forget_share == 0.0 and holdout_share == 0.0
        if gone and gone_at is None:
            gone_at = number
        last = number == settings.max_steps or (
            gone_at is not None and number >= gone_at + settings.consolidation_steps
        )
        kept = None
        if gone and (last or number == gone_at or number % settings.check_every == 0):
            kept = watch(tail) if watch is not None else 0.0
            if best is None or kept >= best[0]:
                best = kept, number, {name: value.clone() for name, value in tail.state_dict().items()}
        values = push_loss.item(), loss.item(), anchor_loss.item(), forget_share, holdout_share
        trace.append(Step(number, *values, worst_kept=kept if watch is not None else None))
        on_step(trace[-1])
        if last:
            break
    if best is not None:
        tail.load_state_dict(best[2])
        return True, best[1], trace
    return False, len(trace), trace


def _anchor_loss(tail: nn.Module, task: _Task, generator: torch.Generator) -> Tensor:
    if task.anchors is None or task.anchor_target is None:
        return torch.zeros(())
    pick = torch.randperm(len(task.anchors), generator=generator)[: task.settings.anchor_batch]
    return pull_loss(tail(task.anchors[pick]), task.anchor_target[pick], task.settings.tau)


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Mini-batches of indices for ever, a new order each epoch."""
    while True:
        yield from torch.randperm(count, generator=generator).split(size)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


@torch.no_grad()
def _share(tail: nn.Module, features: Tensor, forget: tuple[int, ...]) -> float:
    return _is_in(tail(features).argmax(1), forget).float().mean().item()


@torch.no_grad()
def _features(trunk: nn.Module, windows: Tensor, batch: int = 256) -> Tensor:
    return torch.cat([trunk(part) for part in windows.split(batch)])


def _is_in(answers: Tensor, forget: tuple[int, ...]) -> Tensor:
    return torch.isin(answers, torch.tensor(forget))
