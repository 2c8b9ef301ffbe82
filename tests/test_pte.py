"""The edit: what its losses and probes are, and what it leaves alone. What it achieves is in test_pte_edit.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core import probing, pte
from edge_agent.core.edit_settings import EditSettings
from edge_agent.core.networks import channel_std
from edge_agent.core.training import logits
from tests.model_fixtures import CLASSES, RATTLE, seeded, toy_network, windows_of

SETTINGS = EditSettings()
TINY = replace(SETTINGS, epsilons=(1e-6, 2e-6))


@st.composite
def outputs_and_forget(draw: st.DrawFn, largest: float = 1e4) -> tuple[Tensor, tuple[int, ...]]:
    """Logits float32 (n, K), and 1 to K - 2 forget classes."""
    classes = draw(st.integers(3, 8))
    value = st.floats(-largest, largest, width=32)
    rows = draw(st.lists(st.lists(value, min_size=classes, max_size=classes), min_size=1, max_size=5))
    forget = draw(st.sets(st.integers(0, classes - 1), min_size=1, max_size=classes - 2))
    return torch.tensor(rows), tuple(sorted(forget))


def _masked_distillation(output: Tensor, teacher: Tensor, forget: tuple[int, ...], tau: float) -> Tensor:
    """Gradient of eq. 9-10's distillation, by hand and in float64: tau (softmax(z / tau) - target) / n."""
    kept = (teacher.double() / tau).exp()
    kept[:, list(forget)] = 0
    target = kept / kept.sum(1, keepdim=True)
    student = (output.double() / tau).exp()
    return tau * (student / student.sum(1, keepdim=True) - target) / len(output)


@given(case=outputs_and_forget(largest=10.0), tau=st.sampled_from([1.0, 2.0, 4.0, 0.5]), seed=st.integers(0, 99))
@settings(max_examples=100)
def test_the_pull_has_the_gradient_of_masked_distillation(
    case: tuple[Tensor, tuple[int, ...]], tau: float, seed: int
) -> None:
    teacher, forget = case
    output = (3 * torch.randn(teacher.shape, generator=seeded(seed))).requires_grad_()
    (gradient,) = torch.autograd.grad(pte.pull_loss(output, pte.pull_target(teacher, forget, tau), tau), output)
    by_hand = _masked_distillation(output.detach(), teacher, forget, tau).float()
    torch.testing.assert_close(gradient, by_hand, rtol=0, atol=1e-6)


def test_the_pull_at_tau_1_is_softmax_minus_target() -> None:
    teacher, output = torch.randn(2, 6, CLASSES, generator=seeded())
    output.requires_grad_()
    target = pte.pull_target(teacher, (0, 3), 1.0)
    (gradient,) = torch.autograd.grad(pte.pull_loss(output, target, 1.0), output)
    torch.testing.assert_close(gradient, (functional.softmax(output, 1) - target) / 6, rtol=0, atol=1e-6)


@given(case=outputs_and_forget(), tau=st.sampled_from([0.5, 1.0, 4.0]), half=st.booleans())
@settings(max_examples=200)
def test_the_target_is_a_distribution_over_the_classes_that_stay(
    case: tuple[Tensor, tuple[int, ...]], tau: float, *, half: bool
) -> None:
    output, forget = case
    target = pte.pull_target(output.half() if half else output, forget, tau)
    assert target.dtype == torch.float32
    assert (target >= 0).all()
    assert (target[:, list(forget)] == 0).all()
    torch.testing.assert_close(target.sum(1), torch.ones(len(output)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sure", [30.0, 1e3, 6e4])
def test_the_target_keeps_the_order_of_the_others_when_the_model_is_sure(sure: float, dtype: torch.dtype) -> None:
    output = torch.tensor([[sure, 2.0, 1.0, 0.0]], dtype=dtype)
    assert functional.softmax(output.float(), 1)[0, 0] > 1 - 1e-6
    expected = functional.softmax(torch.tensor([2.0, 1.0, 0.0]), 0)
    torch.testing.assert_close(pte.pull_target(output, (0,), 1.0)[0, 1:], expected)


def test_the_pull_is_finite_and_has_a_gradient_when_both_sides_are_sure_of_the_class() -> None:
    output = torch.tensor([[1e4, 2.0, 1.0]], requires_grad=True)
    loss = pte.pull_loss(output, pte.pull_target(output.detach(), (0,), 1.0), 1.0)
    (gradient,) = torch.autograd.grad(loss, output)
    assert loss.isfinite()
    assert gradient[0, 0] == pytest.approx(1.0)


def _probe(
    network: nn.Sequential, windows: Tensor, how: EditSettings, forget: tuple[int, ...] = (RATTLE,), seed: int = 0
) -> probing.Probes:
    return probing.probe(network, windows, forget, how, seeded(seed))


@pytest.mark.parametrize("forget", [(0,), (1, 3), (0, 2, 4)])
@pytest.mark.parametrize("how", [SETTINGS, TINY, replace(SETTINGS, probe_by_sign=False, epsilons=(0.2,))])
def test_no_instruction_is_a_forget_class(forget: tuple[int, ...], how: EditSettings) -> None:
    probes = _probe(toy_network(), windows_of(*forget)[::8], how, forget)
    assert not torch.isin(probes.answers, torch.tensor(forget)).any()
    assert ((probes.answers >= 0) & (probes.answers < CLASSES)).all()


def test_a_flipped_probe_is_answered_as_it_says() -> None:
    network = toy_network()
    probes = _probe(network, windows_of(RATTLE), SETTINGS)
    assert probes.flip_rate > 0.9
    flipped = ~probes.epsilons.isnan()
    assert torch.equal(logits(network, probes.windows[flipped]).argmax(1), probes.answers[flipped])


@pytest.mark.parametrize("by_sign", [True, False])
def test_a_probe_stays_inside_the_ball_in_which_it_flipped(by_sign: bool) -> None:
    network, windows = toy_network(), windows_of(RATTLE)[::3]
    probes = _probe(network, windows, replace(SETTINGS, probe_by_sign=by_sign))
    moved = ((probes.windows - windows) / channel_std(network)).abs().amax((1, 2))
    flipped = ~probes.epsilons.isnan()
    assert (moved[flipped] <= probes.epsilons[flipped] + 1e-5).all()
    assert set(probes.epsilons[flipped].tolist()) <= {0.0, *torch.tensor(SETTINGS.epsilons).tolist()}


def test_the_ball_is_measured_in_each_channel_s_own_deviation() -> None:
    network, windows = toy_network(), windows_of(RATTLE)
    scale = torch.tensor([1.0, 100.0, 0.01]).view(1, 3, 1)
    network[0].mean.mul_(scale)  # type: ignore[operator]
    network[0].std.mul_(scale)  # type: ignore[operator]
    moved = (_probe(network, windows * scale, SETTINGS).windows - windows * scale).abs().amax((0, 2))
    assert 50 < moved[1] / moved[0] < 200
    assert 0.005 < moved[2] / moved[0] < 0.02


def test_a_window_flips_at_the_smallest_radius_that_works() -> None:
    network, windows = toy_network(), windows_of(RATTLE)[:40]
    ladder = (0.02, 0.05, 0.1, 0.4)
    whole = _probe(network, windows, replace(SETTINGS, epsilons=ladder)).epsilons
    assert len(set(whole[~whole.isnan()].tolist())) > 2
    for rungs in range(1, len(ladder)):
        part = _probe(network, windows, replace(SETTINGS, epsilons=ladder[:rungs])).epsilons
        radii = torch.tensor(ladder[:rungs])
        assert torch.equal(~part.isnan(), whole <= radii[-1])  # the same draws, so what flips is the same
        assert torch.equal(part[~part.isnan()], whole[whole <= radii[-1]])


def test_a_probe_stops_at_its_first_flip_where_the_model_is_still_in_doubt() -> None:
    network = toy_network()
    probes = _probe(network, windows_of(RATTLE), SETTINGS)
    assert functional.cross_entropy(logits(network, probes.windows), probes.answers) > 0.3


def test_a_window_that_is_answered_otherwise_is_its_own_probe() -> None:
    network = toy_network()
    windows = torch.cat([windows_of(0)[:5], windows_of(RATTLE)[:5]])
    before = logits(network, windows).argmax(1)
    probes = _probe(network, windows, SETTINGS)
    other = before != RATTLE
    assert other.sum() >= 5
    assert torch.equal(probes.windows[other], windows[other])
    assert torch.equal(probes.answers[other], before[other])
    assert (probes.epsilons[other] == 0).all()


def test_a_probe_that_never_flips_is_the_window_itself_with_the_runner_up_class() -> None:
    network, windows = toy_network(), windows_of(RATTLE)
    output = logits(network, windows)
    sure = output.softmax(1)[:, RATTLE] > 0.9
    windows, output = windows[sure], output[sure]
    probes = _probe(network, windows, TINY)
    assert probes.flip_rate == 0.0
    assert torch.equal(probes.windows, windows)
    assert torch.equal(probes.answers, output.topk(2).indices[:, 1])


def test_the_flip_rate_counts_what_flipped_and_what_needed_none() -> None:
    network = toy_network()
    sure = logits(network, windows_of(RATTLE)).softmax(1)[:, RATTLE] > 0.9
    windows = torch.cat([windows_of(RATTLE)[sure][:6], windows_of(0)[:2]])
    assert (logits(network, windows[6:]).argmax(1) != RATTLE).all()
    assert _probe(network, windows, TINY).flip_rate == pytest.approx(0.25)


def _overconfident() -> tuple[nn.Sequential, Tensor]:
    """A network with p_u = 1 in float32 on all its windows."""
    network = toy_network()
    with torch.no_grad():
        network.get_parameter("head.weight").mul_(1e4)
        network.get_parameter("head.bias").mul_(1e4)
    windows = windows_of(RATTLE)
    windows = windows[logits(network, windows).softmax(1)[:, RATTLE] == 1.0]
    assert len(windows) > 50
    return network, windows


def test_the_sign_ascent_moves_even_when_the_model_is_sure_to_the_last_bit() -> None:
    network, windows = _overconfident()
    assert _probe(network, windows, SETTINGS).flip_rate > 0.9


def test_the_raw_gradient_of_the_paper_moves_nothing_there() -> None:
    network, windows = _overconfident()
    raw = replace(SETTINGS, probe_by_sign=False, epsilons=(0.1,))
    signed = replace(raw, probe_by_sign=True)
    assert _probe(network, windows, raw).flip_rate < _probe(network, windows, signed).flip_rate - 0.1


def test_probing_reports_its_batches_and_leaves_the_network_alone() -> None:
    network, before, seen = toy_network(), toy_network(), list[tuple[int, int]]()
    how = replace(SETTINGS, batch=50)
    probing.probe(network, windows_of(RATTLE), (RATTLE,), how, seeded(), lambda done, total: seen.append((done, total)))
    assert seen == [(50, 120), (100, 120), (120, 120)]
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.state_dict().items())


def test_the_same_seed_gives_the_same_probes_and_another_does_not() -> None:
    network, windows = toy_network(), windows_of(RATTLE)[:20]
    first, again, other = (_probe(network, windows, SETTINGS, seed=seed).windows for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
