"""The networks: shapes, edit scopes, entry points, channel statistics."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edge_agent.core import networks
from edge_agent.core.errors import BrokenRelease, Misconfigured
from edge_agent.core.networks import EditScope
from edge_agent.core.training import logits
from tests.model_fixtures import seeded, untrained

PARTS = ["normalise", "stem", "stage1", "stage2", "stage3", "stage4", "pool", "head"]
SCOPES: list[tuple[EditScope, str]] = [("head", "head"), ("last_stage", "stage4"), ("all", "stem")]

PLUGIN = """
from torch import nn
from edge_agent.core.networks import Standardise

def build(channels, classes, width, length):
    return nn.Sequential(Standardise(channels), nn.Flatten(), nn.Linear(channels * length, classes))
"""


def _noise(batch: int, channels: int, length: int) -> Tensor:
    return torch.randn(batch, channels, length, generator=seeded())


@pytest.mark.parametrize(
    ("channels", "classes", "width", "length"),
    [(1, 2, 4, 32), (3, 5, 4, 256), (9, 7, 16, 1024), (2, 19, 8, 125), (45, 3, 4, 33)],
)
def test_logits_have_one_column_per_class_for_any_size(channels: int, classes: int, width: int, length: int) -> None:
    network = untrained(width, classes, channels, length)
    output = logits(network, _noise(3, channels, length))
    assert output.shape == (3, classes)
    assert output.dtype == torch.float32
    assert output.isfinite().all()


def test_a_single_window_is_answered_in_evaluation_mode() -> None:
    assert logits(untrained(), _noise(1, 3, 256)).shape == (1, 5)


def test_a_window_shorter_than_the_five_halvings_is_refused() -> None:
    with pytest.raises(BrokenRelease, match=r"E_ARCHITECTURE.*31.*at least 32"):
        untrained(length=31)


def test_the_parts_have_the_names_that_the_scopes_cut_by() -> None:
    assert [name for name, _ in untrained().named_children()] == PARTS


@pytest.mark.parametrize(("scope", "first"), SCOPES)
def test_a_scope_begins_at_its_part(scope: EditScope, first: str) -> None:
    assert networks.cut(untrained(), scope) == PARTS.index(first)


@pytest.mark.parametrize(("scope", "_first"), SCOPES)
def test_trunk_and_tail_together_are_the_network(scope: EditScope, _first: str) -> None:
    network, windows = untrained().eval(), _noise(4, 3, 256)
    at = networks.cut(network, scope)
    with torch.no_grad():
        torch.testing.assert_close(network[at:](network[:at](windows)), network(windows), rtol=0, atol=0)


@pytest.mark.parametrize(("scope", "_first"), SCOPES)
def test_the_tail_shares_its_weights_with_the_network(scope: EditScope, _first: str) -> None:
    network = untrained()
    tail = network[networks.cut(network, scope) :]
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.zero_()
    assert network.get_parameter("head.weight").count_nonzero() == 0


def test_the_paper_s_width_has_as_many_weights_as_resnet_18_in_one_dimension() -> None:
    count = sum(parameter.numel() for parameter in untrained(64, 7, 9, 1024).parameters())
    assert count == pytest.approx(3.85e6, rel=0.01)


def test_weights_come_from_the_global_seed_alone() -> None:
    first, again = untrained().state_dict(), untrained().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_an_unknown_architecture_is_refused_by_name_with_those_that_are_known() -> None:
    with pytest.raises(BrokenRelease, match=r"'vgg_1d' is unknown; built in: .*resnet18_1d") as caught:
        networks.build("vgg_1d", channels=3, classes=5, width=4, length=256)
    assert caught.value.code == "E_ARCHITECTURE"


def test_an_installed_package_adds_an_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "plug_in-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{networks.ENTRY_POINT_GROUP}]\nlinear_1d = plugged_linear:build\n")
    (tmp_path / "plugged_linear.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    network = networks.build("linear_1d", channels=2, classes=3, width=1, length=40)
    assert logits(network, _noise(5, 2, 40)).shape == (5, 3)
    assert networks.cut(network, "head") == 2


def test_windows_are_standardised_by_the_statistics_in_the_network() -> None:
    network = untrained()
    windows = _noise(50, 3, 256) * torch.tensor([1.0, 20.0, 0.1]).view(1, 3, 1) + torch.tensor([5.0, -3.0, 0.0]).view(
        1, 3, 1
    )
    networks.set_statistics(network, windows.mean((0, 2)), windows.std((0, 2)))
    standard = network[0](windows)
    torch.testing.assert_close(standard.mean((0, 2)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(standard.std((0, 2)), torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(networks.channel_std(network).flatten(), windows.std((0, 2)))


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -1.0])
def test_a_channel_that_cannot_be_standardised_is_refused_by_its_index(bad: float) -> None:
    network = untrained()
    with pytest.raises(Misconfigured, match=r"channels \[1\]"):
        networks.set_statistics(network, torch.zeros(3), torch.tensor([1.0, bad, 2.0]))
    assert torch.equal(networks.channel_std(network).flatten(), torch.ones(3))


def test_a_network_that_does_not_start_with_its_normalisation_is_refused() -> None:
    with pytest.raises(AssertionError, match="starts with its normalisation"):
        networks.channel_std(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
