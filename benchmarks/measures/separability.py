"""Whether the class can still be read from the penultimate features, by a probe of many windows and by one of few.

Editing only the head, or removing the class's logit, leaves the features as they were and shows here. Features of a
network that never saw a class may separate it as well: read both beside retrain.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measures.samples import drawn, recall
from benchmarks.task import Labelled
from edge_agent.core.training import logits

SHOTS: Final = 5  # windows of which a prototype is made, as in the code of Ha et al. 2025
DRAWS: Final = 10


def linear_probe(network: nn.Sequential, train: Labelled, forget_test: Labelled) -> float:
    """Recall of the forget classes, in percent, by a linear classifier of all classes (Alain and Bengio 2016).

    A K-way logistic regression on standardised features, rather than forget against the rest: the class has to be told
    from each of the others, as by a head. The loss is the mean over classes of a class's mean cross entropy, so that
    classes weigh the same, plus |W|^2 / 2n (scikit-learn's default strength). It is convex: the answer is unique.

    Args:
        train: training windows of all classes.
        forget_test: test windows of the forget classes.
    """
    seen, unseen = (logits(network[:-1], pairs.windows).double() for pairs in (train, forget_test))
    mean, std = seen.mean(0), seen.std(0).clamp_min(1e-8)  # a feature that is always 0 stays 0
    weight, bias = _logistic((seen - mean) / std, train.labels)
    return recall(((unseen - mean) / std @ weight.T + bias).argmax(1), forget_test.labels)


def _logistic(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (K, d) and bias (K,) for float64 features (n, d); K is one more than the greatest label."""
    counts = labels.bincount()
    balance = torch.where(counts > 0, 1.0 / counts.double(), 0.0)
    weight = torch.zeros(len(counts), features.shape[1], dtype=features.dtype, requires_grad=True)
    bias = torch.zeros(len(counts), dtype=features.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        loss = functional.cross_entropy(features @ weight.T + bias, labels, balance)
        loss = loss + weight.square().sum() / (2 * len(features))
        loss.backward()
        return loss.item()

    solver.step(closure)
    return weight.detach(), bias.detach()


def prototype_relearning(
    network: nn.Sequential,
    retain_train: Labelled,
    forget_train: Labelled,
    forget_test: Labelled,
    generator: torch.Generator,
) -> float:
    """Recall of the forget classes, in percent, once prototypes of ``SHOTS`` windows stand beside the others'.

    The prototypical relearning attack of Ha et al. 2025 (arXiv 2506.01318), by nearest prototype in cosine instead of
    a changed row of the head, so that neither the head's scale nor a mixing weight decides. The retained classes'
    prototypes are the means of all their windows; the figure is the mean over ``DRAWS`` random draws.
    """
    body = network[:-1]
    known, few, unseen = (logits(body, pairs.windows) for pairs in (retain_train, forget_train, forget_test))
    classes, means = _prototypes(Labelled(known, retain_train.labels))
    recalls = []
    for _draw in range(DRAWS):
        gone, added = _prototypes(drawn(Labelled(few, forget_train.labels), SHOTS, generator))
        directions = functional.normalize(torch.cat([means, added]))
        nearest = (functional.normalize(unseen) @ directions.T).argmax(1)
        recalls.append(recall(torch.cat([classes, gone])[nearest], forget_test.labels))
    return sum(recalls) / DRAWS


def _prototypes(features: Labelled) -> tuple[Tensor, Tensor]:
    """The classes (m,) there are, and the mean feature of each (m, d)."""
    classes = features.labels.unique()
    return classes, torch.stack([features.windows[features.labels == label].mean(0) for label in classes])
