"""What tests of unlearning methods share: a task on the toy network, without dreams."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from benchmarks.task import Labelled, Method, Task, hand_over
from edge_agent.core.dreams import Dreams
from tests.model_fixtures import RATTLE, toy_network, windows_of


def task_of(method: Method[Any], **changes: Any) -> Task:
    """The toy network, to be made to forget RATTLE; ``changes`` are fields of the task."""
    windows = windows_of(RATTLE)
    pairs = Labelled(windows, torch.full((len(windows),), RATTLE))
    none = torch.empty(0, dtype=torch.long)
    dreams = Dreams(windows[:0], none, none, none.bool())
    return dataclasses.replace(hand_over(method, toy_network(), (RATTLE,), dreams, pairs, pairs, seed=0), **changes)
