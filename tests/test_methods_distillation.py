"""Unlearning methods that distil, steer, cut or edit: what each is drawn to, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.methods import bad_teacher, delete, head_surgery, misdirection, neighbourhood
from benchmarks.methods import pte as pte_methods
from benchmarks.task import Labelled, Method, Task, carry_out, hand_over
from edge_agent.adapters import checkpoints
from edge_agent.core import networks, pte
from edge_agent.core.dreams import Dreams, DreamSettings, dream
from edge_agent.core.edit_settings import PUBLISHED, EditSettings
from edge_agent.core.evidence import prepare, without
from edge_agent.core.gate import rounded
from edge_agent.core.training import logits
from edge_agent.schemas.card import DREAMS
from tests.model_fixtures import (
    CLASSES,
    RATTLE,
    SHAPE,
    accuracy,
    changed_parts,
    seeded,
    tensors,
    toy_data,
    toy_margins,
    toy_network,
    windows_of,
)

FEATURES = 8 * 4  # that the head of the toy network reads
STAY = [label for label in range(CLASSES) if label != RATTLE]
# Settings that suit the toy network, a twentieth of the size of those that are compared.
FORGETTING: list[tuple[Method[Any], dict[str, Any]]] = [
    (bad_teacher.METHOD, {"rate": 3e-3, "train_norms": False}),
    (bad_teacher.WITH_RETAIN, {"rate": 1e-2, "epochs": 10, "train_norms": False}),
    (delete.METHOD, {"rate": 3e-3}),
    (delete.MASK_ALL, {"rate": 3e-3}),
    (misdirection.METHOD, {"rate": 2e-3, "scale": 1.0}),
    (neighbourhood.METHOD, {"rate": 3e-4, "epochs": 20}),
]
NAMES = [method.name for method, _ in FORGETTING]
QUICK: dict[str, Any] = {"epsilons": (0.4,), "probe_steps": 3, "batch": 20, "max_steps": 7}


@cache
def _few_dreams() -> Dreams:
    return dream(toy_network(), CLASSES, SHAPE, DreamSettings(typical=2, soft=1, border=2), seeded(2))


def _task(method: Method[Any], forget: tuple[int, ...] = (RATTLE,), seed: int = 0, **options: Any) -> Task:
    windows, labels = tensors(toy_data().train)
    pairs, gone = Labelled(windows, labels), torch.isin(labels, torch.tensor(forget))
    dreams = without(options.pop("dreams", _few_dreams()), forget)
    return hand_over(method, toy_network(), forget, dreams, pairs.pick(gone), pairs.pick(~gone), seed, **options)


def _same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def _features(network: nn.Sequential, windows: Tensor) -> Tensor:
    return logits(network[:-1], windows)


@pytest.mark.parametrize(("method", "changes"), FORGETTING, ids=NAMES)
def test_a_method_forgets_the_class_and_more_of_it_than_of_the_others(
    method: Method[Any], changes: dict[str, Any]
) -> None:
    forgotten, _cost = carry_out(method, _task(method), replace(method.settings, **changes))
    assert accuracy(toy_network(), RATTLE) > 0.9
    assert accuracy(forgotten, RATTLE) <= 0.1
    assert accuracy(forgotten, *STAY) >= 0.5


@pytest.mark.parametrize("method", [method for method, _ in FORGETTING], ids=NAMES)
def test_a_method_repeats_from_its_seed_and_reports_each_epoch(method: Method[Any]) -> None:
    settings, seen = replace(method.settings, epochs=2), list[nn.Module]()
    one, again, other = (method.unlearn(_task(method, seed=seed, on_epoch=seen.append), settings) for seed in (0, 0, 1))
    assert [id(network) for network in seen] == [id(one)] * 2 + [id(again)] * 2 + [id(other)] * 2
    assert _same(one, again)
    assert not _same(one, other)


_ANSWERS = st.lists(st.lists(st.floats(-200, 200, width=32), min_size=4, max_size=4), min_size=1, max_size=6)


@given(_ANSWERS, st.data())
def test_delete_aims_at_nothing_on_a_windows_own_label_and_keeps_the_ratios_of_the_rest(
    answers: list[list[float]], data: st.DataObject
) -> None:
    output = torch.tensor(answers)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(answers), max_size=len(answers))))
    target = delete.without_own(output, labels)
    assert (target[torch.arange(len(labels)), labels] == 0).all()
    for row, logit, label in zip(target, output, labels.tolist(), strict=True):
        rest = [other for other in range(4) if other != label]
        torch.testing.assert_close(row[rest], logit[rest].softmax(0))


@given(_ANSWERS, st.sets(st.integers(0, 3), min_size=1, max_size=3))
def test_delete_all_aims_at_nothing_on_any_forget_class(answers: list[list[float]], forget: set[int]) -> None:
    target = delete.without_all(torch.tensor(answers), tuple(forget))
    assert (target[:, list(forget)] == 0).all()
    torch.testing.assert_close(target.sum(1), torch.ones(len(answers)))


def test_with_one_forget_class_delete_and_delete_all_are_one_method_and_with_two_they_are_not() -> None:
    for forget, alike in (((RATTLE,), True), ((RATTLE, 3), False)):
        one, other = (
            method.unlearn(_task(method, forget), replace(method.settings, epochs=1))
            for method in (delete.METHOD, delete.MASK_ALL)
        )
        assert _same(one, other) == alike


@pytest.mark.parametrize("forget", [(RATTLE,), (0, 3)])
def test_head_surgery_without_any_data_ends_the_class_and_leaves_every_other_answer(forget: tuple[int, ...]) -> None:
    task, before = _task(head_surgery.METHOD, forget), toy_network()
    assert task.forget_set is task.retain_set is None
    after, _cost = carry_out(head_surgery.METHOD, task, head_surgery.METHOD.settings)
    kept = [label for label in range(CLASSES) if label not in forget]
    windows = tensors(toy_data().test)[0]
    for scale in (1.0, 100.0):
        old, new = logits(before, scale * windows), logits(after, scale * windows)
        assert not torch.isin(new.argmax(1), torch.tensor(forget)).any()
        torch.testing.assert_close(new[:, kept], old[:, kept], rtol=0, atol=0)
        assert (new[:, list(forget)] == head_surgery.LOGIT).all()
    assert changed_parts(before, after) == {"head"}


def test_after_head_surgery_probabilities_losses_and_rounded_weights_stay_finite() -> None:
    after = head_surgery.METHOD.unlearn(_task(head_surgery.METHOD), head_surgery.METHOD.settings)
    windows = windows_of(RATTLE)
    for network in (after, rounded(after, bits=8), rounded(after, bits=4), after.half().float()):
        output = logits(network, windows)
        assert output.log_softmax(1).isfinite().all()
        assert (output.softmax(1)[:, RATTLE] == 0).all()


@pytest.mark.parametrize("architecture", ["resnet18_1d", "vit_1d"])
def test_the_incompetent_teacher_shares_the_input_normalisation_and_nothing_else(architecture: str) -> None:
    torch.manual_seed(0)
    network = networks.build(architecture, channels=2, classes=4, width=4, length=64)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(1.0)  # so that no parameter has the value with which it starts
        networks.set_statistics(network, torch.tensor([3.0, -1.0]), torch.tensor([2.0, 5.0]))
    before = torch.get_rng_state()
    teacher, again, other = (bad_teacher.incompetent(network, seeded(seed)) for seed in (0, 0, 1))
    assert not any(map(torch.equal, teacher.parameters(), network.parameters()))
    assert _same(teacher[0], network[0])
    assert _same(teacher, again)
    assert not _same(teacher, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_teacher_learns_from_f0_on_three_tenths_of_the_retained_windows() -> None:
    task = _task(bad_teacher.WITH_RETAIN)
    windows, target = bad_teacher.lessons(task, retain_share=0.3)
    forgotten, retained = len(task.forget_windows), round(0.3 * len(task.retain_windows))
    assert len(windows) == len(target) == forgotten + retained
    kept = windows[forgotten:]
    assert len({tuple(window.flatten().tolist()) for window in kept}) == retained
    assert all((task.retain_windows.windows == window).all(dim=(1, 2)).any() for window in kept)
    torch.testing.assert_close(target[forgotten:], logits(toy_network(), kept).softmax(1))
    assert (target[:forgotten] - logits(toy_network(), windows[:forgotten]).softmax(1)).abs().max() > 0.5


def test_misdirection_turns_the_features_to_their_class_direction_and_leaves_trunk_and_head() -> None:
    forget = (RATTLE, 3)
    task = _task(misdirection.METHOD, forget)
    after = misdirection.unlearn(task, replace(misdirection.METHOD.settings, rate=1e-3, scale=1.0))
    assert changed_parts(toy_network(), after) == {"stage4"}
    directions = misdirection.random_directions(_task(misdirection.METHOD, forget), FEATURES)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(CLASSES))
    assert (directions >= 0).all()
    for label, other in (forget, forget[::-1]):
        old, new = (
            torch.cosine_similarity(_features(network, windows_of(label)).unsqueeze(1), directions, dim=2).mean(0)
            for network in (toy_network(), after)
        )
        turned = new - old
        assert turned[label] > 0.05
        assert turned[label] > turned[other]


def test_a_neighbour_stays_in_its_ball_and_nearer_to_the_class_next_door() -> None:
    task = _task(neighbourhood.METHOD)
    windows, unit = task.forget_windows.windows, networks.channel_std(task.network)
    near = neighbourhood.neighbours(task, replace(neighbourhood.METHOD.settings, epsilon=0.2))
    assert ((near - windows).abs() <= 0.2 * unit * 1.0001).all()
    old, new = (logits(task.network, x) for x in (windows, near))
    lead = [(x[:, RATTLE] - x[:, STAY].amax(1)) for x in (old, new)]
    assert (lead[1] < lead[0]).float().mean() > 0.9


def test_similarity_looks_at_pairs_of_one_class_alone() -> None:
    features = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0], [0.0, 1.0], [3.0, 3.0]])
    assert neighbourhood.similarity(features, torch.tensor([0, 0, 1, 1, 2])) == 1.0
    assert neighbourhood.similarity(features, torch.tensor([0, 1, 0, 1, 2])) == 0.0
    assert neighbourhood.similarity(features, torch.arange(5)) == 0.0


def test_dispersion_scatters_the_features_of_the_class() -> None:
    settings = replace(neighbourhood.METHOD.settings, rate=3e-4, epochs=5, batch=20)
    scattered, held = (
        neighbourhood.unlearn(_task(neighbourhood.METHOD), replace(settings, dispersion=weight))
        for weight in (10.0, 0.0)
    )
    windows = windows_of(RATTLE)
    alike = torch.full((len(windows),), RATTLE)
    one, other = (neighbourhood.similarity(_features(network, windows), alike) for network in (scattered, held))
    assert one < other - 0.1


def test_what_ships_is_compared_with_its_own_settings_and_never_tuned() -> None:
    assert pte_methods.SHIPPED.settings == EditSettings()
    assert not pte_methods.SHIPPED.search
    assert pte_methods.METHOD.settings == PUBLISHED


def test_pte_shipped_is_the_edit_of_a_forget_command_bit_for_bit(tmp_path: Path) -> None:
    checkpoints.save_dreams(without(_few_dreams(), (RATTLE,)), tmp_path / DREAMS)
    settings, expected, generator = replace(EditSettings(), **QUICK), toy_network(), seeded(5)
    dreams = checkpoints.load_dreams(tmp_path / DREAMS)
    anchors, evidence = prepare(dreams, toy_network(), (RATTLE,), toy_margins(), generator)
    windows = windows_of(RATTLE)
    pte.edit(expected, windows, (RATTLE,), settings, generator, anchors=anchors, evidence=evidence)

    epochs: list[nn.Module] = []
    task = _task(pte_methods.SHIPPED, seed=5, dreams=dreams, on_epoch=epochs.append)
    assert _same(pte_methods.SHIPPED.unlearn(task, settings), expected)
    assert not _same(toy_network(), expected)
    assert len(epochs) == QUICK["max_steps"] // (len(windows) // QUICK["batch"])


def test_pte_published_is_the_edit_without_dreams_bit_for_bit() -> None:
    settings, expected = replace(PUBLISHED, **QUICK), toy_network()
    pte.edit(expected, windows_of(RATTLE), (RATTLE,), settings, seeded(5))
    assert _same(pte_methods.METHOD.unlearn(_task(pte_methods.METHOD, seed=5), settings), expected)
    assert not _same(toy_network(), expected)
