"""The forget job that runs: its folder, its child process, its reports and its end. At most one at a time."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters import job_folder
from edge_agent.adapters.child import Child
from edge_agent.adapters.windows import WindowCache
from edge_agent.adapters.workplace import Workplace
from edge_agent.core.errors import JobFailed
from edge_agent.files import size_of
from edge_agent.live import LiveModel
from edge_agent.schemas.messages import JobState, Phase
from edge_agent.settings import Forget

REPORT_EVERY_S: Final = 0.25


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
    failure: JobFailed | None


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
    """Starts and follows the child. Everything here runs in the agent's main thread."""

    def __init__(self, workplace: Workplace, cache: WindowCache, live: LiveModel) -> None:
        self._workplace, self._cache, self._live = workplace, cache, live
        self._running: _Running | None = None

    @property
    def running(self) -> str | None:
        """Id of the command whose job runs."""
        return self._running.id if self._running else None

    def start(self, state: JobState, settings: Forget, erased: frozenset[str]) -> int:
        """Fill a folder and start the child; returns its process id.

        Raises:
            JobFailed: ``E_TOO_FEW_WINDOWS`` or ``E_CHILD``.
            StorageFailed: the folder cannot be filled.
            BrokenRelease: the live release cannot be read.
        """
        self.clear()
        folder = self._prepare(state, settings, erased)
        try:
            child = Child(folder, folder / job_folder.LOG)
        except OSError as error:
            raise JobFailed("E_CHILD", f"cannot start: {error}") from error
        reports = job_folder.Reports(folder)
        self._running = _Running(state.id, child, folder, reports, time.monotonic(), settings.timeout_s)
        return child.pid

    def poll(self) -> News | Ended | None:
        """What there is to tell of the job that runs; the folder of one that ended is there until the next."""
        running = self._running
        if running is None:
            return None
        code = running.child.ended()
        if code is not None:
            self._running = None
            return _end(running, code)
        if time.monotonic() > running.started_s + running.timeout_s:
            self.stop()
            words = f"the job took longer than {running.timeout_s:g} s"
            return Ended(running.id, running.folder, {}, JobFailed("E_TIMEOUT", words))
        return _news(running)

    def stop(self) -> None:
        """End the child, if one runs."""
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
        return self._workplace.clear()

    def _prepare(self, state: JobState, settings: Forget, erased: frozenset[str]) -> Path:
        windows, sources = {}, dict[str, int]()
        for name in state.classes:
            windows[name], counts = self._cache.load(name, settings.max_windows)
            if len(windows[name]) < settings.min_windows:  # some were damaged on the disk
                words = f"only {len(windows[name])} windows of {name} are sound, {settings.min_windows} are needed"
                raise JobFailed("E_TOO_FEW_WINDOWS", words)
            sources = {source: sources.get(source, 0) + count for source, count in counts.items()}
        seed = zlib.crc32(state.id.encode())
        release = self._live.release
        masked = tuple(sorted((erased & set(release.card.living)) - set(state.classes)))
        job = job_folder.Job(state.id, state.classes, seed, settings.threads, settings.nice, sources, masked)
        folder = self._workplace.folder(f"{seed:08x}", job_folder.needed_bytes(size_of(release.folder), windows))
        job_folder.prepare(folder, job, release, windows)
        return folder


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
