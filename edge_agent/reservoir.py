"""One class's cached windows, and which of them stay: reservoir sampling (Vitter 1985, algorithm R)."""

from __future__ import annotations

import heapq
import struct
from contextlib import closing
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice
from typing import Final

import numpy as np

from edge_agent.core.types import Float32, Window
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


SOURCES: Final = tuple(source.name.lower() for source in Source if source)  # as they are written


def is_labelled(source: Source) -> bool:
    """Whether somebody said what the window shows; the model did otherwise."""
    return source >= Source.LABEL


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


@dataclass(frozen=True)
class Loaded:
    """What was read of one class.

    Attributes:
        windows: float32 (n, channels, length).
        counts: how many of them there are of each source.
        damaged: slots whose samples do not check out.
    """

    windows: Float32
    counts: dict[str, int]
    damaged: tuple[int, ...]


@dataclass(frozen=True)
class Reader:
    """The windows of one class as they lay there when it was made; may be read once, in any thread, or closed.

    Args:
        file: a handle of its own; None where the class has no file.
        slots: those that hold a window, each with its source, best sources first.
        shape: of a window, (channels, samples).
    """

    file: SlotFile | None
    slots: tuple[tuple[int, Source], ...]
    shape: tuple[int, int]

    def close(self) -> None:
        """Give the handle back."""
        if self.file is not None:
            self.file.close()

    def read(self, most: int) -> Loaded:
        """At most ``most`` windows, best sources first; the handle is closed."""
        counts = dict.fromkeys(SOURCES, 0)
        windows = np.empty((min(most, len(self.slots)), *self.shape), np.float32)
        count, damaged = 0, list[int]()
        if self.file is None:
            return Loaded(windows, counts, ())
        with closing(self):
            for slot, source in self.slots:
                if count == len(windows):
                    break
                samples = self.file.body(slot)
                if samples is None:
                    damaged.append(slot)
                    continue
                windows[count] = np.frombuffer(samples, "<f4").reshape(self.shape)
                counts[source.name.lower()] += 1
                count += 1
        return Loaded(windows[:count], counts, tuple(damaged))


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
    _held: dict[bool, int] = field(init=False)  # windows held: labelled and not
    _vacant: list[int] = field(init=False)  # a heap of all empty slots, among slots that have been filled since

    def __post_init__(self) -> None:
        self.keys, self.sources = [None] * self.size, [Source.EMPTY] * self.size
        self._seen, self._held = {True: 0, False: 0}, {True: 0, False: 0}
        self._vacant = list(range(self.size))

    @property
    def filled(self) -> int:
        """How many slots hold a window."""
        return sum(self._held.values())

    def reader(self, shape: tuple[int, int]) -> Reader:
        """Its windows of this moment, for another thread.

        Raises:
            OSError: there are no more descriptors.
        """
        order = sorted(range(len(self.sources)), key=lambda slot: -self.sources[slot])
        slots = tuple((slot, self.sources[slot]) for slot in order if self.sources[slot])
        return Reader(self.file.duplicate(), slots, shape)

    def hold(self, slot: int, key: Key, source: Source) -> None:
        """The slot holds a window now."""
        self._turn_out(slot)
        self._held[is_labelled(source)] += 1
        self.keys[slot], self.sources[slot] = key, source

    def vacate(self, slot: int) -> None:
        """The slot holds no window any more."""
        if self._turn_out(slot):
            heapq.heappush(self._vacant, slot)

    def count_as_seen(self) -> None:
        """Begin with what lies in the file: how many windows were offered before is not known any more."""
        self._seen = dict(self._held)

    def place(self, generator: np.random.Generator, *, labelled: bool) -> int | None:
        """The slot for a new window, or None if the reservoir passes it over.

        Labelled windows replace unlabelled ones, never the other way round. It is asked for every labelled window,
        so it goes through the slots only where labelled and unlabelled ones are mixed, for one that is taken.
        """
        self._seen[labelled] += 1
        while self._vacant and self.sources[self._vacant[0]]:
            heapq.heappop(self._vacant)
        if self._vacant:
            return self._vacant[0]
        if labelled and self._held[False]:
            return self._nth(int(generator.integers(self._held[False])), labelled=False)
        pick = int(generator.integers(self._seen[labelled]))
        return self._nth(pick, labelled=labelled) if pick < self._held[labelled] else None

    def _nth(self, number: int, *, labelled: bool) -> int:
        """Of the slots with a labelled window, or of those with an unlabelled one, one by its place among them."""
        if self._held[labelled] == self.size:
            return number
        slots = (slot for slot, source in enumerate(self.sources) if source and is_labelled(source) is labelled)
        return next(islice(slots, number, None))

    def _turn_out(self, slot: int) -> bool:
        """Empty a slot; whether it held a window."""
        held = self.sources[slot]
        if held:
            self._held[is_labelled(held)] -= 1
        self.keys[slot], self.sources[slot] = None, Source.EMPTY
        return bool(held)
