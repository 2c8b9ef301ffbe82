"""Dreams: their targets, their split, what the network answers to them, and what evidence reads from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edge_agent.adapters.checkpoints import load_dreams, save_dreams
from edge_agent.core import dreams as dreaming
from edge_agent.core.dreams import Dreams, DreamSettings, anchors_and_evidence, dream, joined, noisy
from edge_agent.core.errors import BrokenRelease
from edge_agent.core.evidence import Evidence, without
from edge_agent.core.networks import channel_std
from edge_agent.core.training import logits
from tests.model_fixtures import CLASSES, SHAPE, seeded, toy_dreams, toy_margins, toy_network, untrained, windows_of

FEW = DreamSettings(typical=2, soft=1, border=2, batch=64)


def _numbered(classes: int = CLASSES) -> Dreams:
    """The dreams that ship for ``classes`` classes, each window holding nothing but its own number."""
    first, second, target = dreaming._targets(classes, DreamSettings(), seeded())
    windows = torch.arange(len(first)).float().view(-1, 1, 1)
    return Dreams(windows, first, second, target.max(1).values == 1)


@given(classes=st.integers(2, 19), typical=st.integers(1, 5), soft=st.integers(0, 4), border=st.integers(0, 30))
@settings(max_examples=50)
def test_every_target_is_a_distribution_led_by_its_class(classes: int, typical: int, soft: int, border: int) -> None:
    how = DreamSettings(typical, soft, border)
    first, second, target = dreaming._targets(classes, how, seeded())
    assert target.shape == (classes * (typical + soft + border), classes)
    torch.testing.assert_close(target.sum(1), torch.ones(len(target)))
    assert torch.equal(target.argmax(1), first)
    assert torch.equal(first.bincount(), torch.full((classes,), typical + soft + border))
    edge = second >= 0
    assert edge.sum() == classes * border
    assert (first != second).all()
    torch.testing.assert_close(target[edge].gather(1, second[edge, None])[:, 0], torch.full((int(edge.sum()),), 0.45))


def test_the_borders_of_a_class_reach_every_other_class() -> None:
    made = _numbered()
    for label in range(CLASSES):
        partners = set(made.second[(made.first == label) & (made.second >= 0)].tolist())
        assert partners == set(range(CLASSES)) - {label}


@pytest.mark.parametrize("gone", [(), (0,), (1, 3)])
def test_every_kind_of_every_class_is_among_anchors_and_evidence(gone: tuple[int, ...]) -> None:
    for side in anchors_and_evidence(without(_numbered(), gone)):
        for label in set(range(CLASSES)) - set(gone):
            own = side.pick(side.first == label)
            assert own.typical.any()
            assert (~own.typical & (own.second < 0)).any()
            assert (own.second >= 0).any()


@pytest.mark.parametrize("gone", [(), (2,), (0, 4)])
def test_anchors_and_evidence_share_no_dream_and_lose_none(gone: tuple[int, ...]) -> None:
    made = without(_numbered(), gone)
    anchors, evidence = (set(side.windows.flatten().tolist()) for side in anchors_and_evidence(made))
    assert not anchors & evidence
    assert anchors | evidence == set(made.windows.flatten().tolist())
    assert len(anchors) > len(evidence) > 0


@given(gone=st.sets(st.integers(0, CLASSES - 1), max_size=CLASSES))
def test_no_dream_has_a_part_of_a_forget_class(gone: set[int]) -> None:
    left = without(_numbered(), tuple(gone))
    assert not gone & {*left.first.tolist(), *left.second.tolist()}
    everything = _numbered()
    stays = [
        not gone & {one, two} for one, two in zip(everything.first.tolist(), everything.second.tolist(), strict=True)
    ]
    assert len(left) == sum(stays)


def test_most_typical_dreams_are_answered_with_their_class() -> None:
    made, network = toy_dreams(), toy_network()
    right = (logits(network, made.windows).argmax(1) == made.first)[made.typical].float()
    of = made.first[made.typical]
    assert right.mean() > 0.7
    assert all(right[of == label].mean() > 0.4 for label in range(CLASSES))


def test_a_border_dream_lies_between_its_two_classes() -> None:
    made, network = toy_dreams(), toy_network()
    edge = made.pick(made.second >= 0)
    chance = logits(network, edge.windows).softmax(1)
    both = chance.gather(1, edge.first[:, None]) + chance.gather(1, edge.second[:, None])
    assert both.mean() > 0.6
    own = chance.gather(1, edge.first[:, None]).mean()
    assert 0.3 < own < 0.7


def _distance(network: nn.Sequential, windows: Tensor) -> float:
    """Distance of the stem's batch norm input from its running statistics, relative to them."""
    with torch.no_grad():
        inputs = network[1][0](network[0](windows))  # type: ignore[index]
    norm = network.get_submodule("stem.1")
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return float((inputs.var((0, 2)) - norm.running_var).norm() / norm.running_var.norm())


def test_the_prior_draws_the_dreams_to_the_statistics_of_real_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreaming, "STEPS", 60)
    network = toy_network()
    with_prior = dream(network, CLASSES, SHAPE, FEW, seeded()).windows
    monkeypatch.setattr(dreaming, "PRIOR_WEIGHT", 0.0)
    without_prior = dream(network, CLASSES, SHAPE, FEW, seeded()).windows
    real = torch.cat([windows_of(label) for label in range(CLASSES)])
    assert _distance(network, real) < 0.1
    assert _distance(network, with_prior) < 0.5 * _distance(network, without_prior)


def test_dreams_are_in_the_unit_of_the_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreaming, "STEPS", 5)
    network = toy_network()
    network[0].mean.add_(50.0)  # type: ignore[operator]
    network[0].std.mul_(7.0)  # type: ignore[operator]
    plain = dream(toy_network(), CLASSES, SHAPE, FEW, seeded()).windows
    other = dream(network, CLASSES, SHAPE, FEW, seeded()).windows
    mean = toy_network().get_buffer("normalise.mean")
    torch.testing.assert_close(other, (plain - mean) * 7 + mean + 50, rtol=1e-4, atol=1e-3)


def test_dreaming_leaves_no_hook_no_gradient_and_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreaming, "STEPS", 3)
    network, before = toy_network(), toy_network().state_dict()
    dream(network, CLASSES, SHAPE, FEW, seeded())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_batch_is_a_small_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreaming, "STEPS", 1)
    sizes = list[int]()
    network = untrained(classes=5, length=32)
    hook = network[1].register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    dream(network, 5, (3, 32), DreamSettings(typical=2, soft=0, border=0, batch=9), seeded())
    hook.remove()
    assert sizes == [5, 5]


def test_progress_counts_every_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreaming, "STEPS", 3)
    seen = list[tuple[int, int]]()
    how = DreamSettings(typical=2, soft=0, border=0, batch=5)
    dream(untrained(length=32), CLASSES, (3, 32), how, seeded(), lambda done, total: seen.append((done, total)))
    assert seen == [(step, 6) for step in range(1, 7)]


def test_noisy_dreams_are_the_typical_ones_with_half_a_deviation_of_noise() -> None:
    made, network = toy_dreams(), toy_network()
    copies = noisy(made, network, seeded())
    assert torch.equal(copies.first, made.first[made.typical])
    assert not copies.typical.any()
    noise = (copies.windows - made.windows[made.typical]) / channel_std(network)
    torch.testing.assert_close(noise.std((0, 2)), torch.full((3,), 0.5), rtol=0.03, atol=0)


def test_a_network_that_is_unchanged_keeps_everything() -> None:
    evidence = Evidence(without(toy_dreams(), (1,)), (1,), toy_margins())
    rows = evidence.compare(toy_network(), toy_network())
    assert [row.label for row in rows] == [0, 2, 3, 4]
    assert all((row.agreement, row.border_kept) == pytest.approx((1.0, 1.0)) for row in rows)


def test_evidence_names_the_class_that_was_harmed() -> None:
    harmed, evidence = toy_network(), Evidence(without(toy_dreams(), (1,)), (1,), toy_margins())
    with torch.no_grad():
        harmed.get_parameter("head.bias")[3] -= 3.0
    rows = {row.label: row for row in evidence.compare(toy_network(), harmed)}
    assert min(rows.values(), key=lambda row: row.border_kept).label == 3
    assert rows[3].border_kept < 0.6


def test_what_happens_to_the_forget_class_does_not_count_as_harm() -> None:
    masked, evidence = toy_network(), Evidence(without(toy_dreams(), (1,)), (1,), toy_margins())
    with torch.no_grad():
        masked.get_parameter("head.bias")[1] -= 100.0
    for row in evidence.compare(toy_network(), masked):
        assert (row.agreement, row.border_kept) == pytest.approx((1.0, 1.0), abs=1e-5)


def test_a_tail_has_strayed_by_its_divergence_among_the_classes_that_stay() -> None:
    network, changed, tau = toy_network(), toy_network(), 4.0
    evidence = Evidence(without(toy_dreams(), (1,)), (1,), toy_margins())
    strayed = evidence.watch(network, network[:-1], tau)
    assert strayed(network[-1:]) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        changed.get_parameter("head.bias")[1] += 5.0  # the class that is to go
    assert strayed(changed[-1:]) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        changed.get_parameter("head.weight").add_(0.5 * torch.randn(5, 32, generator=seeded()))
    before, after = (
        (logits(each, evidence.dreams.windows)[:, [0, 2, 3, 4]] / tau).double().softmax(1)
        for each in (network, changed)
    )
    expected = tau**2 * (before * (before / after).log()).sum(1).mean().item()
    assert strayed(changed[-1:]) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01


def test_saved_dreams_are_answered_nearly_as_before(tmp_path: Path) -> None:
    made, network, path = toy_dreams(), toy_network(), tmp_path / "dreams.safetensors"
    save_dreams(made, path)
    loaded = load_dreams(path)
    assert torch.equal(loaded.first, made.first)
    assert torch.equal(loaded.second, made.second)
    assert torch.equal(loaded.typical, made.typical)
    assert path.stat().st_size < 1.1 * made.windows.numel()
    before, after = logits(network, made.windows).softmax(1), logits(network, loaded.windows).softmax(1)
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.97
    assert (before - after).abs().mean() < 0.02


def test_a_silent_channel_survives_saving(tmp_path: Path) -> None:
    windows = torch.zeros(1, 2, 8)
    windows[0, 1, 3] = 5.0
    save_dreams(Dreams(windows, torch.tensor([0]), torch.tensor([-1]), torch.tensor([True])), tmp_path / "d")
    torch.testing.assert_close(load_dreams(tmp_path / "d").windows, windows)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors", "a key is missing"])
def test_a_file_that_holds_no_dreams_is_refused(content: bytes | str | None, tmp_path: Path) -> None:
    path = tmp_path / "dreams.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        safetensors.torch.save_file({"samples": torch.zeros(1, 2, 3, dtype=torch.int8)}, path)
    with pytest.raises(BrokenRelease, match="holds no dreams") as caught:
        load_dreams(path)
    assert caught.value.code == "E_WEIGHTS"


def test_joined_sets_keep_their_order() -> None:
    made = _numbered()
    halves = made.pick(torch.arange(10)), made.pick(torch.arange(10, len(made)))
    together = joined(halves)
    assert torch.equal(together.windows, made.windows)
    assert torch.equal(together.second, made.second)
