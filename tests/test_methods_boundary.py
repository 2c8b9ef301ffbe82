"""Random labels, the two boundary methods and IMP: what each trains on, and what it leaves behind."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.methods import boundary_expand, boundary_shrink, imp, random_label
from benchmarks.methods.common import random_staying, trainable
from benchmarks.task import Cost, Labelled, Method, Task, carry_out, hand_over
from edge_agent.core import gate, networks
from edge_agent.core.dreams import Dreams
from edge_agent.core.training import logits
from tests.model_fixtures import (
    CLASSES,
    RATTLE,
    accuracy,
    looks,
    seeded,
    tensors,
    toy_data,
    toy_network,
    windows_of,
)

METHODS: tuple[Method[Any], ...] = tuple(
    module.METHOD for module in (random_label, boundary_shrink, boundary_expand, imp)
)  # fmt: skip
named = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
forget_classes = st.sets(st.integers(0, CLASSES - 1), min_size=1, max_size=CLASSES - 1).map(
    lambda of: tuple(sorted(of))
)

SHORT: dict[str, dict[str, Any]] = {"imp": {"attack_steps": 2, "epochs": 2, "batch": 60}}
# What forgets on the toy network, which has a quarter of a real task's windows and so of its steps per epoch.
FORGETTING: dict[str, dict[str, Any]] = {
    "random_label": {"rate": 1e-4, "epochs": 5, "train_norms": False},
    "boundary_shrink": {"rate": 1e-4, "epochs": 5, "train_norms": False},
    "boundary_expand": {"rate": 1e-4},
    "imp": {"rate": 1e-2, "attack_steps": 5, "epochs": 4, "batch": 32},
}


def staying(*forget: int) -> tuple[int, ...]:
    return tuple(label for label in range(CLASSES) if label not in forget)


@cache
def sides(*forget: int) -> tuple[Labelled, Labelled]:
    """Training windows of the forget classes and of the others."""
    pairs = Labelled(*tensors(toy_data().train))
    gone = torch.isin(pairs.labels, torch.tensor(forget))
    return pairs.pick(gone), pairs.pick(~gone)


def task_of(method: Method[Any], forget: tuple[int, ...] = (RATTLE,), **changes: Any) -> Task:
    none = torch.empty(0, dtype=torch.long)
    dreams = Dreams(sides(*forget)[0].windows[:0], none, none, none.bool())
    task = hand_over(method, toy_network(), forget, dreams, *sides(*forget), seed=0)
    return dataclasses.replace(task, **changes)


def unlearnt(method: Method[Any], task: Task | None = None, **changes: Any) -> tuple[nn.Sequential, Cost]:
    how = dataclasses.replace(method.settings, **(SHORT.get(method.name, {}) | changes))
    return carry_out(method, task_of(method) if task is None else task, how)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


@named
def test_the_method_asks_for_the_forget_set_alone(method: Method[Any]) -> None:
    task = task_of(method)
    assert task.forget_set is not None
    assert task.retain_set is None


@named
def test_the_candidates_are_settings_and_contain_the_default(method: Method[Any]) -> None:
    for name, candidates in method.search.items():
        assert getattr(method.settings, name) in candidates
        assert len({type(each) for each in candidates}) == 1


@named
@pytest.mark.parametrize("forget", [(RATTLE,), (RATTLE, 3)])
def test_the_classes_are_answered_much_less_and_the_others_stay(method: Method[Any], forget: tuple[int, ...]) -> None:
    before = toy_network()
    network, _ = unlearnt(method, task_of(method, forget), **FORGETTING[method.name])
    assert accuracy(network, *forget) < accuracy(before, *forget) - 0.4
    assert accuracy(network, *staying(*forget)) > 0.75


@named
def test_all_randomness_comes_from_the_task(method: Method[Any]) -> None:
    outcomes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        outcomes.append(unlearnt(method, epochs=1)[0])
    assert same(*outcomes)
    assert not same(outcomes[0], toy_network())


@named
def test_the_network_is_shown_after_each_epoch_as_it_stands(method: Method[Any]) -> None:
    answers: list[Tensor] = []
    windows = windows_of(RATTLE)

    def look(network: nn.Module) -> None:
        copied = toy_network()
        copied.load_state_dict(network.state_dict())
        answers.append(logits(copied, windows))

    network, _ = unlearnt(method, task_of(method, on_epoch=look), epochs=2, train_norms=False)
    assert len(answers) == 2
    assert not torch.equal(answers[0], answers[1])
    assert torch.equal(answers[1], logits(network, windows))


@named
def test_frozen_norms_keep_their_statistics_and_others_do_not(method: Method[Any]) -> None:
    before = dict(toy_network().named_buffers())
    for train_norms in (False, True):
        network, _ = unlearnt(method, epochs=1, train_norms=train_norms)
        moved = [not torch.equal(after, before[name]) for name, after in network.named_buffers() if "running" in name]
        assert all(moved) if train_norms else not any(moved)


@settings(max_examples=30)
@given(forget=forget_classes, seed=st.integers(0, 99))
def test_a_random_label_is_any_class_that_stays_and_no_other(forget: tuple[int, ...], seed: int) -> None:
    task = dataclasses.replace(task_of(random_label.METHOD), forget=forget, generator=seeded(seed))
    assert set(random_staying(task, 400).tolist()) == set(staying(*forget))


def taught(network: nn.Module) -> list[tuple[bytes, int]]:
    """Fills up, as ``network`` trains, with each window and its label: where cross entropy's gradient is negative."""
    pairs: list[tuple[bytes, int]] = []

    def note(_network: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        windows = [window.numpy().tobytes() for window in inputs[0].detach()]
        if output.requires_grad:
            output.register_hook(lambda gradient: pairs.extend(zip(windows, gradient.argmin(1).tolist(), strict=True)))

    network.register_forward_hook(note)
    return pairs


def test_a_random_label_is_drawn_anew_in_each_epoch() -> None:
    task = task_of(random_label.METHOD)
    pairs, count = taught(task.network), len(task.forget_windows)
    unlearnt(random_label.METHOD, task, epochs=2)
    first, second = dict(pairs[:count]), dict(pairs[count:])
    assert first.keys() == second.keys()
    assert len(first) == count
    assert 0.6 < sum(first[window] != second[window] for window in first) / count < 0.9  # 3/4: four classes stay


@settings(max_examples=20)
@given(forget=forget_classes, epsilon=st.floats(0, 2))
def test_shrink_never_trains_on_a_forget_class(forget: tuple[int, ...], epsilon: float) -> None:
    windows = sides(*forget)[0].windows[::20]
    how = boundary_shrink.Settings(epsilon=epsilon)
    labels = boundary_shrink.nearest_labels(toy_network(), windows, forget, how)
    assert set(labels.tolist()) <= set(staying(*forget))


def test_shrink_takes_the_answer_where_the_perturbed_window_is_taken_for_another_class() -> None:
    network, windows, how = toy_network(), windows_of(RATTLE), boundary_shrink.Settings()
    moved = windows.clone().requires_grad_()
    loss = nn.functional.cross_entropy(network.double()(moved.double()), torch.full((len(windows),), RATTLE))
    loss.backward()
    assert moved.grad is not None
    network.float()
    moved = windows + how.epsilon * networks.channel_std(network) * moved.grad.sign()
    answers = logits(network, moved).argmax(1)
    flipped = answers != RATTLE
    assert flipped.float().mean() > 0.5
    labels = boundary_shrink.nearest_labels(network, windows, (RATTLE,), how)
    assert (labels == answers)[flipped].float().mean() > 0.95  # a sign of a rounded 0 may differ


def test_shrink_trains_the_clean_windows_on_their_nearest_labels_in_every_epoch() -> None:
    task, how = task_of(boundary_shrink.METHOD), boundary_shrink.Settings()
    windows = task.forget_windows.windows
    labels = boundary_shrink.nearest_labels(toy_network(), windows, (RATTLE,), how).tolist()
    nearest = {window.numpy().tobytes(): label for window, label in zip(windows, labels, strict=True)}
    pairs = taught(task.network)
    unlearnt(boundary_shrink.METHOD, task, epochs=3, rate=1e-2)
    trained = pairs[-3 * len(windows) :]  # before them come the passes that look for the labels
    assert all(nearest[window] == label for window, label in trained)
    assert {window for window, _ in trained} == nearest.keys()


def test_expand_returns_and_shows_a_head_without_the_shadow_row() -> None:
    heads: list[nn.Module] = []
    task = task_of(boundary_expand.METHOD, on_epoch=lambda network: heads.append(network.get_submodule("head")))
    network, _ = unlearnt(boundary_expand.METHOD, task, epochs=2)
    for head in (*heads, network[-1]):
        assert isinstance(head, nn.Linear)
        assert head.out_features == CLASSES
        assert head.weight.shape[0] == CLASSES
        assert head.bias.shape == (CLASSES,)
    assert list(network.state_dict()) == list(toy_network().state_dict())


def test_expand_keeps_what_the_wide_head_learnt_and_counts_its_passes() -> None:
    network, cost = unlearnt(boundary_expand.METHOD, epochs=2)
    assert not torch.equal(network.state_dict()["head.weight"], toy_network().state_dict()["head.weight"])
    assert cost.forward == cost.backward == 2 * len(sides(RATTLE)[0])


def test_a_widened_head_answers_the_old_classes_as_before() -> None:
    head, features = toy_network()[-1], torch.randn(8, 32, generator=seeded())
    assert isinstance(head, nn.Linear)
    wide = boundary_expand.widened(head, seeded(1))
    assert wide(features).shape == (8, CLASSES + 1)
    assert torch.allclose(wide(features)[:, :CLASSES], head(features), atol=1e-6)


def test_imp_stops_at_the_first_step_after_which_no_forget_window_is_answered_with_the_class() -> None:
    shown: list[nn.Module] = []
    task = task_of(imp.METHOD, on_epoch=shown.append)
    count = len(task.forget_windows)
    answers = looks(task.network, RATTLE)
    network, _ = unlearnt(imp.METHOD, task, rate=1e-2, epochs=50, batch=30)
    shares = [look.float().mean().item() for look in torch.cat(answers).split(count)]  # each in several batches
    assert len(shown) < 50
    assert len(shown) == -(-len(shares) // 4)  # 120 windows are 4 steps an epoch; the last may be cut short
    assert shares[-1] == 0.0
    assert all(share > 0.0 for share in shares[:-1])
    assert gate.forget_share(network, task.forget_windows.windows, (RATTLE,)) == 0.0


@settings(max_examples=10)
@given(forget=forget_classes, epsilon=st.floats(0.05, 1), copies=st.integers(1, 3))
def test_an_adversarial_window_lies_in_its_ball_and_has_a_class_that_stays(
    forget: tuple[int, ...], epsilon: float, copies: int
) -> None:
    task = task_of(imp.METHOD, forget)
    task = dataclasses.replace(task, forget_set=task.forget_windows.pick(torch.arange(0, 120, 20)))
    pairs = imp.adversarial(task, imp.Settings(epsilon=epsilon, copies=copies, attack_steps=3))
    origins = task.forget_windows.windows.repeat(copies, 1, 1)
    moved = (pairs.windows - origins) / networks.channel_std(task.network)
    assert moved.square().mean(dim=(1, 2)).sqrt().max() <= epsilon * 1.001
    assert set(pairs.labels.tolist()) <= set(staying(*forget))


def test_most_adversarial_windows_are_taken_for_their_targets() -> None:
    task = task_of(imp.METHOD)
    pairs = imp.adversarial(task, imp.Settings())
    reached = (logits(task.network, pairs.windows).argmax(1) == pairs.labels).float().mean()
    assert reached > 0.8
    assert len(pairs.labels.unique()) == CLASSES - 1


def test_every_weight_is_held_between_not_at_all_and_fully_and_measuring_that_moves_nothing() -> None:
    task = task_of(imp.METHOD)
    network = trainable(task.network, train_norms=True)
    held = imp.holds(network, task, imp.Settings())
    assert [hold.shape for hold in held] == [weight.shape for weight in network.parameters()]
    assert all(hold.min() == 0 and hold.max() == 1 for hold in held)
    assert same(network, toy_network())
    lengths = torch.linalg.vector_norm(network(task.forget_windows.windows), dim=1)
    gradients = torch.autograd.grad(lengths.mean(), list(network.parameters()))
    # Of one batch the importance is the gradient's size: the largest is held not at all.
    once = imp.holds(network, task, imp.Settings(batch=len(task.forget_windows)))
    assert all(hold.argmin() == gradient.abs().argmax() for hold, gradient in zip(once, gradients, strict=True))


def test_a_greater_importance_keeps_the_weights_nearer() -> None:
    moved = []
    for importance in (0.0, 30.0):
        network, _ = unlearnt(imp.METHOD, importance=importance, epochs=1, batch=30, rate=1e-2)
        pairs = zip(network.parameters(), toy_network().parameters(), strict=True)
        moved.append(sum(float((after - before.detach()).square().sum()) for after, before in pairs))
    assert moved[1] < 0.8 * moved[0]
