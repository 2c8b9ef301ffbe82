"""What somebody finds who has a state directory, or an older copy of its files, and the keys that it holds today.

Every file as it lies there, and whatever of it any of the keys opens: a search that finds what is marked before an
erasure proves something when it finds nothing afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import safetensors.numpy

from edge_agent.adapters.releases import SEALED, Release
from edge_agent.core.errors import KeyLost
from edge_agent.reservoir import HEADER_BYTES
from edge_agent.schemas.card import DREAMS, MODEL, WEIGHTS
from edge_agent.slots import slot_bytes
from edge_agent.vault import OVERHEAD_BYTES, Cipher, Vault

Image = Mapping[Path, bytes]
_SLOTS = re.compile(r"([0-9a-f]{16}-(\d+)x(\d+))\.\d+\.slots")


def image(folder: Path) -> Image:
    """Every file below a folder, as it is now."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}


def readable(content: Image, vault: Vault) -> Iterator[bytes]:
    """All that can be read in an image: bare files, and opened with any key of the vault."""
    ciphers = {name: vault.find(name) for name in vault.names("")}
    for path, stored in content.items():
        yield stored
        for cipher in ciphers.values():
            if match := _SLOTS.fullmatch(path.name):
                yield from _bodies(stored, cipher, match[1], int(match[2]) * int(match[3]) * 4)
            elif path.name.endswith(SEALED):
                with suppress(KeyLost):
                    yield cipher.open(stored, f"{path.parent.name}/{path.name.removesuffix(SEALED)}")


def _bodies(stored: bytes, cipher: Cipher, name: str, body_bytes: int) -> Iterator[bytes]:
    size, skipped = slot_bytes(HEADER_BYTES, body_bytes), HEADER_BYTES + OVERHEAD_BYTES
    for slot in range(len(stored) // size):
        with suppress(KeyLost):
            yield cipher.open(stored[slot * size + skipped : (slot + 1) * size], f"{name}/{slot}/body")


def knowledge(release: Release, label: int) -> list[bytes]:
    """What a release holds of one class alone: its row of the head, and its dreams."""
    weights, dreams = (safetensors.numpy.load(release.read(name)) for name in (WEIGHTS, DREAMS))
    (head,) = (value for value in weights.values() if value.ndim == 2)
    assert head[label].tobytes() in release.read(MODEL)
    return [head[label].tobytes(), *(dream.tobytes()[:256] for dream in dreams["samples"][dreams["first"] == label])]


def found(marks: list[bytes], content: Image, vault: Vault) -> int:
    """How many of the marks can be read in an image."""
    texts = list(readable(content, vault))
    return sum(any(mark in text for text in texts) for mark in marks)
