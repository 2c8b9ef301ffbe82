"""Negative gradient, alone and with its stop, on the toy network."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from benchmarks.methods import negative_gradient
from benchmarks.methods.common import forget_share
from benchmarks.task import carry_out
from tests.method_kit import task_of
from tests.model_fixtures import RATTLE, accuracy, looks, toy_network


def test_climbing_makes_the_class_unlikely_and_goes_on_for_all_its_epochs() -> None:
    seen: list[nn.Module] = []
    task = task_of(negative_gradient.METHOD, on_epoch=seen.append)
    network, _ = carry_out(negative_gradient.METHOD, task, negative_gradient.Settings(rate=1e-2, epochs=3))
    assert len(seen) == 3
    assert accuracy(network, RATTLE) < 0.05 < accuracy(toy_network(), RATTLE)


def test_with_the_stop_it_ends_at_the_first_step_after_which_no_forget_window_is_answered_with_the_class() -> None:
    task = task_of(negative_gradient.WITH_STOP)
    count = len(task.forget_windows)
    answers = looks(task.network, RATTLE)
    how = dataclasses.replace(negative_gradient.WITH_STOP.settings, rate=3e-4, batch=32)
    network, cost = carry_out(negative_gradient.WITH_STOP, task, how)
    shares = [look.float().mean().item() for look in torch.cat(answers).split(count)]
    assert len(shares) > 1  # else it would not tell the first from any
    assert shares[-1] == 0.0
    assert all(share > 0.0 for share in shares[:-1])
    assert cost.backward < how.epochs * count
    assert forget_share(network, task) == 0.0
