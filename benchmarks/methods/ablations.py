"""Probing then Editing with one thing changed at a time: table 4 of the paper, and the points that it leaves open.

``ablation_published_*`` change ``pte_published`` (all weights, no dreams), ``ablation_shipped_*`` change what ships. No
setting is searched. docs/decisions/0003-the-edit.md has the reason for each choice that is undone here.

What ``EditSettings`` can say is said there and runs through ``core.pte.edit``:

- without push, without pull: the rate of that step is 0. A shipped edit without pull has no anchors either;
- scope: the head, the last stage, or all weights;
- raw gradient: probes climb the gradient of eq. 4 itself, which is next to 0 where f0 is confident;
- without anchors, without consolidation: weight 0, no step after forgetting;
- anchors hold answers only: the term of the margins has at most ``anchor_tau`` as its gradient in a logit, so that at
  ``NO_MARGINS`` next to nothing is left of it.

The rest runs in ``_varied``: algorithm 1 once more, on the whole network, out of the parts of ``core``. With nothing
varied it is ``pte_published``, to the last bit.

- push then pull, pull then push: not in turn, but the first alone until the class is gone, or ``max_steps``; then as
  many steps of the second. The network after the last of them is returned. The paper does not say when it changes over;
- eq. 10: tau^2 KL(softmax(f / tau) || target), to the letter. It is infinite where the target is 0, on the forget
  class; the target is raised to ``FLOOR`` there;
- batch norm trained: batch statistics in every step, of which the running ones learn;
- past the boundary: probes go on to the end of one ball of ``PAST_RADIUS``, instead of stopping at the first flip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measures.robustness import pushed
from benchmarks.methods import pte as methods
from benchmarks.methods.common import forget_share, trainable
from benchmarks.task import Method, Task
from edge_agent.core.edit_settings import PUBLISHED, EditSettings
from edge_agent.core.probing import Probes, is_in, masked, probe
from edge_agent.core.pte import batches, pull_loss, pull_target
from edge_agent.core.training import logits, step

FLOOR: Final = 1e-8  # least probability of a target in eq. 10
PAST_RADIUS: Final = 0.5  # in channel standard deviations
NO_MARGINS: Final = 1e-3

Turn = Callable[[], None]  # changes the network once
Schedule = Callable[[Turn, Turn, Callable[[Turn], int]], None]  # of push, pull, and what repeats until forgotten
Find = Callable[[nn.Sequential, Tensor, tuple[int, ...], EditSettings, torch.Generator], Probes]


def alternating(push: Turn, pull: Turn, until_forgotten: Callable[[Turn], int]) -> None:
    """Algorithm 1: a push and a pull on each turn."""

    def both() -> None:
        push()
        pull()

    until_forgotten(both)


def push_then_pull(push: Turn, pull: Turn, until_forgotten: Callable[[Turn], int]) -> None:
    """All pushes, then as many pulls."""
    for _step in range(until_forgotten(push)):
        pull()


def pull_then_push(push: Turn, pull: Turn, until_forgotten: Callable[[Turn], int]) -> None:
    """All pulls, then as many pushes."""
    push_then_pull(pull, push, until_forgotten)


@dataclass(frozen=True)
class Variation:
    """What is done otherwise; the defaults are what ``core.pte.edit`` does."""

    schedule: Schedule = alternating
    find: Find = probe
    pull_loss: Callable[[Tensor, Tensor, float], Tensor] = pull_loss
    train_norms: bool = False


def reverse_pull_loss(output: Tensor, target: Tensor, tau: float) -> Tensor:
    """Eq. 10 of logits and probabilities, both (n, K): tau^2 KL(softmax(output / tau) || target), finite by a floor."""
    answer = functional.log_softmax(output / tau, 1)
    floored = target.clamp_min(FLOOR).log()
    return functional.kl_div(floored, answer, reduction="batchmean", log_target=True) * tau**2


def past_the_boundary(
    network: nn.Sequential,
    windows: Tensor,
    forget: tuple[int, ...],
    _settings: EditSettings,
    generator: torch.Generator,
) -> Probes:
    """Probes at the end of ten steps in one ball, however early they flipped; the arguments are those of ``probe``."""
    classes = logits(network, windows[:1]).shape[1]
    staying = tuple(label for label in range(classes) if label not in forget)
    points = pushed(network, windows, staying, PAST_RADIUS, generator)
    output = logits(network, points)
    flipped = ~is_in(output.argmax(1), forget)
    return Probes(points, masked(output, forget).argmax(1), torch.where(flipped, PAST_RADIUS, torch.nan))


def _varied(task: Task, settings: EditSettings, how: Variation) -> nn.Sequential:
    """Edit all weights in place, without dreams, until no forget window answers the class."""
    order = torch.randperm(len(task.forget_windows), generator=task.generator)
    windows = task.forget_windows.windows[order[max(1, round(settings.holdout * len(order))) :]]
    probes = how.find(task.network, windows, task.forget, settings, task.generator)
    target = pull_target(logits(task.network, windows), task.forget, settings.tau)
    network = trainable(task.network, train_norms=how.train_norms)
    pusher, puller = (
        torch.optim.SGD(network.parameters(), rate, settings.momentum)
        for rate in (settings.push_rate, settings.pull_rate)
    )
    probed, clean = (batches(len(windows), settings.batch, task.generator) for _side in range(2))
    pulls, pulls_per_epoch = count(1), -(-len(order) // settings.batch)

    def push() -> None:
        which = next(probed)
        step(pusher, functional.cross_entropy(network(probes.windows[which]), probes.answers[which]))

    def pull() -> None:
        which = next(clean)
        step(puller, how.pull_loss(network(windows[which]), target[which], settings.tau))
        if next(pulls) % pulls_per_epoch == 0:
            task.on_epoch(network)

    how.schedule(push, pull, partial(_until_forgotten, task, settings))
    return network


def _until_forgotten(task: Task, settings: EditSettings, turn: Turn) -> int:
    """Repeat ``turn`` as an edit does, and count: until the class is gone, then consolidate; the last such state stays.

    Every forget window counts, those that no step sees included.
    """
    number, end = 0, settings.max_steps
    gone: dict[str, Tensor] = {}
    while number < end:
        turn()
        number += 1
        if (number % settings.check_every == 0 or number == end) and forget_share(task.network, task) == 0.0:
            end = end if gone else min(end, number + settings.consolidation_steps)
            gone = {name: value.clone() for name, value in task.network.state_dict().items()}
    if gone:
        task.network.load_state_dict(gone)
    return number


def without_noisy_dreams(task: Task, settings: EditSettings) -> nn.Sequential:
    """The shipped edit with dreams of which none is marked as typical: only those have noisy copies."""
    unmarked = replace(task.dreams, typical=torch.zeros_like(task.dreams.typical))
    return methods.shipped(replace(task, dreams=unmarked), settings)


def _published(name: str, title: str, how: Variation | None = None, **changed: object) -> Method[EditSettings]:
    unlearn = methods.published if how is None else partial(_varied, how=how)
    settings = replace(PUBLISHED, **changed)  # type: ignore[arg-type]
    return Method(f"ablation_published_{name}", f"PTE, published, {title}", "forget", settings, {}, unlearn)


def _shipped(
    name: str,
    title: str,
    unlearn: Callable[[Task, EditSettings], nn.Sequential] = methods.shipped,
    **changed: object,
) -> Method[EditSettings]:
    settings = replace(EditSettings(), **changed)  # type: ignore[arg-type]
    return Method(f"ablation_shipped_{name}", f"PTE, shipped, {title}", "forget", settings, {}, unlearn)


OF_PUBLISHED: Final = (
    _published("without_push", "without push", push_rate=0.0),
    _published("without_pull", "without pull", pull_rate=0.0),
    _published("push_then_pull", "push, then pull", Variation(schedule=push_then_pull)),
    _published("pull_then_push", "pull, then push", Variation(schedule=pull_then_push)),
    _published("head", "head alone", scope="head"),
    _published("last_stage", "last stage", scope="last_stage"),
    _published("eq_10", "divergence of eq. 10", Variation(pull_loss=reverse_pull_loss)),
    _published("raw_gradient", "raw gradient of eq. 4", probe_by_sign=False),
    _published("norms_trained", "batch norm trained", Variation(train_norms=True)),
    _published("past_the_boundary", "probes past the boundary", Variation(find=past_the_boundary)),
)
OF_SHIPPED: Final = (
    _shipped("without_push", "without push", push_rate=0.0),
    _shipped("without_pull", "without pull and anchors", pull_rate=0.0),
    _shipped("head", "head alone", scope="head"),
    _shipped("all", "all weights", scope="all"),
    _shipped("without_anchors", "without anchors", anchor_weight=0.0),
    _shipped("answers_only", "anchors hold answers only", anchor_tau=NO_MARGINS),
    _shipped("without_views", "without views", views=0),
    _shipped("without_consolidation", "without consolidation", consolidation_steps=0),
    _shipped("without_noisy_dreams", "without noisy dreams", without_noisy_dreams),
)
