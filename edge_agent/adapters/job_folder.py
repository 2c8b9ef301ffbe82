"""A forget job as a folder: what the child is given, what it reports, what it leaves.

    job.json             what to do                     (agent)
    release/             the release to edit, no dreams (agent)
    dreams.safetensors   dreams of the classes that stay (agent)
    windows.safetensors  the forget windows             (agent)
    progress.jsonl       one line per report            (child)
    trace.jsonl          one line per edit step         (child)
    result/              the edited release             (child)
    outcome.json         how it ended, written last     (child)

``python -m edge_agent.unlearn_job FOLDER`` does on any machine exactly what the gateway did. Nothing here needs torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from edge_agent.core.errors import BrokenRelease, StorageFailed
from edge_agent.core.types import Float32
from edge_agent.files import remove, storage, write_atomically
from edge_agent.schemas.card import CARD, DREAMS, Card
from edge_agent.schemas.messages import Phase

JOB, WINDOWS, PROGRESS, TRACE, OUTCOME = (
    "job.json", "windows.safetensors", "progress.jsonl", "trace.jsonl", "outcome.json"
)  # fmt: skip
RELEASE, RESULT, LOG = "release", "result", "child.log"


@dataclass(frozen=True)
class Job:
    """What the child is asked to do."""

    id: str
    classes: tuple[str, ...]
    seed: int
    threads: int
    windows: dict[str, int]  # cached windows by source, for the record
    masked: tuple[str, ...] = ()  # classes erased before that the release knows again: no window may turn to them


class Contents(Protocol):
    """What a job needs of a release, sealed or not."""

    @property
    def card(self) -> Card:
        """Its card."""

    def read(self, name: str) -> bytes:
        """The content of the card or of one of its files."""


@dataclass(frozen=True)
class Progress:
    """One report of the child."""

    phase: Phase
    progress: float  # of the whole job, in [0, 1]
    metrics: dict[str, Any] = field(default_factory=dict)


def prepare(folder: Path, job: Job, release: Contents, windows: dict[str, Float32]) -> None:
    """Lay out a job folder: the release without its dreams, the dreams of other classes, the forget windows.

    Raises:
        StorageFailed: some of it is there, for ``Workplace.clear``: what lies on a disk is to be overwritten.
        BrokenRelease: a file of the release cannot be read.
    """
    card = release.card
    forget = card.indices((*job.classes, *job.masked))
    with storage("the job folder cannot be made"):
        remove(folder)
        (folder / RELEASE).mkdir(parents=True)
        try:
            for name in {CARD, *card.files} - {DREAMS}:
                (folder / RELEASE / name).write_bytes(release.read(name))
            if DREAMS in card.files:
                safetensors.numpy.save_file(_without(release.read(DREAMS), forget), folder / DREAMS)
            safetensors.numpy.save_file(windows, folder / WINDOWS)
            write_atomically(folder / JOB, json.dumps(job.__dict__).encode())
        except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in an error of its own
            raise StorageFailed("E_STORAGE", f"the job folder cannot be filled: {error}") from error


def _without(dreams: bytes, classes: tuple[int, ...]) -> dict[str, Any]:
    """The dreams of all other classes.

    Raises:
        BrokenRelease: ``E_WEIGHTS``, they are not what training writes.
    """
    try:
        content = safetensors.numpy.load(dreams)
        stays = ~(np.isin(content["first"], classes) | np.isin(content["second"], classes))
        return {key: value[stays] for key, value in content.items()}
    # SafetensorError: it lies about its sizes. The others: arrays or types are not those expected.
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
        raise BrokenRelease("E_WEIGHTS", f"the release's dreams cannot be read: {str(error)[:200]}") from error


def needed_bytes(release_bytes: int, windows: dict[str, Float32]) -> int:
    """The room that a job takes: its windows, the release, and the edited release."""
    return sum(part.nbytes for part in windows.values()) + 2 * release_bytes


def read_job(folder: Path) -> Job:
    """Read ``job.json``."""
    content = json.loads((folder / JOB).read_bytes())
    return Job(**{**content, "classes": tuple(content["classes"]), "masked": tuple(content["masked"])})


def read_windows(folder: Path) -> dict[str, Float32]:
    """The forget windows by class, each float32 (n, channels, length)."""
    return safetensors.numpy.load_file(folder / WINDOWS)


class Reports:
    """Appends the child's reports, and reads those that are new."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / PROGRESS
        self._read_to = 0

    def add(self, report: Progress) -> None:
        """Append one report."""
        with self._path.open("ab") as file:
            file.write(json.dumps(_finite(report.__dict__)).encode() + b"\n")

    def latest(self) -> Progress | None:
        """The newest whole report that has not been read, if there is one."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_to)
                whole, _, _ = file.read().rpartition(b"\n")
        except OSError:  # not there yet, or the next time
            return None
        if not whole:
            return None
        self._read_to += len(whole) + 1
        return Progress(**json.loads(whole.rpartition(b"\n")[2]))


def write_outcome(folder: Path, content: dict[str, Any]) -> None:
    """Write how the job ended; the last thing a child does. What is not finite becomes null: JSON has no NaN."""
    write_atomically(folder / OUTCOME, json.dumps(_finite(content), indent=1, allow_nan=False).encode())


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """How the job ended, or None if it has not."""
    try:
        content: dict[str, Any] = json.loads((folder / OUTCOME).read_bytes())
    except (OSError, ValueError):
        return None
    return content
