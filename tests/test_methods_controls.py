"""The controls: that they hold what the shipped method holds, and end where they say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.methods import CONTROLS, controls
from benchmarks.methods.common import forget_share
from benchmarks.task import Method, carry_out
from tests.method_kit import task_of
from tests.model_fixtures import RATTLE, accuracy, changed_parts, toy_network

FAST: dict[str, dict[str, Any]] = {
    "delete_all_last_stage": {"rate": 1e-2},
    "pte_published_last_stage": {"push_rate": 3e-3, "pull_rate": 6e-3},
}


@pytest.mark.parametrize("method", CONTROLS.values(), ids=CONTROLS)
def test_a_control_forgets_by_its_last_stage_alone_and_leaves_its_norms(method: Method[Any]) -> None:
    before = toy_network()
    task = task_of(method)
    network, _ = carry_out(method, task, dataclasses.replace(method.settings, **FAST[method.name]))
    assert forget_share(network, task) == 0.0
    assert accuracy(before, RATTLE) > 0.9
    assert changed_parts(before, network) == {"stage4", "head"}
    statistics = dict(before.named_buffers())
    assert all(torch.equal(value, statistics[name]) for name, value in network.named_buffers())


def test_delete_ends_with_the_first_epoch_that_leaves_none_of_the_class_or_goes_on_if_it_is_told_to() -> None:
    method, shares = controls.DELETE_ALL, list[float]()
    how = dataclasses.replace(method.settings, rate=3e-3, epochs=8)

    def look(network: nn.Module) -> None:
        shares.append(forget_share(network, task))  # type: ignore[arg-type]

    for stop in (True, False):
        shares.clear()
        task = task_of(method, on_epoch=look)
        carry_out(method, task, dataclasses.replace(how, stop=stop))
        gone = shares.index(0.0) + 1
        assert 1 < gone < how.epochs  # else it would not tell an end from any
        assert len(shares) == (gone if stop else how.epochs)
