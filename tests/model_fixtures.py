"""One trained toy network, its dreams and one good edit; every caller gets its own copy.

The network was trained once, by ``python -m tests.model_fixtures``, and is read from a file: each processor would train
another one, and what a rival's edit makes of a network so narrow differs from one to the next.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks import models, toy
from edge_agent.adapters import checkpoints
from edge_agent.core import networks, pte
from edge_agent.core.dreams import Dreams, DreamSettings, dream
from edge_agent.core.edit_settings import EditSettings
from edge_agent.core.evidence import Evidence, prepare, without
from edge_agent.core.margins import Margins, measure
from edge_agent.core.training import Epoch, TrainingSettings, fit, logits
from edge_agent.core.types import Dataset, Split

torch.set_num_threads(1)

CLASSES = len(toy.CLASSES)
TRAINED = Path(__file__).with_name("toy_network.safetensors")
SHAPE = (len(toy.CHANNELS), toy.LENGTH)
RATTLE = 1  # the class that is forgotten where one will do


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def tensors(split: Split) -> tuple[Tensor, Tensor]:
    """A split's windows and labels."""
    return torch.from_numpy(split.windows), torch.from_numpy(split.labels)


def untrained(
    width: int = 4, classes: int = CLASSES, channels: int = SHAPE[0], length: int = SHAPE[1], seed: int = 0
) -> nn.Sequential:
    """A network with seeded initial weights."""
    torch.manual_seed(seed)
    return networks.build("resnet18_1d", channels=channels, classes=classes, width=width, length=length)


@cache
def toy_data() -> Dataset:
    """The toy data set, not to be written to."""
    return toy.dataset()


def windows_of(*labels: int, test: bool = False) -> Tensor:
    """The training (or test) windows of some classes."""
    data = toy_data()
    windows, of = tensors(data.test if test else data.train)
    return windows[torch.isin(of, torch.tensor(labels))]


@cache
def train_toy() -> tuple[nn.Sequential, list[Epoch]]:
    """A toy network of this processor's own making, not to be written to, and the epochs of its training."""
    data, network = toy_data(), untrained(seed=1)
    settings = TrainingSettings(epochs=8, batch=32, rate=1e-2)
    return network, fit(network, tensors(data.train), tensors(data.validation), settings, seeded(1))


@cache
def _trained() -> nn.Sequential:
    network = untrained()
    network.load_state_dict(load_file(TRAINED))
    return network.eval()


def toy_network() -> nn.Sequential:
    """The toy network after training: right on about 98 % of the test windows."""
    return copy.deepcopy(_trained())


@cache
def toy_dreams() -> Dreams:
    """Dreams of the toy network, the number of each kind that ships."""
    return dream(toy_network(), CLASSES, SHAPE, DreamSettings(), seeded(2))


@cache
def toy_margins() -> Margins:
    """Margins of the toy network on its validation windows, as a card carries them."""
    windows, labels = tensors(toy_data().validation)
    return measure(logits(toy_network(), windows).numpy(), labels.numpy(), CLASSES)


def dreams_without(*forget: int) -> tuple[Tensor, Evidence]:
    """Anchors and evidence that have no part of a forget class, noisy copies included, as the forget job makes them."""
    network, generator = toy_network(), seeded(3)
    return prepare(without(toy_dreams(), forget), network, forget, toy_margins(), generator)


@dataclass(frozen=True)
class Edited:
    """An edit and what it was made of."""

    network: nn.Sequential
    outcome: pte.Edit
    windows: Tensor
    evidence: Evidence


@cache
def _good_edit() -> Edited:
    network, windows = toy_network(), windows_of(RATTLE)
    anchors, evidence = dreams_without(RATTLE)
    outcome = pte.edit(network, windows, (RATTLE,), EditSettings(), seeded(1), anchors=anchors, evidence=evidence)
    return Edited(network, outcome, windows, evidence)


def good_edit() -> Edited:
    """The toy network after it has been made to forget ``RATTLE`` with the settings that ship."""
    return copy.deepcopy(_good_edit())


def accuracy(network: nn.Module, *labels: int) -> float:
    """Accuracy in [0, 1] on the test windows of some classes."""
    windows, of = tensors(toy_data().test)
    chosen = torch.isin(of, torch.tensor(labels))
    return (logits(network, windows[chosen]).argmax(1) == of[chosen]).float().mean().item()


def changed_parts(before: nn.Sequential, after: nn.Sequential) -> set[str]:
    """Names of the parts of the sequence in which any parameter or buffer is not bit-identical."""
    pairs = zip(before.state_dict().items(), after.state_dict().values(), strict=True)
    return {name.split(".")[0] for (name, one), other in pairs if not torch.equal(one, other)}


def looks(network: nn.Module, label: int) -> list[Tensor]:
    """Fills up whenever ``network``, or a copy of it, is only asked: which windows it answers with ``label``."""
    seen: list[Tensor] = []

    def note(asked: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not asked.training and not torch.is_grad_enabled():
            seen.append(output.argmax(1) == label)

    network.register_forward_hook(note)
    return seen


if __name__ == "__main__":
    models.same_kernels()
    checkpoints.save_weights(train_toy()[0], TRAINED)
