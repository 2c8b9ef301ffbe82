"""Training: what it leaves in the network, when it stops, and that a seed decides it all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.errors import Misconfigured
from edge_agent.core.networks import channel_std
from edge_agent.core.training import AT_ONCE, Epoch, TrainingSettings, _shift, fit, logits
from tests.model_fixtures import CLASSES, accuracy, seeded, tensors, toy_data, toy_network, train_toy, untrained

LENGTH = 64
SHORT = TrainingSettings(epochs=3, batch=16, rate=1e-2)


def _some(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Windows in which the label is the size of the tone."""
    labels = torch.arange(count) % 2
    noise = torch.randn(count, 3, LENGTH, generator=seeded(seed))
    return noise * (1 + 2 * labels).view(-1, 1, 1), labels


def _train(how: TrainingSettings, count: int = 48, seed: int = 0) -> tuple[nn.Sequential, list[Epoch]]:
    network = untrained(classes=2, length=LENGTH)
    return network, fit(network, _some(count), _some(20, seed=1), how, seeded(seed))


def test_the_toy_data_set_is_learned() -> None:
    network, history = train_toy()
    assert accuracy(network, *range(CLASSES)) > 0.95
    assert history[-1].train_loss < history[0].train_loss / 3


def test_the_network_of_the_fixtures_knows_the_toy_data_set() -> None:
    assert accuracy(toy_network(), *range(CLASSES)) > 0.95


def test_the_network_holds_the_statistics_of_its_training_windows() -> None:
    windows = tensors(toy_data().train)[0]
    network, _history = train_toy()
    torch.testing.assert_close(network.get_buffer("normalise.mean").flatten(), windows.mean((0, 2)))
    torch.testing.assert_close(channel_std(network).flatten(), windows.std((0, 2)))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.7, 1000.1])
def test_a_constant_channel_is_refused(value: float) -> None:
    windows, labels = _some(20)
    windows[:, 2] = value
    with pytest.raises(Misconfigured, match=r"channels \[2\]"):
        fit(untrained(classes=2, length=LENGTH), (windows, labels), _some(4), SHORT, seeded())


def test_the_best_epoch_is_kept_and_not_the_last() -> None:
    network = untrained(classes=2, length=LENGTH)
    windows, labels = _some(48)
    validation = _some(20, seed=1)
    # Wrong labels to validate on: every epoch that learns makes it worse, so an early one is the best.
    validation = validation[0], 1 - validation[1]
    history = fit(network, (windows, labels), validation, TrainingSettings(epochs=12, batch=16, rate=1e-2), seeded())
    best = min(epoch.validation_loss for epoch in history)
    assert history[-1].validation_loss > 1.5 * best
    loss = functional.cross_entropy(logits(network, validation[0]), validation[1])
    assert loss.item() == pytest.approx(best, rel=1e-5)


def test_training_stops_after_epochs_without_progress() -> None:
    validation = _some(20, seed=1)
    how = TrainingSettings(epochs=40, batch=16, rate=1e-2, patience=3)
    network = untrained(classes=2, length=LENGTH)
    history = fit(network, _some(48), (validation[0], 1 - validation[1]), how, seeded())
    losses = [epoch.validation_loss for epoch in history]
    assert len(history) < 40
    assert len(history) == losses.index(min(losses)) + 1 + how.patience


def test_a_validation_loss_that_is_never_a_number_ends_training_by_patience() -> None:
    network = untrained(classes=2, length=LENGTH)
    windows, labels = _some(4)
    how = TrainingSettings(epochs=20, batch=16, patience=2)
    assert len(fit(network, _some(32), (windows * torch.nan, labels), how, seeded())) == 2


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    first, again, other = (_train(SHORT, seed=seed)[0].get_parameter("head.weight") for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [33, 49])
def test_a_last_batch_of_one_window_is_left_out(count: int) -> None:
    network, history = _train(SHORT, count)
    assert len(history) == SHORT.epochs
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_the_network_never_trains_on_a_single_window() -> None:
    seen = list[int]()
    network = untrained(classes=2, length=LENGTH)
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])) if module.training else None)
    fit(network, _some(33), _some(20, seed=1), TrainingSettings(epochs=2, batch=16), seeded())
    assert seen == [16, 16, 16, 16]


def test_every_epoch_is_reported_as_it_ends() -> None:
    seen = list[Epoch]()
    network = untrained(classes=2, length=LENGTH)
    history = fit(network, _some(32), _some(20, seed=1), SHORT, seeded(), seen.append)
    assert seen == history
    assert [(epoch.number, epoch.epochs) for epoch in history] == [(1, 3), (2, 3), (3, 3)]
    assert all(0.0 <= epoch.validation_accuracy <= 1.0 for epoch in history)


def test_the_network_is_left_in_evaluation_mode() -> None:
    assert not any(module.training for module in _train(SHORT)[0].modules())


@pytest.mark.parametrize("count", [1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE + 2])
def test_logits_in_batches_are_those_of_all_windows_at_once(count: int) -> None:
    network, windows = toy_network(), tensors(toy_data().test)[0][:count]
    with torch.no_grad():
        torch.testing.assert_close(logits(network, windows), network(windows), rtol=1e-4, atol=1e-4)


@given(most=st.integers(0, 100), length=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_shifted_window_is_the_window_rolled_and_its_channels_together(most: int, length: int, seed: int) -> None:
    windows = torch.arange(length).float().repeat(4, 2, 1) + torch.tensor([0.0, 1000.0]).view(1, 2, 1)
    shifted = _shift(windows, most, seeded(seed))
    for one, before in zip(shifted, windows, strict=True):
        turns = (one[0, 0] - before[0, 0]).int().item()
        assert torch.equal(one, before.roll(-int(turns), 1))
        away = int(turns) % length
        assert min(away, length - away) <= most
