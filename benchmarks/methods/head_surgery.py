"""Head surgery: the class's logit is removed, nothing is forgotten. The reference that costs nothing.

The forget class's row of the head becomes 0 and its bias ``LOGIT``, a constant that lies below every other logit, so
that its probability is 0 in float32 and the other answers do not change. All that f0 knew of the class is still in its
features: whatever claims to forget has to go deeper than this.

``LOGIT`` is finite: with minus infinity, cross entropy and divergences turn into infinity or NaN, and quantisers find
no scale. -1e4 is within float16, and no logit of a window that a sensor could send comes near it. A row of zeros rounds
to zeros at any number of bits. Two things to know. An 8-bit scale over the *logits* would be spent on this constant, so
they must stay in floating point, as they do where weights alone are quantised. And training that wants the class back
meets the constant, not depth: the measures that relearn from forget windows know a removed logit by its row of zeros
and lift it first. Retained windows only ever press a logit down, so relearning on them leaves it as it is: 0 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from benchmarks.task import Method, Task

LOGIT: Final = -1e4


@dataclass(frozen=True)
class Settings:
    """Nothing to set."""


def unlearn(task: Task, _settings: Settings) -> nn.Sequential:
    """Remove the rows of the forget classes, in place."""
    head, rows = task.network[-1], list(task.forget)
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight[rows] = 0.0
        head.bias[rows] = LOGIT
    return task.network


METHOD: Final = Method("head_surgery", "Head surgery", "none", Settings(), {}, unlearn)
