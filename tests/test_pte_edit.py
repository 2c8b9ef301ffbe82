"""Whole edits of the toy network: what they achieve, what they leave alone, and when they end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edge_agent.core import pte
from edge_agent.core.edit_settings import PUBLISHED, EditSettings
from edge_agent.core.networks import EditScope, cut
from edge_agent.core.training import logits
from tests.model_fixtures import (
    CLASSES,
    RATTLE,
    accuracy,
    changed_parts,
    dreams_without,
    good_edit,
    seeded,
    toy_network,
    windows_of,
)

SETTINGS = EditSettings()
BARE = replace(SETTINGS, anchor_weight=0.0, consolidation_steps=0)
PARTS = {
    "head": {"head"},
    "last_stage": {"stage4", "head"},
    "all": {"stem", "stage1", "stage2", "stage3", "stage4", "head"},
}


def _stay(*forget: int) -> list[int]:
    return [label for label in range(CLASSES) if label not in forget]


def _edit(how: EditSettings, forget: tuple[int, ...] = (RATTLE,), seed: int = 0) -> tuple[nn.Sequential, pte.Edit]:
    network = toy_network()
    return network, pte.edit(network, windows_of(*forget), forget, how, seeded(seed))


def test_an_edit_forgets_one_class_and_keeps_the_others() -> None:
    before, done = toy_network(), good_edit()
    assert done.outcome.forgotten
    assert accuracy(before, RATTLE) > 0.9
    assert accuracy(done.network, RATTLE) <= 0.05
    assert accuracy(done.network, *_stay(RATTLE)) >= accuracy(before, *_stay(RATTLE)) - 0.05
    for label in _stay(RATTLE):
        assert accuracy(done.network, label) >= accuracy(before, label) - 0.15


def test_an_edit_forgets_several_classes_at_once() -> None:
    forget = (1, 3)
    network, before = toy_network(), toy_network()
    anchors, evidence = dreams_without(*forget)
    outcome = pte.edit(network, windows_of(*forget), forget, SETTINGS, seeded(), anchors=anchors, evidence=evidence)
    assert outcome.forgotten
    assert not set(outcome.flipped_to) & set(forget)
    assert accuracy(network, 1) <= 0.05
    assert accuracy(network, 3) <= 0.05
    assert accuracy(network, *_stay(*forget)) >= accuracy(before, *_stay(*forget)) - 0.05


def test_a_class_forgotten_before_stays_forgotten_when_it_is_masked_too() -> None:
    network, forget = good_edit().network, (0, RATTLE)
    anchors, evidence = dreams_without(*forget)
    # Forgetting class 0 alone brings a sixth of the rattle windows back.
    outcome = pte.edit(network, windows_of(0), forget, SETTINGS, seeded(1), anchors=anchors, evidence=evidence)
    assert outcome.forgotten
    again = logits(network, windows_of(RATTLE, test=True)).argmax(1)
    assert torch.isin(again, torch.tensor(forget)).float().mean() <= 0.05
    assert RATTLE not in outcome.flipped_to


def test_the_published_settings_forget_and_stop_there() -> None:
    network, outcome = _edit(PUBLISHED)
    assert outcome.forgotten
    assert outcome.steps == outcome.chosen_step < PUBLISHED.max_steps
    assert accuracy(network, RATTLE) <= 0.1
    assert all(step.anchor_loss == 0.0 for step in outcome.trace)


@pytest.mark.parametrize("scope", ["head", "last_stage", "all"])
def test_what_is_outside_the_scope_is_bit_identical(scope: EditScope) -> None:
    network, outcome = _edit(replace(BARE, scope=scope, max_steps=30))
    assert outcome.steps > 0
    assert changed_parts(toy_network(), network) == PARTS[scope]


@pytest.mark.parametrize("scope", ["head", "last_stage", "all"])
def test_the_buffers_are_bit_identical_after_an_edit(scope: EditScope) -> None:
    network, _ = _edit(replace(BARE, scope=scope, max_steps=30))
    after = dict(network.named_buffers())
    before = dict(toy_network().named_buffers())
    assert any(name.endswith("running_var") for name in before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("forget", [(0,), (1,), (2,), (3,), (4,), (1, 3)])
def test_the_first_push_has_something_to_push(forget: tuple[int, ...]) -> None:
    _, outcome = _edit(replace(BARE, max_steps=1), forget)
    assert outcome.trace[0].push_loss > 0.3


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    how = replace(SETTINGS, consolidation_steps=3)
    anchors, evidence = dreams_without(RATTLE)
    weights = []
    for seed in (4, 4, 5):
        network = toy_network()
        pte.edit(network, windows_of(RATTLE), (RATTLE,), how, seeded(seed), anchors=anchors, evidence=evidence)
        weights.append(network.get_parameter("head.weight"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_edit_does_not_draw_from_the_global_generator() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    _edit(replace(BARE, max_steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_budget_ends_a_hopeless_edit() -> None:
    network, outcome = _edit(replace(SETTINGS, push_rate=0.0, pull_rate=0.0, max_steps=7))
    assert not outcome.forgotten
    assert outcome.steps == outcome.chosen_step == len(outcome.trace) == 7
    assert outcome.trace[-1].forget_share > 0.9
    assert not changed_parts(toy_network(), network)


def test_the_class_is_gone_in_the_state_that_is_kept() -> None:
    done = good_edit()
    chosen = done.outcome.trace[done.outcome.chosen_step - 1]
    assert chosen.number == done.outcome.chosen_step
    assert chosen.forget_share == chosen.holdout_share == 0.0
    assert (logits(done.network, done.windows).argmax(1) != RATTLE).all()


def test_the_state_that_is_kept_is_the_one_with_the_best_evidence() -> None:
    done = good_edit()
    gone = [step for step in done.outcome.trace if step.forget_share == step.holdout_share == 0.0]
    looked_at = {step.number: step.strayed for step in gone if step.strayed is not None}
    assert len(looked_at) > 3
    assert looked_at[done.outcome.chosen_step] == min(looked_at.values())
    at = cut(done.network, SETTINGS.scope)
    strayed = done.evidence.watch(toy_network(), done.network[:at], SETTINGS.anchor_tau)(done.network[at:])
    assert strayed == pytest.approx(looked_at[done.outcome.chosen_step], rel=1e-4)


def test_a_class_that_windows_held_out_still_show_is_not_forgotten() -> None:
    # Of the two classes to forget only one is edited away; held out are windows of the other, which dreams hold.
    chirp, settings, generator = 4, replace(SETTINGS, max_steps=40), seeded()
    network = toy_network()
    at = cut(network, settings.scope)
    trunk, tail = network[:at], network[at:]
    task, _ = pte._prepared(network, trunk, windows_of(RATTLE), (RATTLE, chirp), settings, generator, lambda *_: None)
    task.holdout = logits(trunk, windows_of(chirp)[:20])
    anchors, _ = dreams_without(RATTLE)
    task.anchors = pte._Anchors.of(logits(trunk, anchors), logits(network, anchors), (RATTLE,), settings)
    forgotten, _, trace = pte._run(tail.requires_grad_(True), task, None, generator, lambda _: None)
    assert trace[-1].forget_share == 0.0
    assert trace[-1].holdout_share > 0.0
    assert not forgotten


def test_consolidation_goes_on_after_the_class_is_gone() -> None:
    trace = good_edit().outcome.trace
    gone_at = next(step.number for step in trace if step.forget_share == step.holdout_share == 0.0)
    assert trace[-1].number == gone_at + SETTINGS.consolidation_steps


def test_every_step_is_traced_and_reported() -> None:
    network, seen = toy_network(), list[pte.Step]()
    outcome = pte.edit(network, windows_of(RATTLE), (RATTLE,), BARE, seeded(), on_step=seen.append)
    assert tuple(seen) == outcome.trace
    assert [step.number for step in seen] == list(range(1, outcome.steps + 1))


def _batches_fed(holdout: float) -> tuple[Tensor, int]:
    """Which windows the head ever saw where a gradient was taken (probing, push and pull), and how many there were.

    The trunk is everything below the head, so that what the head is given tells the window it comes from.
    """
    network, windows = toy_network(), windows_of(RATTLE)[:40]
    with torch.no_grad():
        features = network[:-1](windows)
    fed: list[Tensor] = []

    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            fed.append(inputs[0].detach())

    hook = network[-1].register_forward_pre_hook(record)
    # Radii too small to move a feature: a probe then is its window.
    how = replace(BARE, scope="head", holdout=holdout, epsilons=(1e-9,), max_steps=6, batch=8)
    pte.edit(network, windows, (RATTLE,), how, seeded())
    hook.remove()
    near = torch.cdist(torch.cat(fed), features, compute_mode="donot_use_mm_for_euclid_dist") < 1e-3
    assert (near.sum(1) == 1).all()
    return near.any(0), len(windows)


@pytest.mark.parametrize(("holdout", "held"), [(0.1, 4), (0.25, 10), (0.001, 1)])
def test_windows_held_out_are_in_no_batch(holdout: float, held: int) -> None:
    used, count = _batches_fed(holdout)
    assert count - int(used.sum()) == held


def test_dreams_pull_only_when_there_are_any_and_they_weigh_something() -> None:
    anchors, _ = dreams_without(RATTLE)
    for weight, given, pulls in ((5.0, anchors, True), (0.0, anchors, False), (5.0, anchors[:0], False)):
        how = replace(SETTINGS, anchor_weight=weight, max_steps=3)
        outcome = pte.edit(toy_network(), windows_of(RATTLE), (RATTLE,), how, seeded(), anchors=given)
        assert any(step.anchor_loss > 0 for step in outcome.trace) is pulls


def test_the_network_is_left_in_evaluation_mode_and_frozen() -> None:
    network, _ = _edit(replace(BARE, max_steps=2))
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
