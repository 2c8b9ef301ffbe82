"""The methods that use the retain set, on the toy network."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.methods import finetune, gradient_difference, salun, scrub, sure
from benchmarks.task import Cost, Labelled, Method, Task, carry_out, hand_over
from edge_agent.core.dreams import Dreams
from tests.model_fixtures import CLASSES, RATTLE, SHAPE, accuracy, tensors, toy_data, toy_network

METHODS: tuple[Method[Any], ...] = tuple(
    module.METHOD for module in (finetune, gradient_difference, scrub, salun, sure)
)
NOBODY = torch.empty(0, dtype=torch.int64)
NO_DREAMS = Dreams(torch.empty(0, *SHAPE), NOBODY, NOBODY, NOBODY.bool())  # none of these methods reads them
STAYING = tuple(label for label in range(CLASSES) if label != RATTLE)
named = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)

# What forgets on the toy network, which has a tenth of a real task's windows and so of its steps per epoch.
FORGETTING: dict[str, dict[str, Any]] = {
    "gradient_difference": {},
    "scrub": {"train_norms": False},
    "salun": {},
    "sure": {"train_norms": False, "rate": 1e-3, "reversal": 0.3, "epochs": 20, "batch": 32},
}


@cache
def sides() -> tuple[Labelled, Labelled]:
    """Training windows of the forget class and of the others."""
    pairs = Labelled(*tensors(toy_data().train))
    gone = pairs.labels == RATTLE
    return pairs.pick(gone), pairs.pick(~gone)


def task_of(method: Method[Any], **changes: Any) -> Task:
    task = hand_over(method, toy_network(), (RATTLE,), NO_DREAMS, *sides(), seed=0)
    return dataclasses.replace(task, **changes)


def unlearnt(method: Method[Any], task: Task | None = None, **changes: Any) -> tuple[nn.Sequential, Cost]:
    chosen = dataclasses.replace(method.settings, **changes)
    return carry_out(method, task_of(method) if task is None else task, chosen)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


@named
def test_the_method_asks_for_both_sides_and_its_candidates_are_settings(method: Method[Any]) -> None:
    assert method.needs == "retain"
    for name, candidates in method.search.items():
        default = getattr(method.settings, name)
        for candidate in candidates:
            assert type(candidate) is type(default)
            assert getattr(dataclasses.replace(method.settings, **{name: candidate}), name) == candidate
        assert default in candidates


@named
def test_all_randomness_comes_from_the_task(method: Method[Any]) -> None:
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(unlearnt(method, epochs=1)[0])
    assert same(*networks)
    assert not same(networks[0], toy_network())


@named
def test_the_network_is_shown_after_each_epoch(method: Method[Any]) -> None:
    shown: list[nn.Module] = []
    network, _ = unlearnt(method, task_of(method, on_epoch=shown.append), epochs=2)
    assert shown == [network, network]


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_the_class_is_forgotten_and_the_others_stay(method: Method[Any]) -> None:
    network, _ = unlearnt(method, **FORGETTING[method.name])
    assert accuracy(network, RATTLE) < 0.1
    assert accuracy(network, *STAYING) > 0.9


def test_finetune_never_reads_a_forget_window() -> None:
    with_them, _ = unlearnt(finetune.METHOD, epochs=1)
    without, _ = unlearnt(finetune.METHOD, task_of(finetune.METHOD, forget_set=None), epochs=1)
    assert same(with_them, without)


def test_finetune_keeps_the_class_that_it_was_to_forget() -> None:
    network, _ = unlearnt(finetune.METHOD, rate=1e-3)
    assert accuracy(network, RATTLE) > 0.5
    assert accuracy(network, *STAYING) > 0.95


def test_gradient_difference_forgets_by_its_weight_on_the_forget_set() -> None:
    network, _ = unlearnt(gradient_difference.METHOD, retain_weight=1.0, rate=1e-3, epochs=5)
    assert accuracy(network, RATTLE) > 0.5


def test_scrub_forgets_by_its_max_steps() -> None:
    network, _ = unlearnt(scrub.METHOD, max_epochs=0, train_norms=False)
    assert accuracy(network, RATTLE) > 0.8


def test_scrub_repairs_in_the_epochs_without_a_max_step() -> None:
    broken, _ = unlearnt(scrub.METHOD, epochs=2, max_epochs=2, rate=5e-3, train_norms=False)
    mended, _ = unlearnt(scrub.METHOD, epochs=10, max_epochs=2, rate=5e-3, train_norms=False)
    assert accuracy(mended, *STAYING) > accuracy(broken, *STAYING) + 0.2


def test_salun_changes_only_weights_inside_its_mask() -> None:
    mask = salun.salient(toy_network(), sides()[0], 0.5, 64)
    network, _ = unlearnt(salun.METHOD, epochs=1)
    before, after = (tuple(each.parameters()) for each in (toy_network(), network))
    moved = [one != other for one, other in zip(before, after, strict=True)]
    assert not any((change & ~inside).any() for change, inside in zip(moved, mask, strict=True))
    assert sum(int(change.sum()) for change in moved) > 0.9 * sum(int(inside.sum()) for inside in mask)


def test_salun_s_mask_holds_the_asked_share_of_weights_with_the_largest_gradients() -> None:
    network, (forget_set, _) = toy_network(), sides()
    mask = torch.cat([part.flatten() for part in salun.salient(network, forget_set, 0.3, 64)])
    loss = nn.functional.cross_entropy(network(forget_set.windows), forget_set.labels)
    gradients = torch.autograd.grad(loss, tuple(network.parameters()))
    size = torch.cat([gradient.abs().flatten() for gradient in gradients])
    assert int(mask.sum()) == round(0.3 * len(mask))
    assert size[mask].min() > 0.99 * size[~mask].max()  # sums of batches differ from one sum by rounding


def test_sure_s_discriminator_is_not_part_of_the_returned_network() -> None:
    network, _ = unlearnt(sure.METHOD, epochs=1)
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in toy_network().state_dict().items()
    }


def test_sure_s_cost_counts_the_windows_of_all_three_sides() -> None:
    _, cost = unlearnt(sure.METHOD, epochs=2, batch=60, reference_share=0.25)
    assert len(sides()[0]) == 120
    assert cost.forward == cost.backward == 2 * 3 * 120


@given(weight=st.floats(0, 10), value=st.floats(-100, 100))
def test_reversal_keeps_the_features_and_turns_their_gradient(weight: float, value: float) -> None:
    features = torch.tensor([[value, 1.0]], requires_grad=True)
    turned = sure.reverse(features, weight)
    torch.testing.assert_close(turned, features, rtol=1e-5, atol=1e-5)
    (turned * torch.tensor([3.0, -2.0])).sum().backward()
    torch.testing.assert_close(features.grad, torch.tensor([[-3.0 * weight, 2.0 * weight]]))
