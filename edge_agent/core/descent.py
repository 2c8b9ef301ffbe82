"""Gradient descent with momentum, by the arithmetic of ``torch.optim.SGD`` without its class.

The class imports torch's compiler when it is first made, 70 MiB and a second of CPU that a forget job has no use for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

Term: TypeAlias = tuple[float, Callable[[], Tensor]]  # a weight, and a loss


class Descent:
    """Moves the parameters of ``network`` down losses.

    Args:
        rate: learning rate.
        momentum: share of the step before that is added to the next.
    """

    def __init__(self, network: nn.Module, rate: float, momentum: float) -> None:
        self._parameters: list[Tensor] = list(network.parameters())
        self._rate, self._momentum = rate, momentum
        self._steps: list[Tensor | None] = [None] * len(self._parameters)

    def step(self, *terms: Term) -> list[float]:
        """One step down the weighted sum of losses, in each of which every parameter takes part; returns the losses.

        A loss is computed when its turn comes, so that only one of their graphs is in memory.
        """
        values, total = [], list[Tensor]()
        for weight, loss in terms:
            value = loss()
            values.append(value.item())
            gradients = torch.autograd.grad(weight * value, self._parameters)
            total = [one.add_(more) for one, more in zip(total, gradients, strict=True)] if total else list(gradients)
        with torch.no_grad():
            sgd(
                self._parameters, total, self._steps,
                lr=self._rate, momentum=self._momentum,
                weight_decay=0.0, dampening=0.0, nesterov=False, maximize=False, foreach=False,
            )  # fmt: skip
        return values
