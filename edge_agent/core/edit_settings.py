"""How to probe and edit: the defaults are the method that ships, ``PUBLISHED`` is the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_agent.core.networks import EditScope


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
    pull_rate: float = 1.2e-3
    momentum: float = 0.9
    views: int = 6  # shifted, noisy copies of a window whose answers are averaged into its pull target
    view_noise: float = 0.15  # of a copy, in channel standard deviations
    anchor_weight: float = 30.0  # weight of the dreams in the pull; 0 switches them off
    anchor_batch: int = 128  # dreams per pull step
    anchor_tau: float = 4.0  # temperature at which the dreams also hold the margins between the classes that stay
    holdout: float = 0.1  # share of the forget windows that only watches
    consolidation_steps: int = 200  # steps after the class is gone
    max_steps: int = 480
    check_every: int = 4  # steps between looks at the evidence


PUBLISHED: Final = EditSettings(scope="all", pull_rate=3e-4, views=0, anchor_weight=0.0, consolidation_steps=0)
