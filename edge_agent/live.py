"""The owner of the live model. Boot, deploy, hot swap and rollback are one path: ``load``, then ``swap``."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from edge_agent.adapters import heap
from edge_agent.adapters.onnx_session import CPU, OnnxModel, Provider, Providers, providers
from edge_agent.adapters.releases import Release, ReleaseStore
from edge_agent.core.errors import BrokenRelease
from edge_agent.core.types import Float32
from edge_agent.files import remove
from edge_agent.health import Health
from edge_agent.schemas.card import MODELS, Card, Precision, self_test_windows
from edge_agent.schemas.messages import Answer
from edge_agent.schemas.snapshot import ModelSnapshot
from edge_agent.schemas.windows import WindowSpec
from edge_agent.shadow import Shadow

log = structlog.get_logger(__name__)

SELF_TEST_TOLERANCE: Final = 1e-3
# Of the largest logit: another processor rounds a few codes otherwise, one that saturates answers something else.
INT8_TOLERANCE: Final = 0.05


@dataclass(frozen=True)
class Loaded:
    """A release that has been loaded and tested, and does not serve yet."""

    release: Release
    model: OnnxModel
    precision: Precision


class LiveModel:
    """Answers windows with the live release, and hides masked classes in every answer.

    Args:
        max_batch: most windows of one run; a model meets as many before it goes live, so that its memory is what it
            stays.
        provider: what runs it.
        precision: which of a release's models serves, where it has both and both run here.
        engines: where TensorRT keeps what it compiles, in memory: an engine knows what its release knows.

    Attributes:
        max_abs: largest sample taken for real.
        health: how the live release does.
        adopted_s: when the live release went live, by the monotonic clock.
        shadow: a candidate that answers beside it, unheard.
    """

    def __init__(
        self,
        store: ReleaseStore,
        threads: int,
        max_abs: float,
        max_batch: int = 1,
        top: int = 3,
        provider: Provider = "cpu",
        engines: Path | None = None,
        precision: Precision = "float32",
    ) -> None:
        self._store, self._threads, self._max_batch, self._top = store, threads, max_batch, top
        self._provider, self._engines, self._precision = provider, engines, precision
        self.max_abs = max_abs
        self._loaded: Loaded | None = None
        self.adopted_s = 0.0
        self._hidden: frozenset[str] = frozenset()
        self._masked: tuple[str, ...] = ()
        self._columns: NDArray[np.bool_] = np.zeros(0, np.bool_)  # which of the logits are of a masked class
        self.health = Health()
        self.shadow: Shadow | None = None

    @property
    def release(self) -> Release:
        """The live release; ``adopt`` comes first."""
        return self._live.release

    @property
    def card(self) -> Card:
        """Its card."""
        return self.release.card

    @property
    def provider(self) -> str:
        """The execution provider that runs the model."""
        return self._live.model.provider

    @property
    def _live(self) -> Loaded:
        assert self._loaded is not None
        return self._loaded

    @property
    def spec(self) -> WindowSpec:
        """What a window must look like."""
        return WindowSpec(len(self.card.channels), self.card.length, self.card.rate_hz, self.max_abs)

    @property
    def masked(self) -> tuple[str, ...]:
        """Classes that no answer names: forgotten, or being forgotten."""
        return self._masked

    @property
    def hidden(self) -> frozenset[str]:
        """Classes that no answer may name, whether this release knows them or not."""
        return self._hidden | set(self.card.forgotten)

    def look(self) -> ModelSnapshot:
        """What it shows of itself."""
        names = self.release.digest, self.card.name, self.provider, self._live.precision
        return ModelSnapshot(*names, self.adopted_s, self.masked)

    def adopt(self, release: Release, unwelcome: frozenset[str] = frozenset()) -> None:
        """Make a verified release the live one, at once.

        Raises:
            BrokenRelease: as ``load`` says; the old one stays live.
            StorageFailed: as ``swap`` says; the old one stays live.
        """
        self.swap(self.load(release, unwelcome))

    def load(self, release: Release, unwelcome: frozenset[str] = frozenset()) -> Loaded:
        """Load a verified release and test it. Any thread may: nothing of this object is changed.

        Raises:
            BrokenRelease: it knows a class of ``unwelcome``, or none that may be named, it cannot run or fails its
                self-test.
        """
        refuse_erased(release.card, unwelcome)
        if not set(release.card.living) - self._hidden:
            raise BrokenRelease("E_ERASED", f"every class that release {release.digest[:12]} knows is hidden here")
        engines = self._engines / release.digest if self._engines else None
        loaded = opened(release, self._threads, providers(self._provider, engines), self._precision)
        windows = self_test_windows(release.card.channel_mean, release.card.channel_std, release.card.length)
        loaded.model.logits(np.resize(windows, (self._max_batch, *windows.shape[1:])))
        return loaded

    def candidate(self, release: Release) -> OnnxModel:
        """The model of a release that is to answer beside the live one, in the same precision.

        Raises:
            BrokenRelease: it cannot run or fails its self-test.
        """
        return opened(release, 1, CPU, self._precision).model

    def swap(self, loaded: Loaded) -> None:
        """Move ``current``, then answer with what was loaded.

        Raises:
            StorageFailed: ``current`` could not be moved; the old one stays live.
        """
        if self._store.current() != loaded.release.digest:
            self._store.set_current(loaded.release.digest)
        self._loaded, self.adopted_s = loaded, time.monotonic()
        self.forget_health()
        self.hide(self._hidden)
        self._drop_engines()
        heap.give_back()  # what the model before held, and reading this one

    def _drop_engines(self) -> None:
        """Remove those of all other releases."""
        if self._engines is not None and self._engines.is_dir():
            for folder in self._engines.iterdir():
                if folder.name != self.release.digest:
                    with suppress(OSError):  # they are in memory, and gone with the service
                        remove(folder)

    def forget_health(self) -> None:
        """Judge the live release by what comes from now on."""
        self.health = Health()

    def hide(self, names: frozenset[str]) -> None:
        """Mask these classes, besides the forgotten ones, from the next answer on."""
        self._hidden = names
        if self._loaded is None:  # adopting comes back here
            return
        self._masked = tuple(name for name in self.card.classes if name in self.hidden)
        self._columns = np.isin(self.card.classes, self._masked)

    def works(self) -> bool:
        """Whether the model passes its self-test now."""
        try:
            self_test(self._live.model, self.release, self._live.precision)
        except BrokenRelease:
            return False
        return True

    def answer(self, windows: Float32, *, again: bool = False) -> list[Answer | None]:
        """Answer float32 windows (n, channels, length); None where the model's output is not finite.

        Args:
            again: they were tried before, and are counted in ``health`` already.

        Raises:
            BrokenRelease: ``E_MODEL``, the model cannot run; ``E_ERASED``, there is no class that may be named.
        """
        names, floor = self.card.classes, self.card.energy_floor
        living = len(names) - len(self._masked)
        if living == 0:
            raise BrokenRelease("E_ERASED", f"every class that release {self.release.digest[:12]} knows is hidden here")
        raw, sound = self._run(windows, again=again)
        if self.shadow is not None:
            self.shadow.compare(windows, raw)
        logits = raw.astype(np.float64)
        logits[~sound] = 0.0
        logits[:, self._columns] = -np.inf
        peak = logits.max(axis=1, keepdims=True)
        energy = peak + np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
        probabilities = np.exp(logits - energy)
        # Not by probability: far behind the first all are 0.0, and masked classes among them.
        best = np.argsort(-logits, axis=1, kind="stable")[:, : min(self._top, living)]
        # To Python's own numbers at once: one by one that takes longer than all the arithmetic above.
        rows = (each.tolist() for each in (probabilities, best, energy[:, 0], sound))
        return [
            Answer(tuple((names[k], row[k]) for k in order), score, score < floor) if fine else None
            for row, order, score, fine in zip(*rows, strict=True)
        ]

    def _run(self, windows: Float32, *, again: bool) -> tuple[Float32, NDArray[np.bool_]]:
        """Logits float32 (n, classes), and which rows are finite; ``health`` notes each window once.

        Of a batch that cannot be run nothing is noted: each of its windows is run by itself next.
        """
        started_s = time.monotonic()
        try:
            logits = self._live.model.logits(windows)
        except BrokenRelease:
            if len(windows) == 1 and not again:
                self.health.note(0, 1, time.monotonic() - started_s)
            raise
        sound = np.logical_and.reduce(np.isfinite(logits), axis=1)
        fine = int(sound.sum())
        if not again:
            self.health.note(fine, len(windows) - fine, time.monotonic() - started_s)
        return logits, sound


def refuse_erased(card: Card, erased: frozenset[str]) -> None:
    """Refuse a release that would bring back a class erased on this gateway.

    Raises:
        BrokenRelease: ``E_ERASED``.
    """
    if back := sorted(erased & set(card.living)):
        raise BrokenRelease("E_ERASED", f"release {card.name!r} knows {', '.join(back)}, erased here")


def opened(release: Release, threads: int, wanted: Providers = CPU, precision: Precision = "float32") -> Loaded:
    """Load and test a model of a release: that of float32 where the one of int8 is wanted and not to be had.

    Raises:
        BrokenRelease: that of float32 cannot run or fails its self-test.
    """
    if precision == "int8":
        try:
            return _opened(release, threads, wanted, "int8")
        except BrokenRelease as error:
            log.warning("precision.missed", release=release.digest, precision=precision, reason=error.reason)
    return _opened(release, threads, wanted, "float32")


def _opened(release: Release, threads: int, wanted: Providers, precision: Precision) -> Loaded:
    name = MODELS[precision]
    if name not in release.card.files:
        raise BrokenRelease("E_MODEL", f"release {release.digest[:12]} has no {name}; edge-agent quantise makes one")
    model = OnnxModel(release.read(name), threads, wanted)
    self_test(model, release, precision)
    return Loaded(release, model, precision)


def self_test(model: OnnxModel, release: Release, precision: Precision = "float32") -> None:
    """Hold the session's logits on fixed inputs against those that stand in the card: torch's, or of the int8 model.

    Raises:
        BrokenRelease: ``E_MODEL``.
    """
    card, limit = release.card, SELF_TEST_TOLERANCE
    expected = np.array(card.self_test if precision == "float32" else card.self_test_int8, np.float32)
    if precision == "int8":
        limit = INT8_TOLERANCE * float(np.abs(expected).max())
    windows = self_test_windows(card.channel_mean, card.channel_std, card.length)
    got = model.logits(windows)
    if got.shape != expected.shape:
        raise BrokenRelease("E_MODEL", f"the model answers with shape {got.shape}, expected {expected.shape}")
    alone = model.logits(windows[:1])  # a graph with a fixed batch fails here
    worst = float(np.abs(np.concatenate([got - expected, alone - expected[:1]])).max())
    if not worst <= limit:
        raise BrokenRelease("E_MODEL", f"self-test: logits differ by {worst:.2g}, limit {limit:.2g}")
