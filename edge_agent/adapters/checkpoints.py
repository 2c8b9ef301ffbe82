"""Weights and dreams as safetensors, and the way from a release back to a torch network."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from edge_agent.core import networks
from edge_agent.core.dreams import Dreams
from edge_agent.core.errors import BrokenRelease
from edge_agent.schemas.card import Card

INT8_MOST: Final = 127


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers."""
    safetensors.torch.save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)


def load_network(content: bytes, card: Card) -> nn.Sequential:
    """Build the card's architecture and fill it from the content of a safetensors file.

    Raises:
        BrokenRelease: ``E_ARCHITECTURE`` or ``E_WEIGHTS``.
    """
    size = {"channels": len(card.channels), "classes": len(card.classes), "width": card.width, "length": card.length}
    network = networks.build(card.architecture, **size)
    try:
        network.load_state_dict(safetensors.torch.load(content))
    except (SafetensorError, RuntimeError) as error:  # load_state_dict raises RuntimeError for names and shapes
        raise BrokenRelease("E_WEIGHTS", f"the weights do not fit {card.architecture}: {str(error)[:300]}") from error
    return network.eval()


def save_dreams(dreams: Dreams, path: Path) -> None:
    """Write dreams, samples as int8 with one scale per channel (decision 0004: half the size of float16)."""
    scale = dreams.windows.abs().amax(dim=2, keepdim=True).clamp_min(1e-12) / INT8_MOST
    tensors = {
        "samples": (dreams.windows / scale).round().to(torch.int8),
        "scale": scale.float(),
        "first": dreams.first,
        "second": dreams.second,
        "typical": dreams.typical,
    }
    safetensors.torch.save_file(tensors, path)


def load_dreams(path: Path) -> Dreams:
    """Read dreams.

    Raises:
        BrokenRelease: ``E_WEIGHTS``, the file is missing or not what ``save_dreams`` writes.
    """
    try:
        content = safetensors.torch.load_file(path)
        windows = content["samples"].float() * content["scale"]
        return Dreams(windows, content["first"], content["second"], content["typical"])
    except (SafetensorError, FileNotFoundError, KeyError, RuntimeError) as error:
        raise BrokenRelease("E_WEIGHTS", f"{path} holds no dreams: {str(error)[:300]}") from error
