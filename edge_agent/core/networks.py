"""Networks as plain sequences of named parts, and the edit scopes that cut them.

A network is an ``nn.Sequential``: ``normalise, stem, stage1..4, pool, head``. The cut between what an edit may
change and what it may not is then an index, and ``network[:cut]`` / ``network[cut:]`` are the trunk and the tail.

Windows come in as float32 (batch, channels, length) in the sensor's unit; logits go out as float32 (batch, classes).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final, Literal

from torch import Tensor, nn

from edge_agent.core.errors import BrokenRelease, Misconfigured
from edge_agent.core.parts import MeanOverTime, SpectrumRecord, Standardise
from edge_agent.core.transformers import swin_1d, vit_1d

EditScope = Literal["head", "last_stage", "all"]
Builder = Callable[[int, int, int, int], nn.Sequential]

DEFAULT: Final = "resnet18_1d"
ENTRY_POINT_GROUP: Final = "edge_agent.networks"


class BasicBlock(nn.Module):
    """Two 3-tap convolutions with a shortcut (He et al. 2016, figure 5 left), in one dimension."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv1d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm1d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, n) -> (batch, outputs, n / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


def resnet18_1d(channels: int, classes: int, width: int, length: int) -> nn.Sequential:
    """ResNet-18 with one-dimensional convolutions; the paper's size is ``width=64``.

    ``length`` only has to be long enough for the five halvings: at least 32 samples.
    """
    if length < 32:
        raise BrokenRelease("E_ARCHITECTURE", f"window length is {length}, resnet18_1d needs at least 32")
    stem = nn.Sequential(
        nn.Conv1d(channels, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.MaxPool1d(3, stride=2, padding=1),
    )
    return resnet18(stem, BasicBlock, channels, classes, width)


def resnet18(stem: nn.Module, block: type[BasicBlock], channels: int, classes: int, width: int) -> nn.Sequential:
    """Eight blocks in four stages (He et al. 2016, table 1) behind a ``stem`` of ``width`` outputs."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(normalise=Standardise(channels), stem=stem)
    inputs = width
    for stage in range(4):
        outputs = width << stage
        blocks = block(inputs, outputs, 1 if stage == 0 else 2), block(outputs, outputs, 1)
        parts[f"stage{stage + 1}"] = nn.Sequential(*blocks)
        inputs = outputs
    parts["pool"] = MeanOverTime()
    parts["head"] = nn.Linear(inputs, classes)
    network = nn.Sequential(parts)
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


_BUILT_IN: Final[dict[str, Builder]] = {"resnet18_1d": resnet18_1d, "swin_1d": swin_1d, "vit_1d": vit_1d}


def build(architecture: str, *, channels: int, classes: int, width: int, length: int) -> nn.Sequential:
    """Make an untrained network by the name that stands in a release's card.

    Other packages add names through the entry-point group ``edge_agent.networks``.

    Raises:
        BrokenRelease: nobody provides the architecture.
    """
    builder = _BUILT_IN.get(architecture)
    if builder is None:
        found = [point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == architecture]
        if not found:
            known = ", ".join(sorted(_BUILT_IN))
            raise BrokenRelease("E_ARCHITECTURE", f"architecture {architecture!r} is unknown; built in: {known}")
        builder = found[0].load()
    return builder(channels, classes, width, length)


def cut(network: nn.Sequential, scope: EditScope) -> int:
    """Index of the first part that an edit of this scope may change.

    ``head`` is the last part, ``last_stage`` the last part named ``stage*`` and all after it, ``all`` everything
    behind the normalisation.
    """
    names = [name for name, _ in network.named_children()]
    if scope == "head":
        return len(names) - 1
    if scope == "last_stage":
        return max(index for index, name in enumerate(names) if name.startswith("stage"))
    return names.index("normalise") + 1


def channel_std(network: nn.Sequential) -> Tensor:
    """The channels' standard deviation, (1, channels, 1): the unit of epsilon and of sensor noise."""
    return _standardise(network).std


def set_statistics(network: nn.Sequential, mean: Tensor, std: Tensor) -> None:
    """Write the training set's channel mean and standard deviation, each (channels,), into the network.

    Raises:
        Misconfigured: ``E_DATA``, a channel is constant or not finite, so that it cannot be standardised.
    """
    bad = [index for index, value in enumerate(std.tolist()) if not (math.isfinite(value) and value > 0)]
    if bad:
        raise Misconfigured("E_DATA", f"channels {bad} have no usable standard deviation (constant or not finite)")
    part = _standardise(network)
    part.mean.copy_(mean.view(1, -1, 1))
    part.std.copy_(std.view(1, -1, 1))


def graph_state(network: nn.Module) -> dict[str, Tensor]:
    """All state that logits depend on, by its name in the state dict: not the record of a spectrum, not counters."""
    records = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, SpectrumRecord))
    state = network.state_dict().items()
    return {name: value for name, value in state if value.is_floating_point() and not name.startswith(records)}


def _standardise(network: nn.Sequential) -> Standardise:
    part = network[0]
    assert isinstance(part, Standardise), "a network starts with its normalisation"
    return part
