"""What the tests of the window cache share: a small cache, and windows that can be found again byte for byte."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edge_agent.adapters.windows import WindowCache
from edge_agent.budget import Budget
from edge_agent.core.errors import KeyLost, Refused
from edge_agent.core.types import Window
from edge_agent.vault import Vault
from tests.plant import unlimited

CLASSES = ("hum", "rattle", "whine")
SHAPE = (2, 8)
HEADER_BYTES = 145 + 28
SLOT_BYTES = HEADER_BYTES + 64 + 28  # header and samples, each sealed


def open_cache(
    folder: Path,
    per_class: int = 8,
    seed: int = 0,
    max_bytes: int = 1 << 20,
    recent: int = 4,
    budget: Budget | None = None,
) -> WindowCache:
    generator = np.random.default_rng(seed)
    cache = WindowCache(folder / "cache", Vault(folder), per_class, max_bytes, recent, budget or unlimited(), generator)
    cache.fit(CLASSES, SHAPE)
    return cache


def window_of(seq: int, asset: str = "press", boot: str = "b") -> Window:
    """A window whose samples are all its sequence number, in which no byte string of another window occurs."""
    return Window(asset, boot, seq, 1000 + seq, None, np.full(SHAPE, seq + 0.5, np.float32))


def seqs_of(cache: WindowCache, label: str) -> list[int]:
    """What a job would be given; slots that it finds damaged are given up."""
    loaded = cache.reader(label).read(10**6)
    cache.drop_damaged(label, loaded.damaged)
    assert all((window == window[0, 0]).all() for window in loaded.windows)
    return sorted(int(window[0, 0]) for window in loaded.windows)


def erase(cache: WindowCache, label: str) -> int:
    """All that an erasure does to the cache, step by step."""
    count = cache.erase(label)
    while cache.rekey_one(label):
        pass
    return count


def files_of(folder: Path) -> dict[Path, bytes]:
    """What the disk holds of windows: an image, as somebody may have kept it."""
    return {path: path.read_bytes() for path in (folder / "cache").glob("*.slots")}


def found_in(folder: Path, image: dict[Path, bytes]) -> list[int]:
    """The windows in an image that the keys of today open."""
    vault, found = Vault(folder), []
    ciphers = [vault.find(name) for name in vault.names("cache-")]
    for path, content in image.items():
        name = path.name.partition(".")[0]
        for slot in range(len(content) // SLOT_BYTES):
            sealed = content[slot * SLOT_BYTES + HEADER_BYTES : (slot + 1) * SLOT_BYTES]
            for cipher in ciphers:
                with suppress(KeyLost):
                    found.append(int(np.frombuffer(cipher.open(sealed, f"{name}/{slot}/body"), np.float32)[0]))
    return sorted(found)


def code_of(cache: WindowCache, *arguments: object) -> str:
    with pytest.raises(Refused) as caught:
        cache.label(*arguments)  # type: ignore[arg-type]
    return caught.value.code
