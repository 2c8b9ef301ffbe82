"""The ablations: that each changes what it says, and that the loop behind some of them is the published edit."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import quick
from benchmarks.methods import ABLATIONS, METHODS, ablations
from benchmarks.methods.ablations import FLOOR, NO_MARGINS, PAST_RADIUS, Variation
from benchmarks.task import Task, carry_out, hand_over
from edge_agent.core import pte
from edge_agent.core.dreams import anchors_and_evidence
from edge_agent.core.edit_settings import PUBLISHED, EditSettings
from edge_agent.core.evidence import Evidence
from edge_agent.core.margins import ClassMargins
from edge_agent.core.networks import channel_std
from edge_agent.core.probing import probe
from edge_agent.core.training import logits
from tests.model_fixtures import CLASSES, RATTLE, changed_parts, seeded, toy_network, windows_of

# Of the small case, whose class is gone after about 12 steps, so that what follows it is seen as well.
LONG: dict[str, Any] = {"push_rate": 3e-3, "pull_rate": 6e-3, "max_steps": 40, "batch": 16}


def task_of() -> Task:
    case = quick.case()
    return hand_over(METHODS["pte"], case.original, case.forget, case.dreams, case.forget_set, case.retain_set, seed=0)


def raised(how: EditSettings) -> EditSettings:
    """The settings with greater rates, where they are not 0, and fewer steps."""
    return dataclasses.replace(how, **{name: value for name, value in LONG.items() if getattr(how, name)})


@cache
def edited(name: str) -> nn.Sequential:
    method = (METHODS | ABLATIONS)[name]
    return carry_out(method, task_of(), raised(method.settings))[0]


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


def changed_buffers(network: nn.Module) -> set[str]:
    before = dict(quick.case().original.named_buffers())
    return {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}


# The loop


@pytest.mark.parametrize("consolidation_steps", [0, 8])
@pytest.mark.parametrize("max_steps", [2, 28])
def test_with_nothing_varied_the_loop_is_the_published_edit(max_steps: int, consolidation_steps: int) -> None:
    how = dataclasses.replace(PUBLISHED, **LONG)
    how = dataclasses.replace(how, max_steps=max_steps, consolidation_steps=consolidation_steps)
    networks, epochs = [], []
    for unlearn in (METHODS["pte_published"].unlearn, lambda task, how: ablations._varied(task, how, Variation())):
        seen: list[nn.Module] = []
        networks.append(unlearn(dataclasses.replace(task_of(), on_epoch=seen.append), how))
        epochs.append(len(seen))
    assert same(*networks)
    assert not same(networks[0], quick.case().original)
    assert epochs[0] == epochs[1]
    assert (epochs[0] > 0) == (max_steps > 2)


def test_alternating_pushes_and_pulls_in_turn() -> None:
    assert turns(ablations.alternating, repeats=3) == ["push", "pull"] * 3


def test_push_then_pull_does_as_many_pulls_as_it_took_pushes() -> None:
    assert turns(ablations.push_then_pull, repeats=3) == ["push"] * 3 + ["pull"] * 3


def test_pull_then_push_does_as_many_pushes_as_it_took_pulls() -> None:
    assert turns(ablations.pull_then_push, repeats=2) == ["pull"] * 2 + ["push"] * 2


def turns(schedule: ablations.Schedule, repeats: int) -> list[str]:
    """What a schedule does if the class is gone after ``repeats`` turns."""
    done: list[str] = []

    def until_forgotten(turn: ablations.Turn) -> int:
        for _number in range(repeats):
            turn()
        return repeats

    schedule(lambda: done.append("push"), lambda: done.append("pull"), until_forgotten)
    return done


# What each changes


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_does_not_come_out_like_what_it_is_an_ablation_of(name: str) -> None:
    base = "pte_published" if name.startswith("ablation_published_") else "pte"
    assert not same(edited(name), edited(base))
    assert not same(edited(name), quick.case().original)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ablation_published_head", {"head"}),
        ("ablation_published_last_stage", {"stage4", "head"}),
        ("ablation_published_eq_10", {"stem", "stage1", "stage2", "stage3", "stage4", "head"}),
        ("ablation_shipped_head", {"head"}),
        ("ablation_shipped_all", {"stem", "stage1", "stage2", "stage3", "stage4", "head"}),
        ("ablation_shipped_without_noisy_dreams", {"stage4", "head"}),
    ],
)
def test_what_is_outside_an_ablation_s_scope_stays(name: str, parts: set[str]) -> None:
    assert changed_parts(quick.case().original, edited(name)) == parts


@pytest.mark.parametrize("name", ABLATIONS)
def test_only_the_ablation_that_trains_batch_norm_moves_its_statistics(name: str) -> None:
    moved = changed_buffers(edited(name))
    assert any("running_mean" in each for each in moved) == (name == "ablation_published_norms_trained")


def test_without_noisy_dreams_the_edit_sees_the_plain_ones_alone() -> None:
    task, how = task_of(), raised(EditSettings())
    anchors, evidence = anchors_and_evidence(task.dreams)
    pte.edit(
        task.network, task.forget_windows.windows, task.forget, how, task.generator,
        anchors=anchors.windows, evidence=Evidence(evidence, task.forget, (ClassMargins(),) * task.classes),
    )  # fmt: skip
    assert same(task.network, edited("ablation_shipped_without_noisy_dreams"))


# Eq. 10, margins, and probes


def outputs(largest: float) -> st.SearchStrategy[Tensor]:
    rows = st.lists(st.lists(st.floats(-largest, largest, width=32), min_size=4, max_size=4), min_size=1, max_size=5)
    return rows.map(torch.tensor)


@given(output=outputs(50.0), tau=st.sampled_from([1.0, 2.0, 4.0]), seed=st.integers(0, 99))
def test_eq_10_is_the_reverse_divergence_and_finite_where_the_target_is_0(
    output: Tensor, tau: float, seed: int
) -> None:
    target = pte.pull_target(5 * torch.randn(output.shape, generator=seeded(seed)), (1,), tau)
    output.requires_grad_()
    loss = ablations.reverse_pull_loss(output, target, tau)
    answer = functional.softmax(output.detach().double() / tau, 1)
    terms = answer * (answer.clamp_min(1e-300).log() - target.double().clamp_min(FLOOR).log())
    torch.testing.assert_close(loss.double(), tau**2 * terms.sum(1).mean(), rtol=1e-4, atol=1e-4)
    assert torch.autograd.grad(loss, output)[0].isfinite().all()


@given(output=outputs(1e3), teacher=outputs(1e3))
def test_at_that_temperature_the_margins_hold_nothing(output: Tensor, teacher: Tensor) -> None:
    count = min(len(output), len(teacher))
    output, target = output[:count].requires_grad_(), functional.softmax(teacher[:count] / NO_MARGINS, 1)
    (gradient,) = torch.autograd.grad(pte.pull_loss(output, target, NO_MARGINS), output)
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 1.001 * NO_MARGINS / count


def test_probes_past_the_boundary_are_answered_surely_and_those_at_the_first_flip_are_not() -> None:
    network, windows, how = toy_network(), windows_of(RATTLE), PUBLISHED
    near, far = (find(network, windows, (RATTLE,), how, seeded()) for find in (probe, ablations.past_the_boundary))
    sure_near, sure_far = (logits(network, each.windows).softmax(1).max(1).values for each in (near, far))
    assert sure_far.mean() > 0.95
    assert sure_far.mean() > sure_near.mean() + 0.1
    assert (far.windows - windows).abs().max() <= 1.001 * PAST_RADIUS * channel_std(network).max()
    assert set(far.epsilons[~far.epsilons.isnan()].tolist()) == {PAST_RADIUS}


@pytest.mark.parametrize("forget", [(RATTLE,), (0, RATTLE), tuple(range(CLASSES - 1))])
def test_no_probe_past_the_boundary_is_to_be_answered_with_a_forget_class(forget: tuple[int, ...]) -> None:
    probes = ablations.past_the_boundary(toy_network(), windows_of(*forget)[::10], forget, PUBLISHED, seeded())
    assert not set(probes.answers.tolist()) & set(forget)
