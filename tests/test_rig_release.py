"""The release that ships with the package is in step with the code; ``make rig-release`` makes it anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch

from edge_agent import rig
from edge_agent.adapters import checkpoints
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import Release, read_release
from edge_agent.commands.demo import packaged_release
from edge_agent.core.training import logits
from edge_agent.files import size_of
from edge_agent.live import self_test
from edge_agent.schemas.card import DREAMS, MODEL, WEIGHTS

SEED = 1  # of make rig-release


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    with packaged_release() as folder:
        yield read_release(folder)


def test_it_is_at_most_five_megabytes_and_passes_its_self_test(release: Release) -> None:
    assert size_of(release.folder) <= 5_000_000
    self_test(OnnxModel(release.read(MODEL), 1), release)


def test_it_was_trained_on_the_rig_as_it_is_now(release: Release) -> None:
    data, card = rig.dataset(SEED), release.card
    assert (card.classes, card.channels, card.length, card.rate_hz) == (
        data.classes, data.channels, data.length, data.rate_hz
    )  # fmt: skip
    assert card.channel_mean == pytest.approx(data.train.windows.mean(axis=(0, 2)).tolist(), abs=1e-4)
    assert card.channel_std == pytest.approx(data.train.windows.std(axis=(0, 2)).tolist(), rel=1e-3)


def test_its_weights_fit_the_architecture_and_agree_with_its_onnx_file(release: Release) -> None:
    network = checkpoints.load_network(release.read(WEIGHTS), release.card)
    windows = np.stack([take.samples for take in islice(rig.stream(np.random.default_rng(7)), 28)])
    assert (
        np.abs(
            logits(network, torch.from_numpy(windows)).numpy() - OnnxModel(release.read(MODEL), 1).logits(windows)
        ).max()
        <= 1e-4
    )
    dreams = checkpoints.load_dreams(release.folder / DREAMS)
    assert set(dreams.first.tolist()) == set(range(len(rig.CLASSES)))


def test_it_is_as_good_as_its_card_says_on_runs_it_has_never_seen(release: Release) -> None:
    takes = list(islice(rig.stream(np.random.default_rng(99)), 1400))
    answers = OnnxModel(release.read(MODEL), 2).logits(np.stack([take.samples for take in takes])).argmax(axis=1)
    accuracy = 100 * np.mean(
        [rig.CLASSES[answer] == take.fault_class for answer, take in zip(answers, takes, strict=True)]
    )
    assert accuracy == pytest.approx(release.card.metrics["test_accuracy"], abs=8)
    assert 78 <= release.card.metrics["test_accuracy"] <= 92
