"""The network for pictures: what it computes, what of it dreams and rounding find, and methods on toy pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks import images, models, quick, runs
from benchmarks.image_networks import SquareConv, resnet18_2d
from benchmarks.settings import tensors
from edge_agent.core import gate, networks, training
from edge_agent.core.errors import BrokenRelease
from edge_agent.core.types import Dataset, Split

torch.set_num_threads(1)

SIDE = 8  # of toy pictures


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_a_square_convolution_is_the_usual_one_of_the_flattened_picture(size: int, stride: int) -> None:
    torch.manual_seed(0)
    part, flat = SquareConv(2, 5, size, stride), torch.randn(4, 2, 81)
    weight = part.weight.view(5, 2, size, size)
    usual = functional.conv2d(flat.view(4, 2, 9, 9), weight, stride=stride, padding=size // 2)
    assert part(flat).equal(usual.flatten(2))


def test_the_network_has_the_parts_of_the_one_dimensional_one_and_a_logit_for_each_class() -> None:
    network = resnet18_2d(channels=3, classes=7, width=4, length=1024).eval()
    usual = networks.build("resnet18_1d", channels=3, classes=7, width=4, length=1024)
    assert [name for name, _ in network.named_children()] == [name for name, _ in usual.named_children()]
    windows = torch.rand(2, 3, 1024)
    assert network(windows).shape == (2, 7)
    assert [network[:end](windows).shape[2] for end in range(2, 7)] == [1024, 1024, 256, 64, 16]


def test_dreams_find_every_norm_and_rounding_finds_every_convolution() -> None:
    network = resnet18_2d(channels=3, classes=7, width=4, length=256)
    assert sum(isinstance(module, nn.BatchNorm1d) for module in network.modules()) == 20
    rounded = gate.rounded(network, bits=4)
    pairs = zip(network.named_parameters(), rounded.parameters(), strict=True)
    changed = [name for (name, before), after in pairs if not before.equal(after)]
    assert len(changed) == 21  # 20 convolutions and the head


@pytest.mark.parametrize("length", [1000, 49])
def test_what_is_no_square_of_a_useful_size_is_refused(length: int) -> None:
    with pytest.raises(BrokenRelease, match=rf"E_ARCHITECTURE.*{length}.*8 x 8"):
        resnet18_2d(channels=3, classes=2, width=4, length=length)


# Methods on pictures


def toy_pictures() -> Dataset:
    """Three classes: bright rows, bright columns, a bright middle; of any colour, in noise."""
    generator = np.random.default_rng(0)
    shapes = np.zeros((3, SIDE, SIDE), np.float32)
    shapes[0, ::4], shapes[1, :, ::4], shapes[2, 2:6, 2:6] = 1, 1, 1

    def split(count: int) -> Split:
        labels = np.repeat(np.arange(3), count)
        colours = generator.uniform(0.5, 1.0, (len(labels), 3, 1))
        windows = shapes[labels].reshape(-1, 1, SIDE * SIDE) * colours
        return Split((windows + 0.1 * generator.standard_normal(windows.shape)).astype(np.float32), labels)

    return Dataset("toy", quick.CLASSES[:3], images.CHANNELS, 1.0, "", "draw", split(40), split(10), split(10))


@cache
def toy_case() -> quick.SmallCase:
    return quick.SmallCase(quick.SETTING, toy_pictures(), 0, (1,), "resnet18_2d")


def test_the_network_learns_what_stands_across_its_rows() -> None:
    torch.manual_seed(0)
    data, how = toy_pictures(), training.TrainingSettings(epochs=8, batch=16, rate=1e-2, max_shift=0)
    network = models.build(data, "resnet18_2d", width=4)
    training.fit(network, tensors(data.train), tensors(data.validation), how, torch.Generator().manual_seed(0))
    windows, labels = tensors(data.test)
    assert (training.logits(network, windows).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("method", ["pte", "delete"])
def test_a_method_and_its_measures_take_pictures_for_windows(method: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    wanted = quick.run_of(method, architecture="resnet18_2d")
    runs.carry_on([wanted], path, lambda _: toy_case())
    (row,) = runs.read(path)
    assert (row["architecture"], row["n_ft"], row["n_rt"]) == ("resnet18_2d", "10", "20")
    assert float(row["forward"]) > 0
    assert 0 <= float(row["h_mean"]) <= 100
