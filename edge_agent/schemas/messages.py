"""What the agent publishes, as JSON objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from edge_agent.core.types import Window

Status = Literal["accepted", "executing", "successful", "failed", "rejected"]
Phase = Literal[  # one line per phase would say no more
    "accepted", "masked", "probing", "editing", "gating", "exporting", "verifying",
    "shadowing", "committing", "erasing", "done",
]  # fmt: skip
COUNTERS: Final[dict[str, str]] = {
    "windows_answered": "diagnoses handed to the broker",
    "windows_unanswered": "diagnoses that found no connection; the broker sends their windows again",
    "windows_gap": "windows whose sequence number left some out",
    "windows_repeat": "windows whose sequence number had come before",
    "labels": "labels taken",
    "commands_accepted": "forget commands accepted, repeats included",
    "refused_<code>": "messages refused, by code",
    "publishes_refused": "publishes that the broker refused, by its ACL or quota",
    "messages_dropped": "QoS 0 messages that found no room; the broker does not send them again",
    "model_failures": "windows that the model could not be run on at once; they wait, and are tried again",
    "cache_failures": "windows that could not be written to the cache",
    "storage_failures": "other writes to the disk that failed and are tried again",
    "cache_over_budget": "windows not cached because `cache.bytes_per_day` was used up",
    "bytes_written": "bytes that the agent and its ended jobs have sent to disks, as Linux counts them",
    "releases_refused": "releases that could not be used, of an operator or of the gateway that is followed",
    "connects": "connections that the broker accepted",
    "disconnects": "connections that ended or could not be made",
}
TERMINAL: Final = frozenset({"successful", "failed", "rejected"})


@dataclass(frozen=True)
class Answer:
    """The model's answer to one window: classes with probabilities, best first, and how unusual the window is."""

    top: tuple[tuple[str, float], ...]
    energy: float  # log-sum-exp of the logits (Liu et al. 2020): low for windows unlike the training set
    unusual: bool  # energy is below the release's floor


@dataclass(frozen=True)
class JobState:
    """The state of one command: a row of the journal and, projected, the retained status."""

    id: str
    classes: tuple[str, ...]
    digest: str
    status: Status
    phase: Phase
    rev: int = 0
    progress: float = 0.0
    eta_s: float | None = None
    code: str | None = None
    reason: str | None = None
    attempts: int = 0
    release_before: str | None = None  # digests, once there is a release to commit
    release_after: str | None = None
    kept_s: float | None = None  # what is left of the parent's probation; only time in which the agent runs counts
    usual_s: float | None = None  # median run time per window of the parent, before
    on_disk: bool = False  # whether a job of it had its folder on a disk
    doomed: Mapping[str, Sequence[str]] = field(default_factory=dict)  # releases to destroy, and what they know of it
    expires_at: str | None = None  # ISO 8601; not started later
    revived: tuple[str, ...] = ()  # classes that an operator allowed to come back
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The classes as they stand in the topic."""
        return ",".join(self.classes)

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.status in TERMINAL


def diagnosis(window: Window, answer: Answer, release: str, masked: Sequence[str], latency_ms: float) -> dict[str, Any]:
    """The diagnosis of a window; ``masked`` are the classes that the answer could not name."""
    name, confidence = answer.top[0]
    flags = [*window.flags, "unusual"] if answer.unusual else list(window.flags)
    return {
        "asset": window.asset,
        "boot": window.boot,
        "seq": window.seq,
        "class": name,
        "confidence": round(confidence, 5),
        "top": [[other, round(value, 5)] for other, value in answer.top],
        "energy": round(answer.energy, 4),
        "flags": flags,
        "masked": list(masked),
        "release": release,
        "latency_ms": round(latency_ms, 3),
    }


def job_status(state: JobState) -> dict[str, Any]:
    """The retained status of a command."""
    content = asdict(state)
    for key in ("digest", "attempts", "usual_s", "on_disk"):
        del content[key]
    return content


_COMPACT: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=list)  # json.dumps makes one a call


def dump(content: Mapping[str, Any]) -> bytes:
    """Compact JSON; NaN is a bug, not a number."""
    return _COMPACT.encode(content).encode()
