"""The window cache: per class a bounded reservoir of windows on disk, from which a forget job is fed.

A class has one file of equal slots, so disk use is bounded by construction. Which windows stay is decided by reservoir
sampling (Vitter 1985, algorithm R), so that a class is represented by all of its history and the disk is written less
and less. Labelled windows replace unlabelled ones, never the other way round.

Slot: magic, CRC-32 of the rest of the header, source, seq, captured_ns, CRC-32 of the samples, asset, boot; then the
samples, float32 (channels, length). A slot that does not check out is empty: a torn write loses one window.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

import numpy as np

from edge_agent.core.errors import Refused
from edge_agent.core.types import Float32, Window
from edge_agent.files import remove, storage

_HEADER: Final = struct.Struct("<4sIBqqI64s64s")
_MAGIC: Final = b"WIN1"


class Source(IntEnum):
    """How the class of a cached window is known; higher goes first."""

    EMPTY = 0
    DIAGNOSIS = 1  # a confident answer of the model
    LABEL = 2  # a later label message
    SENDER = 3  # the window's own label


Key = tuple[str, str, int]  # asset, boot, seq


@dataclass
class _Class:
    """One class's file and what is known of its slots."""

    descriptor: int
    path: Path
    keys: list[Key | None]
    sources: list[Source]
    seen: dict[bool, int]  # windows offered so far: labelled (True) and not (False)
    closed: bool = False

    def slots(self, *, labelled: bool) -> list[int]:
        wanted = range(Source.LABEL, Source.SENDER + 1) if labelled else (Source.DIAGNOSIS,)
        return [slot for slot, source in enumerate(self.sources) if source in wanted]


class WindowCache:
    """All cached windows. Owned by the agent's main thread.

    Args:
        folder: where the files lie; files of another window shape in it are destroyed.
        per_class: most windows of one class.
        max_bytes: most bytes of all files together; lowers ``per_class`` where it must.
        recent: how many windows without a known class wait in memory for a label message.
    """

    def __init__(
        self,
        folder: Path,
        per_class: int,
        max_bytes: int,
        recent: int,
        generator: np.random.Generator,
    ) -> None:
        self._folder, self._generator = folder, generator
        self._most_per_class, self._max_bytes = per_class, max_bytes
        self._recent: deque[Window] = deque(maxlen=recent)
        self._classes: dict[str, _Class] = {}
        self._where: dict[Key, tuple[str, int]] = {}

    def fit(self, classes: tuple[str, ...], shape: tuple[int, int]) -> int:
        """Serve a release: take its classes and window shape (channels, samples).

        Windows of classes that it has in common with the last one stay, if the shape does. The files of others are
        destroyed; their number is returned.

        Raises:
            StorageFailed: the cache takes no windows of the classes whose file cannot be opened.
        """
        self.close()
        self._recent.clear()
        self._shape, self._slot_bytes = shape, _HEADER.size + shape[0] * shape[1] * 4
        self.per_class = min(self._most_per_class, self._max_bytes // self._slot_bytes // len(classes))
        self._where = {}
        with storage("the window cache cannot be opened"):
            self._folder.mkdir(parents=True, exist_ok=True)
            paths = {name: self._folder / self._file_name(name) for name in classes}
            strays = set(self._folder.iterdir()) - set(paths.values())
            for stray in strays:
                remove(stray)
            for name, path in paths.items():
                self._classes[name] = self._open(name, path)
        return len(strays)

    def counts(self) -> dict[str, int]:
        """Cached windows of each class."""
        return {name: sum(source > 0 for source in one.sources) for name, one in self._classes.items()}

    def remember(self, window: Window) -> None:
        """Keep a window of unknown class in memory for a while, in case its label comes later."""
        self._recent.append(window)

    def offer(self, label: str, window: Window, source: Source) -> bool:
        """Cache a window of a class, if the reservoir takes it; a window already there may gain a better source.

        Raises:
            StorageFailed: it could not be written; the cache is as before.
        """
        key = (window.asset, window.boot, window.seq)
        if key in self._where:
            return self._upgrade(key, label, source)
        one = self._classes.get(label)
        if one is None or one.closed:
            return False
        slot = self._place(one, labelled=source >= Source.LABEL)
        if slot is None:
            return False
        self._write(label, one, slot, window, source)
        return True

    def label(self, asset: str, boot: str | None, seq: int, label: str) -> None:
        """Give a window seen before its true class.

        Raises:
            Refused: ``E_CLASS`` or ``E_NOT_CACHED``.
        """
        if label not in self._classes:
            raise Refused("E_CLASS", f"the live release does not know class {label[:80]!r}")
        # Without a boot the newest is meant: a restarted sender counts anew.
        for place, window in reversed(list(enumerate(self._recent))):
            if window.asset == asset and window.seq == seq and boot in (None, window.boot):
                del self._recent[place]
                self.offer(label, window, Source.LABEL)
                return
        for key in self._where:
            if key[0] == asset and key[2] == seq and boot in (None, key[1]):
                self._upgrade(key, label, Source.LABEL)
                return
        raise Refused("E_NOT_CACHED", f"no window {seq} of asset {asset!r} is at hand")

    def close_classes(self, labels: frozenset[str]) -> None:
        """Take no windows of these classes, which are being forgotten or have been; take those of all others."""
        for name, one in self._classes.items():
            if name in labels and not one.closed:
                self._recent.clear()  # a window whose label is still to come may be of this class
            one.closed = name in labels

    def load(self, label: str, most: int) -> tuple[Float32, dict[str, int]]:
        """At most ``most`` windows of a class, float32 (n, channels, length), best sources first; counts by source.

        Slots whose samples do not check out are dropped.
        """
        one = self._classes[label]
        order = sorted(range(len(one.sources)), key=lambda slot: -one.sources[slot])
        windows: list[Float32] = []
        counts = dict.fromkeys((source.name.lower() for source in Source if source), 0)
        for slot in order:
            if one.sources[slot] is Source.EMPTY or len(windows) == most:
                break
            content = os.pread(one.descriptor, self._slot_bytes, slot * self._slot_bytes)
            samples = content[_HEADER.size :]
            if self._is_sound(content):
                windows.append(np.frombuffer(samples, "<f4").reshape(self._shape))
                counts[one.sources[slot].name.lower()] += 1
            else:
                self._vacate(one, slot)
                with suppress(OSError):  # or the slot is found damaged again after the next start
                    os.pwrite(one.descriptor, bytes(_HEADER.size), slot * self._slot_bytes)
        stacked = np.stack(windows) if windows else np.empty((0, *self._shape), np.float32)
        return stacked, counts

    def erase(self, label: str) -> int:
        """Destroy all windows of a class and keep it closed; returns how many there were.

        Raises:
            StorageFailed: the file could not be removed.
        """
        if label not in self._classes:  # of a release that is not live any more; `fit` has removed its file
            return 0
        one = self._classes.pop(label)
        self._recent.clear()
        self._where = {key: place for key, place in self._where.items() if place[0] != label}
        os.close(one.descriptor)
        with storage(f"the cached windows of {label} cannot be removed"):
            remove(one.path)
            fresh = self._open(label, one.path)
        fresh.closed = True
        self._classes[label] = fresh
        return sum(source > 0 for source in one.sources)

    def close(self) -> None:
        """Close all files."""
        for one in self._classes.values():
            os.close(one.descriptor)
        self._classes = {}

    def _file_name(self, label: str) -> str:
        # A digest, because two class names may differ only in what a file system folds together.
        name = hashlib.sha256(label.encode()).hexdigest()[:16]
        return f"{name}-{self._shape[0]}x{self._shape[1]}.slots"

    def _open(self, label: str, path: Path) -> _Class:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        one = _Class(descriptor, path, [None] * self.per_class, [Source.EMPTY] * self.per_class, {})
        # What lies beyond the last whole slot was torn, or is more than per_class allows now.
        whole = min(os.fstat(descriptor).st_size // self._slot_bytes, self.per_class)
        os.ftruncate(descriptor, whole * self._slot_bytes)
        for slot in range(whole):
            header = os.pread(descriptor, _HEADER.size, slot * self._slot_bytes)
            magic, checksum, source, seq, _, _, asset, boot = _HEADER.unpack(header)
            if magic == _MAGIC and checksum == zlib.crc32(header[8:]):
                key = asset.rstrip(b"\0").decode(), boot.rstrip(b"\0").decode(), seq
                one.keys[slot], one.sources[slot] = key, Source(source)
                self._where[key] = label, slot
        one.seen = {labelled: len(one.slots(labelled=labelled)) for labelled in (True, False)}
        return one

    def _place(self, one: _Class, *, labelled: bool) -> int | None:
        """The slot for a new window of this kind, or None if the reservoir passes it over."""
        one.seen[labelled] += 1
        if Source.EMPTY in one.sources:
            return one.sources.index(Source.EMPTY)
        if labelled and (unlabelled := one.slots(labelled=False)):
            return unlabelled[int(self._generator.integers(len(unlabelled)))]
        own = one.slots(labelled=labelled)
        pick = int(self._generator.integers(one.seen[labelled]))
        return own[pick] if pick < len(own) else None

    def _write(self, label: str, one: _Class, slot: int, window: Window, source: Source) -> None:
        samples = np.ascontiguousarray(window.samples, "<f4").tobytes()
        tail = _HEADER.pack(
            _MAGIC, 0, source, window.seq, window.captured_ns, zlib.crc32(samples),
            window.asset.encode(), window.boot.encode()[:64],
        )[8:]  # fmt: skip
        content = _MAGIC + struct.pack("<I", zlib.crc32(tail)) + tail + samples
        with storage("a window cannot be cached"):
            if os.pwrite(one.descriptor, content, slot * self._slot_bytes) != len(content):
                raise OSError(28, "the disk is full", str(one.path))
        if (old := one.keys[slot]) is not None:
            del self._where[old]
        key = (window.asset, window.boot, window.seq)
        one.keys[slot], one.sources[slot] = key, source
        self._where[key] = label, slot

    def _upgrade(self, key: Key, label: str, source: Source) -> bool:
        """A cached window's class was confirmed or corrected by a better source."""
        old_label, slot = self._where[key]
        one = self._classes[old_label]
        if source <= one.sources[slot] or one.closed:
            return False
        content = os.pread(one.descriptor, self._slot_bytes, slot * self._slot_bytes)
        if not self._is_sound(content):
            self._vacate(one, slot)
            return False
        captured_ns = _HEADER.unpack_from(content)[4]
        samples = np.frombuffer(content[_HEADER.size :], "<f4").reshape(self._shape)
        window = Window(*key, captured_ns, label, samples)
        if label == old_label:
            self._write(label, one, slot, window, source)
            return True
        with storage("a window cannot be moved to its class"):
            # The samples too: they must not outlive an erasure of the class that they belong to.
            os.pwrite(one.descriptor, bytes(self._slot_bytes), slot * self._slot_bytes)
        self._vacate(one, slot)
        return self.offer(label, window, source)

    def _is_sound(self, content: bytes) -> bool:
        """Whether a slot is whole and its samples are those that were written."""
        if len(content) != self._slot_bytes:
            return False
        return bool(_HEADER.unpack_from(content)[5] == zlib.crc32(content[_HEADER.size :]))

    def _vacate(self, one: _Class, slot: int) -> None:
        """The slot holds no window any more."""
        key = one.keys[slot]
        assert key is not None
        one.keys[slot], one.sources[slot] = None, Source.EMPTY
        del self._where[key]
