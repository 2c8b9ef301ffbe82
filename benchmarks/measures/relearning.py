"""How soon the class comes back when training goes on: from a few of its windows, or from none.

A copy is fine-tuned with all weights free and batch norm frozen (in evaluation mode: nothing is random but the choice
of windows), by SGD with momentum 0.9, alike for every network. A class that is back in a few steps was only hidden
(Golatkar et al., CVPR 2020). The forget windows come without others, so that even a network that never saw the class
answers with it in the end: the figures say something only beside retrain's.

The constants were chosen on one CWRU case (inner race 0.007", one model, forget test windows), of rates 1e-3 and 3e-4:
at ``RATE`` a network that never saw the class needs about 15 steps and head surgery 2, so that ``STEPS`` leaves room
on either side of retrain. Retained windows are answered right already and take a greater rate to move anything: at
``RETAIN_RATE`` a pass brought two thirds of a shallowly relabelled class back; at ten times that it can ruin a network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measures.samples import answered, drawn, known, recall
from benchmarks.task import Labelled
from edge_agent.core.training import logits, step

RATE: Final = 3e-4
RETAIN_RATE: Final = 1e-3
MOMENTUM: Final = 0.9
COUNTS: Final = (1, 5, 10, 50)  # forget windows of each class
STEPS: Final = 15
DRAWS: Final = 3
MOST_STEPS: Final = 100
BATCH: Final = 64


def relearning_curve(
    network: nn.Sequential, forget_train: Labelled, forget_test: Labelled, generator: torch.Generator
) -> dict[int, float]:
    """Percent of the forget test windows answered right after ``STEPS`` steps on n windows, for n in ``COUNTS``.

    Each step sees all n windows of each class; the figure is the mean over ``DRAWS`` random draws of them.
    """
    curve = {}
    for count in COUNTS:
        accuracies = []
        for _draw in range(DRAWS):
            few = drawn(forget_train, count, generator)
            *_, learner = _fine_tuned(_unlocked(network), repeat((few.windows, few.labels), STEPS), RATE)
            accuracies.append(_accuracy(learner, forget_test))
        curve[count] = sum(accuracies) / DRAWS
    return curve


def steps_to_relearn(
    network: nn.Sequential, forget_train: Labelled, forget_test: Labelled, generator: torch.Generator
) -> int:
    """Steps on 50 windows until half of the forget test windows are answered right; ``MOST_STEPS`` if not before."""
    few = drawn(forget_train, COUNTS[-1], generator)
    if known(logits(network, forget_test.windows), forget_test.labels) >= 50.0:
        return 0
    learners = _fine_tuned(_unlocked(network), repeat((few.windows, few.labels), MOST_STEPS - 1), RATE)
    for steps, learner in enumerate(learners):
        if _accuracy(learner, forget_test) >= 50.0:
            return steps
    return MOST_STEPS


def relearned_on_retained(
    network: nn.Sequential, retain_train: Labelled, forget_test: Labelled, generator: torch.Generator
) -> float:
    """Percent of the forget test windows answered right after one pass over retained windows: back by itself."""
    *_, learner = _fine_tuned(network, retain_train.batches(BATCH, generator), RETAIN_RATE)
    return _accuracy(learner, forget_test)


def _fine_tuned(
    network: nn.Sequential, batches: Iterable[tuple[Tensor, Tensor]], rate: float
) -> Iterator[nn.Sequential]:
    """A copy of the network, as it is and then after each step; always the same copy."""
    learner = copy.deepcopy(network).eval().requires_grad_(True)
    optimiser = torch.optim.SGD(learner.parameters(), rate, MOMENTUM)
    yield learner
    for windows, labels in batches:
        step(optimiser, functional.cross_entropy(learner(windows), labels))
        yield learner


def _unlocked(network: nn.Sequential) -> nn.Sequential:
    """A copy in which a logit that was removed is there again, as a row of the head with a bias of 0.

    Removed is one with a bias of minus infinity, or with a row of zeros, whose bias can be any constant (see
    ``benchmarks.methods.head_surgery``). Its constant, not its depth, would hold the gradient up, and whoever wants the
    class back writes a new row first.
    """
    copied = copy.deepcopy(network)
    head = copied[-1]
    assert isinstance(head, nn.Linear), "a network ends in its head"
    with torch.no_grad():
        head.bias[(head.bias == -torch.inf) | (head.weight == 0.0).all(1)] = 0.0
    return copied


def with_new_row(network: nn.Sequential, forget: tuple[int, ...]) -> nn.Sequential:
    """A copy whose head has forgotten classes' rows made anew, alike for every network: the mean of those that stay.

    How far an edit has driven a row down then counts for nothing; what is left in the features alone brings a class
    back. The mean answers no window with the class, since another row is above it.
    """
    copied = copy.deepcopy(network)
    head = copied[-1]
    assert isinstance(head, nn.Linear), "a network ends in its head"
    gone = list(forget)
    stay = [label for label in range(head.out_features) if label not in forget]
    with torch.no_grad():
        head.weight[gone], head.bias[gone] = head.weight[stay].mean(0), head.bias[stay].mean()
    return copied


def _accuracy(network: nn.Sequential, pairs: Labelled) -> float:
    """Percent of right answers."""
    return recall(answered(logits(network, pairs.windows)), pairs.labels)
