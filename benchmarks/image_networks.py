"""ResNet-18 for pictures, for the paper's table on CIFAR only: no gateway serves it.

A picture is a window of shape (channels, height * width), row after row, and every part hands on feature maps in the
same form, (batch, channels, pixels). A batch norm over the last axis is then the very ``nn.BatchNorm1d`` that dreams
are held to, pooling is the mean over that axis, and a convolution is an ``nn.Conv1d`` whose taps lie in a square, so
that rounding weights finds it. Methods and measures need not know that a window is a picture.
"""

from __future__ import annotations

import math
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.errors import BrokenRelease
from edge_agent.core.networks import BasicBlock, resnet18

SMALLEST_SIDE: Final = 8  # pixels: the three halvings leave one


def square(windows: Tensor) -> Tensor:
    """Square pictures as such: (batch, channels, side * side) -> (batch, channels, side, side), no copy."""
    side = math.isqrt(windows.shape[2])
    pictures: Tensor = windows.unflatten(2, (side, side))
    return pictures


class SquareConv(nn.Conv1d):
    """A two-dimensional convolution of flattened square pictures, without bias.

    The weight is that of ``nn.Conv2d`` with its two last axes flattened: (outputs, inputs, size * size).
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int) -> None:
        super().__init__(inputs, outputs, size * size, stride, padding=size // 2, bias=False)
        self.size = size

    def forward(self, windows: Tensor) -> Tensor:
        """(batch, inputs, side * side) -> (batch, outputs, (side / stride)^2)."""
        weight = self.weight.unflatten(2, (self.size, self.size))
        return functional.conv2d(square(windows), weight, None, self.stride * 2, self.padding[0]).flatten(2)


class SquareBlock(BasicBlock):
    """The block of ``resnet18_1d`` with 3 x 3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.conv1 = SquareConv(inputs, outputs, 3, stride)
        self.conv2 = SquareConv(outputs, outputs, 3, 1)
        if not isinstance(self.shortcut, nn.Identity):
            self.shortcut = nn.Sequential(SquareConv(inputs, outputs, 1, stride), nn.BatchNorm1d(outputs))


def resnet18_2d(channels: int, classes: int, width: int, length: int) -> nn.Sequential:
    """ResNet-18 for small pictures, as usual on CIFAR: a 3 x 3 stem of stride 1, no max pooling.

    The paper's size is ``width=64``. The parts have the names of ``resnet18_1d``'s.

    Raises:
        BrokenRelease: ``E_ARCHITECTURE``, a window of ``length`` samples is no square picture, or too small a one.
    """
    side = math.isqrt(length)
    if side * side != length or side < SMALLEST_SIDE:
        least = f"a square of at least {SMALLEST_SIDE} x {SMALLEST_SIDE}"
        raise BrokenRelease("E_ARCHITECTURE", f"window length is {length}, resnet18_2d needs {least}")
    stem = nn.Sequential(SquareConv(channels, width, 3, 1), nn.BatchNorm1d(width), nn.ReLU())
    return resnet18(stem, SquareBlock, channels, classes, width)
