"""The window cache: per class a bounded reservoir of windows on disk, from which a forget job is fed.

A class has one file of equal, sealed slots (``edge_agent.slots``), so disk use is bounded by construction and erasing a
class is destroying one key. Which windows stay is decided by reservoir sampling (``edge_agent.reservoir``), so that a
class is represented by all of its history and the disk is written less and less.

A slot's header is a ``Header``; its body the samples, float32 (channels, length).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

import numpy as np

from edge_agent.budget import Budget
from edge_agent.core.errors import Refused, StorageFailed
from edge_agent.core.types import Window
from edge_agent.files import storage
from edge_agent.reservoir import HEADER_BYTES, Header, Key, Reader, Reservoir, Source, is_labelled
from edge_agent.slots import SlotFile, destroy, slot_bytes, sweep
from edge_agent.vault import Vault


def window_bytes(channels: int, length: int) -> int:
    """What a cached window of this shape takes on the disk."""
    return slot_bytes(HEADER_BYTES, channels * length * 4)


class WindowCache:
    """All cached windows. Owned by the agent's main thread.

    Args:
        folder: where the files lie; files of another window shape in it are destroyed.
        vault: where their keys lie.
        per_class: most windows of one class.
        max_bytes: most bytes of all files together; lowers ``per_class`` where it must.
        recent: how many windows without a known class wait in memory for a label message.
        budget: how much may be written, beside the first filling of each slot.

    Attributes:
        over_budget: windows that the reservoir would have taken and the budget did not allow.
    """

    def __init__(
        self,
        folder: Path,
        vault: Vault,
        per_class: int,
        max_bytes: int,
        recent: int,
        budget: Budget,
        generator: np.random.Generator,
    ) -> None:
        self._folder, self._vault, self._generator = folder, vault, generator
        self._most_per_class, self._max_bytes = per_class, max_bytes
        self._recent: deque[Window] = deque(maxlen=recent)
        self._budget, self.over_budget = budget, 0
        self._classes: dict[str, Reservoir] = {}
        self._closed = frozenset[str]()
        self._where: dict[Key, tuple[str, int]] = {}
        self._shape, self.per_class = (0, 0), 0

    def fit(self, classes: tuple[str, ...], shape: tuple[int, int]) -> int:
        """Serve a release: take its classes and window shape (channels, samples).

        Windows of classes that it has in common with the last one stay, if the shape does. The files of others are
        destroyed; their number, and that of files whose key is lost, is returned.

        Raises:
            StorageFailed: the cache takes no windows of the classes whose file cannot be opened.
        """
        self._recent.clear()
        self._body_bytes = shape[0] * shape[1] * 4
        self.slot_bytes = window_bytes(*shape)
        per_class = min(self._most_per_class, self._max_bytes // self.slot_bytes // len(classes))
        # Files stay open where they can: to open one, each of its headers is read, and windows wait meanwhile.
        self._close_all_but(frozenset(classes) if (shape, per_class) == (self._shape, self.per_class) else frozenset())
        self._names, self._shape, self.per_class = classes, shape, per_class
        kept = frozenset(self._classes)
        with storage("the window cache cannot be opened"):
            self._folder.mkdir(parents=True, exist_ok=True)
            strays = sweep(self._folder, self._vault, frozenset(map(self._file_name, classes)))
        self._open_missing()
        return strays + sum(one.file.given_up for name, one in self._classes.items() if name not in kept)

    def _open_missing(self) -> None:
        """Open the files of all classes that have none open; one that fails stops no other."""
        failures: list[OSError | StorageFailed] = []
        for name in self._names:
            if name not in self._classes:
                try:
                    self._classes[name] = self._open(name)
                except (OSError, StorageFailed) as error:
                    failures.append(error)
        if failures:
            raise StorageFailed(
                "E_STORAGE", f"{len(failures)} files of the window cache cannot be opened: {failures[0]}"
            )

    def counts(self) -> dict[str, int]:
        """Cached windows of each class."""
        return {name: one.filled for name, one in self._classes.items()}

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
        slot = one.place(self._generator, labelled=is_labelled(source))
        if slot is None:
            return False
        if slot < one.file.count and not self._budget.left:
            self.over_budget += 1
            return False
        self._write(label, one, slot, window, source)
        return True

    def label(self, asset: str, boot: str | None, seq: int, label: str) -> None:
        """Give a window seen before its true class.

        Raises:
            Refused: ``E_CLASS`` or ``E_NOT_CACHED``.
            StorageFailed: it could not be written, or the class's file cannot be opened just now.
        """
        if label not in self._names:
            raise Refused("E_CLASS", f"class {label[:80]!r} is unknown; the release knows {', '.join(self._names)}")
        if label not in self._classes:
            raise StorageFailed("E_STORAGE", f"the cached windows of {label} cannot be opened")
        # Without a boot the newest is meant: a restarted sender counts anew.
        for place, window in reversed(list(enumerate(self._recent))):
            if window.asset == asset and window.seq == seq and boot in (None, window.boot):
                del self._recent[place]
                self.offer(label, window, Source.LABEL)
                return
        found = [key for key in self._where if key[0] == asset and key[2] == seq and boot in (None, key[1])]
        if found:
            newest = max(reversed(found), key=self._captured_ns)  # of equal times that which came last
            self._upgrade(newest, label, Source.LABEL)
            return
        raise Refused(
            "E_NOT_CACHED", f"no window {seq} of asset {asset!r} is cached or among the last {self._recent.maxlen}"
        )

    def close_classes(self, labels: frozenset[str]) -> None:
        """Take no windows of these classes, which are being forgotten or have been; take those of all others.

        It holds for classes of later releases, too.
        """
        self._closed = labels
        for name, one in self._classes.items():
            if name in labels and not one.closed:
                self._recent.clear()  # a window whose label is still to come may be of this class
            one.closed = name in labels

    def reader(self, label: str) -> Reader:
        """The windows of a class, to be read in another thread; none of a class whose file cannot be opened.

        Raises:
            StorageFailed: the file cannot be opened once more.
        """
        one = self._classes.get(label)
        with storage(f"the cached windows of {label} cannot be read"):
            return Reader(None, (), self._shape) if one is None else one.reader(self._shape)

    def drop_damaged(self, label: str, slots: Iterable[int]) -> None:
        """Give up those of a class's slots whose samples do not check out."""
        one = self._classes.get(label)
        for slot in slots:
            if one is None or slot >= one.size or not one.sources[slot] or one.file.body(slot) is not None:
                continue  # the cache has been opened anew since
            self._vacate(one, slot)
            with suppress(OSError):  # or the slot is found damaged again after the next start
                one.file.clear(slot)

    def erase(self, label: str) -> int:
        """Destroy a class's file and keep the class closed; returns how many windows there were.

        Files that windows of the class were moved from need a new key yet (``rekey_one``). Done again, it does what a
        crash left undone.

        Raises:
            StorageFailed: something may be left.
        """
        self._recent.clear()
        self.close_classes(self._closed | {label})
        count = self.counts().get(label, 0)
        with storage(f"the cached windows of {label} cannot be destroyed"):
            self._open_missing()  # one that is not open may hold a window that was moved from it to this class
            destroy(self._folder, self._vault, _digest(label))  # by its name: of whatever shape, open or not
            self._close_all_but(self._classes.keys() - {label})
            self._open_missing()
        return count

    def rekey_one(self, label: str) -> bool:
        """Give one file that windows of an erased class were moved from a new key; whether there was one.

        Raises:
            StorageFailed: the old key may be left.
        """
        with storage(f"what is left of the cached windows of {label} cannot be destroyed"):
            for one in self._classes.values():
                if one.file.has_lent(self._file_name(label)):
                    one.file.rekey()
                    return True
        return False

    def close(self) -> None:
        """Close all files."""
        self._close_all_but(frozenset())

    def _close_all_but(self, kept: AbstractSet[str]) -> None:
        for name in self._classes.keys() - kept:
            self._classes.pop(name).file.close()
        self._where = {key: place for key, place in self._where.items() if place[0] in self._classes}

    def _file_name(self, label: str) -> str:
        return f"{_digest(label)}-{self._shape[0]}x{self._shape[1]}"

    def _open(self, label: str) -> Reservoir:
        sizes = HEADER_BYTES, self._body_bytes, self.per_class
        file = SlotFile(self._folder, self._file_name(label), self._vault, *sizes)
        try:
            return self._filled(label, file)
        except OSError:
            file.close()
            self._where = {key: place for key, place in self._where.items() if place[0] != label}
            raise

    def _filled(self, label: str, file: SlotFile) -> Reservoir:
        """The reservoir of a file, with the windows that lie there."""
        one = Reservoir(file, self.per_class, closed=label in self._closed)
        for slot in range(file.count):
            if (packed := file.header(slot)) is not None:
                header = Header.read(packed)
                if self._twice(header.key, label, one, slot):
                    continue
                one.hold(slot, header.key, header.source)
                self._where[header.key] = label, slot
        one.count_as_seen()
        return one

    def _twice(self, key: Key, label: str, one: Reservoir, slot: int) -> bool:
        """A power cut while a window was moved leaves it in both files; whether this copy is the one to give up."""
        place = self._where.get(key)
        if place is None:
            return False
        other = self._classes.get(place[0], one)
        if other is not one and other.file.has_lent(self._file_name(label)):
            other.file.clear(place[1])
            other.file.sync()
            self._vacate(other, place[1])
            return False
        one.file.clear(slot)
        return True

    def _write(self, label: str, one: Reservoir, slot: int, window: Window, source: Source) -> None:
        header, samples = Header.of(window, source), np.ascontiguousarray(window.samples, "<f4").tobytes()
        with storage("a window cannot be cached"):
            first = slot >= one.file.count
            one.file.write(slot, header.packed(), samples)
        self._budget.spend(0 if first else one.file.page_bytes(slot))
        if (old := one.keys[slot]) is not None:
            self._where.pop(old, None)
        one.hold(slot, header.key, source)
        self._where[header.key] = label, slot

    def _upgrade(self, key: Key, label: str, source: Source) -> bool:
        """A cached window's class was confirmed or corrected by a better source."""
        old_label, slot = self._where[key]
        one = self._classes[old_label]
        if source <= one.sources[slot] or one.closed:
            return False
        packed, body = one.file.header(slot), one.file.body(slot)
        if packed is None or body is None:
            self._vacate(one, slot)
            return False
        samples = np.frombuffer(body, "<f4").reshape(self._shape)
        window = Window(*key, Header.read(packed).captured_ns, label, samples)
        if label == old_label:
            self._write(label, one, slot, window, source)
            return True
        with storage("a window cannot be moved to its class"):
            # What may be left of it on the disk must not outlive an erasure of the class that it belongs to.
            for other in self._classes.values():  # also of a file that it was moved from before
                if other is one or other.file.has_lent(self._file_name(old_label)):
                    other.file.lend(self._file_name(label))
            one.file.clear(slot)
            one.file.sync()  # a power cut must not bring it back: its label does not come again
            self._budget.spend(one.file.page_bytes(slot))
        self._vacate(one, slot)
        return self.offer(label, window, source)

    def _captured_ns(self, key: Key) -> int:
        """The sender's time of a cached window; -1 if its slot is damaged."""
        label, slot = self._where[key]
        packed = self._classes[label].file.header(slot)
        return -1 if packed is None else Header.read(packed).captured_ns

    def _vacate(self, one: Reservoir, slot: int) -> None:
        """The slot holds no window any more."""
        key = one.keys[slot]
        assert key is not None
        one.vacate(slot)
        self._where.pop(key, None)


def _digest(label: str) -> str:
    """How a class's files begin: two names may differ only in what a file system folds together."""
    return hashlib.sha256(label.encode()).hexdigest()[:16]
