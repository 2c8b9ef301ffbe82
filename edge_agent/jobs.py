"""The forget job that runs: its folder, its child process, its reports and its end. At most one at a time."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters import job_folder
from edge_agent.adapters.child import Child
from edge_agent.adapters.releases import Release
from edge_agent.adapters.windows import WindowCache
from edge_agent.adapters.workplace import Workplace
from edge_agent.core.errors import EdgeAgentError, JobFailed, StorageFailed
from edge_agent.files import size_of, storage
from edge_agent.live import LiveModel
from edge_agent.reservoir import SOURCES, Loaded, Reader
from edge_agent.schemas.messages import JobState, Phase
from edge_agent.settings import Forget

REPORT_EVERY_S: Final = 0.25
STOP_S: Final = 5.0  # longest wait for a folder that is being filled


@dataclass(frozen=True)
class Started:
    """The child of a job is at work."""

    id: str
    pid: int


@dataclass(frozen=True)
class News:
    """How far a job is."""

    phase: Phase
    progress: float
    eta_s: float | None
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a job ended: with a release in ``result``, or with a failure."""

    id: str
    result: Path
    metrics: Mapping[str, Any]
    failure: EdgeAgentError | None


@dataclass(frozen=True)
class _Order:
    """What a job's folder is filled with."""

    started_s: float
    job: job_folder.Job
    settings: Forget
    release: Release
    readers: Mapping[str, Reader]


@dataclass(frozen=True)
class _Filled:
    """A job's folder, or why it was not filled, and the slots by class that were found damaged on the way."""

    folder: Path | None
    failure: EdgeAgentError | None
    damaged: Mapping[str, tuple[int, ...]]


@dataclass
class _Running:
    id: str
    child: Child
    folder: Path
    reports: job_folder.Reports
    started_s: float
    timeout_s: float
    reported_s: float = float("-inf")


class Jobs:
    """Starts and follows the child. Everything here runs in the agent's main thread, but for filling the folder."""

    def __init__(self, workplace: Workplace, cache: WindowCache, live: LiveModel) -> None:
        self._workplace, self._cache, self._live = workplace, cache, live
        self._pool = ThreadPoolExecutor(1, "job-folder")
        self._filling: tuple[_Order, Future[_Filled]] | None = None
        self._abandoned: Future[_Filled] | None = None  # nobody waits for it, but its folder must not stay
        self._running: _Running | None = None

    @property
    def running(self) -> str | None:
        """Id of the command whose job runs, or whose folder is being filled."""
        if self._filling is not None:
            return self._filling[0].job.id
        return self._running.id if self._running else None

    def start(self, state: JobState, settings: Forget, erased: frozenset[str]) -> None:
        """Begin to fill a folder; ``poll`` starts the child when it is there.

        Raises:
            StorageFailed: the cached windows cannot be read.
        """
        release = self._live.release
        masked = tuple(sorted((erased & set(release.card.living)) - set(state.classes)))
        seed = zlib.crc32(state.id.encode())
        job = job_folder.Job(state.id, state.classes, seed, settings.threads, {}, masked)
        order = _Order(time.monotonic(), job, settings, release, self._readers(state.classes))
        self._filling = order, self._pool.submit(_fill, self._workplace, order)

    def poll(self) -> Started | News | Ended | None:
        """What there is to tell of the job that runs; the folder of one that ended is there until the next."""
        if self._filling is not None:
            return self._launch(*self._filling)
        running = self._running
        if running is None:
            return None
        code = running.child.ended()
        if code is not None:
            self._running = None
            return _end(running, code)
        if time.monotonic() > running.started_s + running.timeout_s:
            self.stop()
            return Ended(running.id, running.folder, {}, _too_long(running.timeout_s))
        return _news(running)

    def stop(self) -> None:
        """End the child, if one runs; wait for a folder that is being filled, but not for ever."""
        if self._filling is not None:
            wait([self._filling[1]], STOP_S)
            self._abandoned, self._filling = self._filling[1], None
        if self._running is not None:
            self._running.child.end()
            self._running = None

    @property
    def on_disk(self) -> bool:
        """Whether a job's files lie on a disk."""
        return self._workplace.used_disk()

    def clear(self) -> bool:
        """Remove what jobs left; whether some of it lay on a disk.

        Raises:
            StorageFailed: something is left.
        """
        if self._abandoned is not None and not self._abandoned.done():
            raise StorageFailed("E_STORAGE", "a job folder that was given up is still being filled")
        self._abandoned = None
        return self._workplace.clear()

    def _readers(self, classes: tuple[str, ...]) -> dict[str, Reader]:
        readers = dict[str, Reader]()
        try:
            for name in classes:
                readers[name] = self._cache.reader(name)
        except StorageFailed:
            for reader in readers.values():
                reader.close()
            raise
        return readers

    def _launch(self, order: _Order, filling: Future[_Filled]) -> Started | Ended | None:
        """Start the child as soon as its folder is filled."""
        if not filling.done():
            if time.monotonic() <= order.started_s + order.settings.timeout_s:
                return None
            self._filling, self._abandoned = None, filling
            return Ended(order.job.id, Path(), {}, _too_long(order.settings.timeout_s))
        self._filling, filled = None, filling.result()
        for name, slots in filled.damaged.items():
            self._cache.drop_damaged(name, slots)
        if filled.folder is None:
            return Ended(order.job.id, Path(), {}, filled.failure)
        try:
            child = Child(filled.folder, filled.folder / job_folder.LOG, order.settings.nice)
        except OSError as error:
            return Ended(order.job.id, filled.folder, {}, JobFailed("E_CHILD", f"cannot start: {error}"))
        reports, settings = job_folder.Reports(filled.folder), order.settings
        self._running = _Running(order.job.id, child, filled.folder, reports, time.monotonic(), settings.timeout_s)
        return Started(order.job.id, child.pid)


def _fill(workplace: Workplace, order: _Order) -> _Filled:
    """Fill a job's folder; it runs beside the main thread, for it takes as long as tens of windows."""
    loaded = {name: reader.read(order.settings.max_windows) for name, reader in order.readers.items()}
    damaged = {name: one.damaged for name, one in loaded.items() if one.damaged}
    try:
        return _Filled(_folder_of(workplace, order, loaded), None, damaged)
    except EdgeAgentError as error:
        return _Filled(None, error, damaged)


def _folder_of(workplace: Workplace, order: _Order, loaded: Mapping[str, Loaded]) -> Path:
    """Lay it out.

    Raises:
        JobFailed: ``E_TOO_FEW_WINDOWS``.
        StorageFailed: the folder cannot be filled.
        BrokenRelease: the live release cannot be read.
    """
    workplace.clear()
    least = order.settings.min_windows
    for name, one in loaded.items():
        if len(one.windows) < least:  # some were damaged on the disk
            words = f"only {len(one.windows)} windows of {name} are sound, {least} are needed"
            raise JobFailed("E_TOO_FEW_WINDOWS", words)
    sources = {source: sum(one.counts[source] for one in loaded.values()) for source in SOURCES}
    job, windows = replace(order.job, windows=sources), {name: one.windows for name, one in loaded.items()}
    with storage("the job folder cannot be made"):
        needed = job_folder.needed_bytes(size_of(order.release.folder), windows)
        folder = workplace.folder(f"{job.seed:08x}", needed)
    job_folder.prepare(folder, job, order.release, windows)
    return folder


def _too_long(timeout_s: float) -> JobFailed:
    return JobFailed("E_TIMEOUT", f"the job took longer than {timeout_s:g} s (forget.timeout_s)")


def _news(running: _Running) -> News | None:
    now_s = time.monotonic()
    if now_s < running.reported_s + REPORT_EVERY_S or (report := running.reports.latest()) is None:
        return None
    running.reported_s = now_s
    share, elapsed_s = report.progress, now_s - running.started_s
    eta_s = round(elapsed_s * (1 - share) / share, 1) if share else None
    return News(report.phase, share, eta_s, report.metrics)


def _end(running: _Running, code: int) -> Ended:
    outcome = job_folder.read_outcome(running.folder)
    result = running.folder / job_folder.RESULT
    if outcome is None:
        words = f"the job's process ended with code {code} and no result; {running.child.last_words()}"
        return Ended(running.id, result, {}, JobFailed("E_CHILD", words.rstrip("; ")))
    metrics = {**outcome["metrics"], "job_s": round(time.monotonic() - running.started_s, 3)}
    failure = None if outcome["code"] is None else JobFailed(outcome["code"], outcome["reason"])
    return Ended(running.id, result, metrics, failure)
