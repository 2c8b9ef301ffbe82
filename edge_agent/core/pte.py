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
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.descent import Descent, Term
from edge_agent.core.edit_settings import EditSettings
from edge_agent.core.evidence import Evidence
from edge_agent.core.networks import channel_std, cut
from edge_agent.core.probing import known_share, masked, probe
from edge_agent.core.training import AT_ONCE, logits


@dataclass(frozen=True)
class Step:
    """What one push and pull measured. Shares are those of windows that still answer a forget class."""

    number: int
    push_loss: float
    pull_loss: float
    anchor_loss: float
    forget_share: float  # as of the last look, every ``check_every`` steps at most
    holdout_share: float
    strayed: float | None = None  # evidence: divergence from f0 on dreams that are no anchors, where it was looked at


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
        evidence: other dreams of the classes that stay; of the states that have forgotten the one is kept that left f0
            least on them.
    """
    network.eval().requires_grad_(False)
    at = cut(network, settings.scope)
    trunk, tail = network[:at], network[at:]
    task, flip_rate = _prepared(network, trunk, windows, forget, settings, generator, on_probe)
    if anchors is not None and len(anchors) and settings.anchor_weight > 0:
        task.anchors = _Anchors.of(logits(trunk, anchors), logits(network, anchors), forget, settings)
    watch = evidence.watch(network, trunk, settings.anchor_tau) if evidence is not None else None
    forgotten, chosen, trace = _run(tail.requires_grad_(True), task, watch, generator, on_step)
    network.requires_grad_(False)
    flipped_to = torch.bincount(task.answers, minlength=int(task.target.shape[1])).tolist()
    return Edit(
        forgotten=forgotten,
        steps=len(trace),
        chosen_step=chosen,
        flip_rate=flip_rate,
        flipped_to={label: count for label, count in enumerate(flipped_to) if count},
        trace=tuple(trace),
    )


def _prepared(
    network: nn.Sequential,
    trunk: nn.Module,
    windows: Tensor,
    forget: tuple[int, ...],
    settings: EditSettings,
    generator: torch.Generator,
    on_probe: Callable[[int, int], None],
) -> tuple[_Task, float]:
    """What the steps read, and the share of windows whose answer flipped. Of the windows only features stay."""
    order = torch.randperm(len(windows), generator=generator)
    held = max(1, round(settings.holdout * len(windows)))
    holdout, windows = windows[order[:held]], windows[order[held:]]
    probes = probe(network, windows, forget, settings, generator, on_probe)
    task = _Task(
        forget=forget,
        settings=settings,
        clean=logits(trunk, windows),
        target=_target(network, windows, forget, settings, generator),
        probes=logits(trunk, probes.windows),
        answers=probes.answers,
        holdout=logits(trunk, holdout),
    )
    return task, probes.flip_rate


def _target(
    network: nn.Sequential,
    windows: Tensor,
    forget: tuple[int, ...],
    settings: EditSettings,
    generator: torch.Generator,
) -> Tensor:
    """The pull target of each window, averaged over its views: itself, and copies rolled in time and with noise.

    f0 is surer of a window that it was trained on than a network can be that never saw the class.
    """
    total = pull_target(logits(network, windows), forget, settings.tau)
    noise_std = channel_std(network) * settings.view_noise
    for _ in range(settings.views):
        shift = int(torch.randint(windows.shape[-1], (1,), generator=generator))
        view = torch.randn(windows.shape, generator=generator).mul_(noise_std)
        for part, of in zip(view.split(AT_ONCE), windows.split(AT_ONCE), strict=True):
            part.add_(of.roll(shift, dims=-1))  # not all rolled at once: windows are most of the memory
        total += pull_target(logits(network, view), forget, settings.tau)
    return total / (1 + settings.views)


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
    anchors: _Anchors | None = None

    def push_loss(self, tail: nn.Module, batch: Tensor) -> Tensor:
        """Cross entropy to the edit instructions."""
        return functional.cross_entropy(tail(self.probes[batch]), self.answers[batch])

    def pull_loss(self, tail: nn.Module, batch: Tensor) -> Tensor:
        """Divergence from the masked answers of f0."""
        return pull_loss(tail(self.clean[batch]), self.target[batch], self.settings.tau)


@dataclass(frozen=True)
class _Anchors:
    """Dreams of the classes that stay, as trunk features, and what f0 answers to them.

    A dream is answered with confidence, so its answer alone holds little: its margin could melt from ten to three at
    no cost, and measured windows near the border would flip. At a high temperature the margins count as well.
    """

    features: Tensor
    answers: Tensor  # of f0, masked, at temperature tau: (m, K)
    margins: Tensor  # of f0 among the classes that stay, at temperature anchor_tau: (m, classes that stay)
    stay: list[int]

    @classmethod
    def of(cls, features: Tensor, output: Tensor, forget: tuple[int, ...], settings: EditSettings) -> _Anchors:
        """From trunk features and the logits of f0."""
        stay = [label for label in range(output.shape[1]) if label not in forget]
        margins = functional.softmax(output[:, stay] / settings.anchor_tau, dim=1)
        return cls(features, pull_target(output, forget, settings.tau), margins, stay)

    def loss(self, tail: nn.Module, settings: EditSettings, generator: torch.Generator) -> Tensor:
        """How far ``tail`` has left f0 on a random batch."""
        pick = torch.randperm(len(self.features), generator=generator)[: settings.anchor_batch]
        output = tail(self.features[pick])
        margins = pull_loss(output[:, self.stay], self.margins[pick], settings.anchor_tau)
        return pull_loss(output, self.answers[pick], settings.tau) + margins


def _run(
    tail: nn.Module,
    task: _Task,
    watch: Callable[[nn.Module], float] | None,
    generator: torch.Generator,
    on_step: Callable[[Step], None],
) -> tuple[bool, int, list[Step]]:
    """Push and pull until the class is gone, then consolidate; leave the best state in ``tail``."""
    settings = task.settings
    steps = _steps(tail, task, generator)
    best: tuple[float, int, dict[str, Tensor]] | None = None
    trace: list[Step] = []
    shares, end = (1.0, 1.0), settings.max_steps
    while len(trace) < end:
        losses, strayed, number = next(steps), None, len(trace) + 1
        if number % settings.check_every == 0 or number == end:
            strayed = watch(tail) if watch is not None else 0.0
            # A state that has left f0 further than one that is kept already need not be asked about every window.
            if best is None or strayed <= best[0]:
                shares = _share(tail, task.clean, task.forget), _share(tail, task.holdout, task.forget)
                if shares == (0.0, 0.0):
                    if best is None:
                        end = min(end, number + settings.consolidation_steps)
                    best = strayed, number, {name: value.clone() for name, value in tail.state_dict().items()}
        trace.append(Step(number, *losses, *shares, strayed=strayed if watch is not None else None))
        on_step(trace[-1])
    if best is not None:
        tail.load_state_dict(best[2])
        return True, best[1], trace
    return False, len(trace), trace


def _steps(tail: nn.Module, task: _Task, generator: torch.Generator) -> Iterator[tuple[float, float, float]]:
    """Algorithm 1, lines 14-24: a push and a pull on each turn; the losses of push, pull and anchors before them."""
    settings = task.settings
    push, pull = (Descent(tail, rate, settings.momentum) for rate in (settings.push_rate, settings.pull_rate))
    probes = batches(len(task.probes), settings.batch, generator)
    windows = batches(len(task.clean), settings.batch, generator)
    while True:
        (push_loss,) = push.step((1.0, partial(task.push_loss, tail, next(probes))))
        terms: list[Term] = [(1.0, partial(task.pull_loss, tail, next(windows)))]
        if task.anchors is not None:
            terms.append((settings.anchor_weight, partial(task.anchors.loss, tail, settings, generator)))
        loss, *anchor_losses = pull.step(*terms)
        yield push_loss, loss, sum(anchor_losses)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Mini-batches of indices for ever, a new order each epoch."""
    while True:
        yield from torch.randperm(count, generator=generator).split(size)


def _share(tail: nn.Module, features: Tensor, forget: tuple[int, ...]) -> float:
    return known_share(logits(tail, features), forget)
