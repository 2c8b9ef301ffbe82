"""Gradient descent with momentum: the arithmetic of ``torch.optim.SGD``, without what its class imports."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.descent import Descent
from tests.model_fixtures import seeded
from tests.scripts import ROOT

WITHOUT_THE_COMPILER = """
import sys
import torch
from edge_agent.core.descent import Descent

network = torch.nn.Linear(2, 1)
Descent(network, 0.1, 0.9).step((1.0, lambda: network(torch.ones(3, 2)).sum()))
print("torch._dynamo" in sys.modules)
torch.optim.SGD(network.parameters(), 0.1)
print("torch._dynamo" in sys.modules)
"""


def network_and_batches() -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    generator = seeded()
    windows = torch.randn(5, 2, 16, 6, generator=generator)
    return network, [(one, other) for one, other in windows]


def loss_of(network: nn.Module, windows: Tensor) -> Tensor:
    return functional.cross_entropy(network(windows), torch.arange(len(windows)) % 3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_is_that_of_torchs_own_class_bit_for_bit(momentum: float) -> None:
    ours, batches = network_and_batches()
    theirs = copy.deepcopy(ours)
    descent, optimiser = Descent(ours, 0.1, momentum), torch.optim.SGD(theirs.parameters(), 0.1, momentum)
    for one, other in batches:
        values = descent.step((1.0, partial(loss_of, ours, one)), (30.0, partial(loss_of, ours, other)))
        first, second = loss_of(theirs, one), loss_of(theirs, other)
        optimiser.zero_grad()
        (first + 30.0 * second).backward()
        optimiser.step()
        assert values == [first.item(), second.item()]
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_a_loss_is_computed_when_the_graph_of_the_one_before_is_gone() -> None:
    network, batches = network_and_batches()
    seen: list[str] = []

    def term(name: str, windows: Tensor) -> Tensor:
        seen.append(name)
        loss = loss_of(network, windows)
        loss.register_hook(lambda _: seen.append(f"gradient of {name}"))
        return loss

    one, other = batches[0]
    Descent(network, 0.1, 0.9).step((1.0, lambda: term("a", one)), (2.0, lambda: term("b", other)))
    assert seen == ["a", "gradient of a", "b", "gradient of b"]


def test_it_does_without_torchs_compiler() -> None:
    """The class of torch.optim imports it: a forget job took 70 MiB and a second of CPU for that."""
    command = [sys.executable, "-c", WITHOUT_THE_COMPILER]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == ["False", "True"]  # once torch's class does without as well, ours may go
