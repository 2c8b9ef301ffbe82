"""Transformers for windows: ViT-S (Dosovitskiy et al., ICLR 2021) and Swin-T (Liu et al., ICCV 2021), one-dimensional.

Both are sequences of the named parts that ``core/networks.py`` describes; between ``stem`` and ``pool`` they hold
tokens, float32 (batch, tokens, dim). ``width=64`` is the papers' size, as for the ResNet. Blocks normalise before
attention and perceptron; there is no dropout and no stochastic depth, so that training draws nothing but its batches.
Linear weights start as in ViT's code (Xavier): Swin's normal of 0.02 suits the papers' dimensions only.
docs/decisions/0011-backbones-without-batch-norm.md says why the sizes are what they are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.core.errors import BrokenRelease
from edge_agent.core.parts import SpectrumRecord, Standardise

STAGES: Final = 4
MLP_RATIO: Final = 4
INITIAL_STD: Final = 0.02  # of positions and of biases by distance

VIT_PATCH: Final = 16  # samples
VIT_HEADS: Final = 6
VIT_BLOCKS: Final = 3  # of each stage, 12 in all

SWIN_PATCH: Final = 4  # samples
SWIN_MERGE: Final = 4  # tokens that become one between stages: in two dimensions, 2 x 2
SWIN_WINDOW: Final = 8  # tokens
SWIN_HEADS: Final = 3  # of the first stage
SWIN_BLOCKS: Final = (2, 2, 6, 2)


def vit_1d(channels: int, classes: int, width: int, length: int) -> nn.Sequential:
    """ViT-S with patches of 16 samples: dimension ``6 * width``, 6 heads, 12 blocks, three of them in each stage.

    Features are the mean over the tokens; there is no class token.

    Raises:
        BrokenRelease: ``E_ARCHITECTURE``, a window has fewer than two patches.
    """
    if length < 2 * VIT_PATCH:
        raise BrokenRelease("E_ARCHITECTURE", f"window length is {length}, vit_1d needs at least {2 * VIT_PATCH}")
    dim = VIT_HEADS * width
    patches = PatchEmbedding(channels, dim, VIT_PATCH, length)
    parts = _begun(channels, length, patches, position=Position(patches.tokens, dim))
    for stage in range(STAGES):
        blocks = (Block(dim, Attention(dim, VIT_HEADS)) for _ in range(VIT_BLOCKS))
        parts[f"stage{stage + 1}"] = nn.Sequential(*blocks)
    return _finished(parts, dim, classes)


def swin_1d(channels: int, classes: int, width: int, length: int) -> nn.Sequential:
    """Swin-T with patches of 4 samples: dimension ``1.5 * width``, doubled where four tokens become one.

    Stages of 2, 2, 6 and 2 blocks with 3, 6, 12 and 24 heads of ``width / 2`` values; 1,024 samples are 256, 64, 16
    and 4 tokens, in attention windows of 8.

    Raises:
        BrokenRelease: ``E_ARCHITECTURE``, the width is odd, or a window shorter than two patches.
    """
    if width % 2 or length < 2 * SWIN_PATCH:
        words = f"width is {width} and window length {length}, swin_1d needs an even one and at least {2 * SWIN_PATCH}"
        raise BrokenRelease("E_ARCHITECTURE", words)
    dim = SWIN_HEADS * width // 2
    patches = PatchEmbedding(channels, dim, SWIN_PATCH, length)
    tokens, parts = patches.tokens, _begun(channels, length, patches, norm=nn.LayerNorm(dim))
    for stage, count in enumerate(SWIN_BLOCKS):
        layers: list[nn.Module] = []
        if stage > 0:
            layers.append(PatchMerging(dim, tokens))
            dim, tokens = 2 * dim, -(-tokens // SWIN_MERGE)
        heads = SWIN_HEADS << stage
        layers += (Block(dim, WindowAttention(dim, heads, tokens, shifted=number % 2 == 1)) for number in range(count))
        parts[f"stage{stage + 1}"] = nn.Sequential(*layers)
    return _finished(parts, dim, classes)


def _begun(channels: int, length: int, patches: nn.Module, **last: nn.Module) -> OrderedDict[str, nn.Module]:
    stem = nn.Sequential(OrderedDict(record=SpectrumRecord(channels, length), patches=patches, **last))
    return OrderedDict(normalise=Standardise(channels), stem=stem)


def _finished(parts: OrderedDict[str, nn.Module], dim: int, classes: int) -> nn.Sequential:
    parts["pool"] = nn.Sequential(OrderedDict(norm=nn.LayerNorm(dim), mean=MeanOverTokens()))
    parts["head"] = nn.Linear(dim, classes)
    network = nn.Sequential(parts)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


class PatchEmbedding(nn.Module):
    """One token for every ``patch`` samples. Windows are filled up to whole patches with 0, their channels' mean."""

    def __init__(self, channels: int, dim: int, patch: int, length: int) -> None:
        super().__init__()
        self.tokens = -(-length // patch)
        self.padding = self.tokens * patch - length
        self.conv = nn.Conv1d(channels, dim, patch, stride=patch)

    def forward(self, windows: Tensor) -> Tensor:
        """(batch, channels, length) -> (batch, tokens, dim)."""
        embedded: Tensor = self.conv(functional.pad(windows, (0, self.padding)))
        return embedded.transpose(1, 2)


class Position(nn.Module):
    """Adds to each token a vector of its place, which is learned."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(INITIAL_STD * torch.randn(1, tokens, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> the same shape."""
        return x + self.vectors


class Attention(nn.Module):
    """Every token attends to every token."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> the same shape."""
        # (batch, tokens, 3 * dim) -> 3 x (batch, heads, tokens, dim / heads)
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class WindowAttention(nn.Module):
    """Every token attends to those of its attention window, with a learned bias for each distance.

    If ``shifted``, the attention windows begin half of one later, so that tokens on either side of a border of the
    block before now meet. The sequence is rolled for that, and filled up to whole attention windows; a mask keeps its
    two ends from each other, and the filling from both.
    """

    distance: Tensor
    mask: Tensor

    def __init__(self, dim: int, heads: int, tokens: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, min(SWIN_WINDOW, tokens)
        self.windows = -(-tokens // self.window)
        self.padding = self.windows * self.window - tokens
        self.shift = self.window // 2 if shifted and self.windows > 1 else 0
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.bias = nn.Parameter(INITIAL_STD * torch.randn(2 * self.window - 1, heads))
        place = torch.arange(self.window)
        self.register_buffer("distance", place[:, None] - place + self.window - 1, persistent=False)
        self.register_buffer("mask", self._mask(tokens), persistent=False)

    def _mask(self, tokens: int) -> Tensor:
        """(windows, 1, window, window): minus infinity between tokens that do not belong together, else 0."""
        region = torch.zeros(self.windows * self.window)
        region[: self.shift] = 1
        region[tokens:] = 2
        region = region.roll(-self.shift).view(self.windows, 1, self.window)
        apart = region != region.transpose(1, 2)
        return torch.zeros(apart.shape).masked_fill(apart, -torch.inf).unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> the same shape."""
        tokens = x.shape[1]
        x = functional.pad(x, (0, 0, 0, self.padding)).roll(-self.shift, 1).unflatten(1, (self.windows, self.window))
        # (batch, windows, window, 3 * dim) -> 3 x (batch, windows * heads, window, dim / heads)
        query, key, value = self.qkv(x).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        bias = self.bias[self.distance].permute(2, 0, 1) + self.mask  # (windows, heads, window, window)
        y = functional.scaled_dot_product_attention(query, key, value, bias.flatten(0, 1))
        y = y.unflatten(1, (self.windows, self.heads)).transpose(2, 3).flatten(3).flatten(1, 2)
        out: Tensor = self.out(y.roll(self.shift, 1)[:, :tokens])
        return out


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, dim: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, MLP_RATIO * dim), nn.GELU(), nn.Linear(MLP_RATIO * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> the same shape."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchMerging(nn.Module):
    """Makes one token of four neighbours, with twice the dimension; a last group is filled up with 0."""

    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.padding = -tokens % SWIN_MERGE
        self.norm = nn.LayerNorm(SWIN_MERGE * dim)
        self.linear = nn.Linear(SWIN_MERGE * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> (batch, tokens / 4, 2 * dim)."""
        groups = functional.pad(x, (0, 0, 0, self.padding)).unflatten(1, (-1, SWIN_MERGE)).flatten(2)
        out: Tensor = self.linear(self.norm(groups))
        return out


class MeanOverTokens(nn.Module):
    """Global average pooling: (batch, tokens, dim) -> (batch, dim)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over the tokens."""
        return x.mean(dim=1)
