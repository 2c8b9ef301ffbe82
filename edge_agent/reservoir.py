"""One class's cached windows, and which of them stay: reservoir sampling (Vitter 1985, algorithm R)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np

from edge_agent.core.types import Window
from edge_agent.slots import SlotFile

_HEADER: Final = struct.Struct("<Bqq64s64s")
HEADER_BYTES: Final = _HEADER.size

Key = tuple[str, str, int]  # asset, boot, seq


class Source(IntEnum):
    """How the class of a cached window is known; higher goes first."""

    EMPTY = 0
    DIAGNOSIS = 1  # a confident answer of the model
    LABEL = 2  # a later label message
    SENDER = 3  # the window's own label


@dataclass(frozen=True)
class Header:
    """What a slot says of its window."""

    source: Source
    key: Key
    captured_ns: int

    @staticmethod
    def of(window: Window, source: Source) -> Header:
        """The header of a window."""
        return Header(source, (window.asset, window.boot, window.seq), window.captured_ns)

    @staticmethod
    def read(packed: bytes) -> Header:
        """The inverse of ``packed``."""
        source, seq, captured_ns, asset, boot = _HEADER.unpack(packed)
        return Header(Source(source), (asset.rstrip(b"\0").decode(), boot.rstrip(b"\0").decode(), seq), captured_ns)

    def packed(self) -> bytes:
        """``HEADER_BYTES`` bytes: source, seq, captured_ns, asset, boot."""
        asset, boot, seq = self.key
        return _HEADER.pack(self.source, seq, self.captured_ns, asset.encode(), boot.encode()[:64])


@dataclass
class Reservoir:
    """The slots of one class's file.

    Args:
        file: where they lie.
        size: how many there may be.
        closed: whether windows of the class are turned away.
    """

    file: SlotFile
    size: int
    closed: bool = False
    keys: list[Key | None] = field(init=False)
    sources: list[Source] = field(init=False)
    _seen: dict[bool, int] = field(init=False)  # windows offered so far: labelled (True) and not (False)

    def __post_init__(self) -> None:
        self.keys, self.sources = [None] * self.size, [Source.EMPTY] * self.size
        self._seen = {True: 0, False: 0}

    @property
    def filled(self) -> int:
        """How many slots hold a window."""
        return sum(source > 0 for source in self.sources)

    def hold(self, slot: int, key: Key, source: Source) -> None:
        """The slot holds a window now."""
        self.keys[slot], self.sources[slot] = key, source

    def vacate(self, slot: int) -> None:
        """The slot holds no window any more."""
        self.keys[slot], self.sources[slot] = None, Source.EMPTY

    def count_as_seen(self) -> None:
        """Begin with what lies in the file: how many windows were offered before is not known any more."""
        self._seen = {labelled: len(self._slots(labelled=labelled)) for labelled in (True, False)}

    def place(self, generator: np.random.Generator, *, labelled: bool) -> int | None:
        """The slot for a new window, or None if the reservoir passes it over.

        Labelled windows replace unlabelled ones, never the other way round.
        """
        self._seen[labelled] += 1
        if Source.EMPTY in self.sources:
            return self.sources.index(Source.EMPTY)
        if labelled and (unlabelled := self._slots(labelled=False)):
            return unlabelled[int(generator.integers(len(unlabelled)))]
        own = self._slots(labelled=labelled)
        pick = int(generator.integers(self._seen[labelled]))
        return own[pick] if pick < len(own) else None

    def _slots(self, *, labelled: bool) -> list[int]:
        wanted = range(Source.LABEL, Source.SENDER + 1) if labelled else (Source.DIAGNOSIS,)
        return [slot for slot, source in enumerate(self.sources) if source in wanted]
