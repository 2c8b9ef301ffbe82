"""What the page knows: the newest of everything that was heard, and the last minutes of each asset's diagnoses.

Owned by the event loop: the listener's thread hands over, and every browser is answered from here, so that a slow one
delays nobody. All of it is bounded, whatever comes. Times are monotonic seconds; a browser is told ages.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from edge_agent.commands.client import Heard
from edge_agent.core.errors import Misconfigured, Refused, Untrusted
from edge_agent.page.pictures import Picture, picture
from edge_agent.schemas.certificate import vouched
from edge_agent.schemas.heard import Birth, Diagnosis, Job, LiveRelease, Refusal
from edge_agent.schemas.topics import ASSET, Topics
from edge_agent.signing import opened, parse_public_key

HISTORY_S: Final = 300
RATES_S: Final = 10
SAME_S: Final = 0.3
MOST_ASSETS: Final = 64
MOST_JOBS: Final = 256
MOST_REFUSED: Final = 20
MOST_CLASSES: Final = 256  # of a second
MOST_LATENCIES: Final = 100_000
MOST_BYTES: Final = 1 << 20  # of a message that is no window
LAST_DIAGNOSES: Final = 64  # in which the answer to a window that was caught is looked for


def utc_now() -> str:
    """ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass
class Second:
    """One second of an asset's diagnoses."""

    at_s: int
    classes: Counter[str] = field(default_factory=Counter)
    confidence: float = 0.0  # sum
    unusual: int = 0

    def row(self, now_s: float) -> list[Any]:
        """Age, most frequent class, mean confidence, how many, how many unusual ones."""
        count = self.classes.total()
        name = self.classes.most_common(1)[0][0]
        return [round(self.at_s - now_s, 1), name, round(self.confidence / count, 4), count, self.unusual]


@dataclass
class Asset:
    """One asset."""

    seconds: deque[Second] = field(default_factory=lambda: deque(maxlen=HISTORY_S))
    last: deque[tuple[float, Diagnosis]] = field(default_factory=lambda: deque(maxlen=LAST_DIAGNOSES))
    picture: Picture | None = None


@dataclass
class Model:
    """The gateway's own model, or a further one; to the outside each is a gateway with a name of its own."""

    gateway: str
    topics: Topics
    birth: Birth | None = None
    release: LiveRelease | None = None
    jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    refused: dict[str, tuple[str, Job]] = field(default_factory=dict)  # the newest of each set of classes, and when
    certificates: dict[str, bytes] = field(default_factory=dict)


class Plant:
    """Everything that was heard.

    Attributes:
        revision: grows with everything but diagnoses and windows.
        watched: how many browsers look at an asset's windows.
    """

    def __init__(
        self, gateway: str, topics: Topics, models: Mapping[str, Model], utc: Callable[[], str] = utc_now
    ) -> None:
        self.gateway, self._topics, self._utc = gateway, topics, utc
        self.models = models
        self.assets: OrderedDict[str, Asset] = OrderedDict()
        self.connected, self.reason = False, "connecting"
        self.refused: deque[Refusal] = deque(maxlen=MOST_REFUSED)
        self.unreadable = 0
        self.revision = 0
        self.watched: Counter[str] = Counter()
        self._latencies: deque[tuple[float, float]] = deque(maxlen=MOST_LATENCIES)
        self._said: dict[str, Any] = {}  # to the last browser that asked, and when
        self._said_s = float("-inf")

    def subscriptions(self) -> list[str]:
        """Everything but windows."""
        own = [f"{self._topics.base}/diagnosis/+", self._topics.refused]
        for model in self.models.values():
            own += [model.topics.status, model.topics.release]
            own += [model.topics.unlearn_status("+"), model.topics.certificate("+")]
        return own

    def link(self, *, connected: bool, reason: str) -> None:
        """The connection to the broker came, or went."""
        self.connected, self.reason, self.revision = connected, reason, self.revision + 1

    def hear(self, come: Iterable[Heard], now_s: float) -> None:
        """Take in messages; one that is not as it should be is counted."""
        for heard in come:
            try:
                self._hear(heard, now_s)
            except (ValueError, RecursionError, Refused):  # pydantic's errors are ValueErrors
                self.unreadable += 1

    def _hear(self, heard: Heard, now_s: float) -> None:
        head, _, last = heard.topic.rpartition("/")
        if head == f"{self._topics.base}/diagnosis":
            self._diagnosed(last, Diagnosis.model_validate(heard.content), now_s)
            return
        if head == f"{self._topics.base}/windows":
            self._window(last, heard.payload)
            return
        if len(heard.payload) > MOST_BYTES:
            raise Refused("E_SIZE", "no message of the agent is so large")
        json.dumps(heard.content, allow_nan=False)  # no browser reads NaN
        self.revision += 1
        if heard.topic == self._topics.refused:
            self.refused.append(Refusal.model_validate(heard.content))
            return
        for model in self.models.values():
            if heard.topic == model.topics.status:
                model.birth = _after(model.birth, Birth.model_validate(heard.content))
            elif heard.topic == model.topics.release:
                model.release = LiveRelease.model_validate(heard.content)
            elif head.startswith(f"{model.topics.unlearn_head}/"):
                self._command(model, head.removeprefix(f"{model.topics.unlearn_head}/"), last, heard)

    def _command(self, model: Model, name: str, kind: str, heard: Heard) -> None:
        if kind == "certificate":
            model.certificates.pop(name, None)
            if heard.payload and len(model.certificates) < MOST_JOBS:
                model.certificates[name] = heard.payload
            return
        job = Job.model_validate(heard.content)
        if job.status == "rejected":
            model.refused.pop(name, None)
            model.refused[name] = self._utc(), job
            if len(model.refused) > MOST_REFUSED:
                model.refused.pop(next(iter(model.refused)))
            return
        model.jobs.pop(name, None)
        model.jobs[name] = job
        if len(model.jobs) > MOST_JOBS:
            model.jobs.popitem(last=False)

    def _diagnosed(self, name: str, diagnosis: Diagnosis, now_s: float) -> None:
        if not ASSET.fullmatch(name):
            raise Refused("E_ASSET", "no name of an asset")
        asset = self.assets.setdefault(name, Asset())
        self.assets.move_to_end(name)
        if len(self.assets) > MOST_ASSETS:
            self.assets.popitem(last=False)
        asset.last.append((now_s, diagnosis))
        if not asset.seconds or asset.seconds[-1].at_s != int(now_s):
            asset.seconds.append(Second(int(now_s)))
        second = asset.seconds[-1]
        if len(second.classes) < MOST_CLASSES or diagnosis.class_ in second.classes:
            second.classes[diagnosis.class_] += 1
            second.confidence += diagnosis.confidence
            second.unusual += "unusual" in diagnosis.flags
        self._latencies.append((now_s, diagnosis.latency_ms))
        while self._latencies[0][0] < now_s - RATES_S:
            self._latencies.popleft()

    def _window(self, name: str, payload: bytes) -> None:
        """Keep what one window looks like, of an asset that somebody looks at."""
        if name not in self.watched or name not in self.assets:
            return
        asset = self.assets[name]
        model = self._model_of(asset)
        if model is not None and model.release is not None:
            asset.picture = picture(name, payload, model.release)

    def _model_of(self, asset: Asset) -> Model | None:
        """Whose live release gave the last answer; the gateway's own where none did."""
        answered = asset.last[-1][1].release if asset.last else None
        found = (one for one in self.models.values() if one.release is not None and one.release.digest == answered)
        return next(found, next(iter(self.models.values())))

    # What a browser is told

    def state(self) -> dict[str, Any]:
        """All but what changes with each window."""
        own = next(iter(self.models.values()))
        return {
            "gateway": self.gateway,
            "broker": {"connected": self.connected, "reason": self.reason},
            "agent": own.birth.state if own.birth is not None else "unknown",
            "version": own.birth.version if own.birth is not None else "",
            "clock": own.birth.clock if own.birth is not None else {},
            "counters": own.birth.counters if own.birth is not None else {},
            "refused": [_shown(one) for one in self.refused],
            "unreadable": self.unreadable,
            "models": {name: _model(model) for name, model in self.models.items()},
        }

    def live(self, name: str, since_s: float, now_s: float) -> dict[str, Any]:
        """Each asset's last answer, and one asset's history since a time."""
        asset = self.assets.get(name)
        return {
            **self._overview(now_s),
            "asset": name,
            "history": [one.row(now_s) for one in asset.seconds if one.at_s >= since_s] if asset else [],
        }

    def _overview(self, now_s: float) -> dict[str, Any]:
        """What all browsers are told alike; worked out once for those that ask within a moment."""
        if not self._said_s <= now_s < self._said_s + SAME_S:
            recent = [ms for at_s, ms in self._latencies if at_s >= now_s - RATES_S]
            p50, p99 = np.percentile(recent, (50, 99)).round(2).tolist() if recent else (None, None)
            assets = [_answer(name, one, now_s) for name, one in sorted(self.assets.items())]
            rate = round(len(recent) / RATES_S, 1)
            self._said = {"per_s": rate, "p50_ms": p50, "p99_ms": p99, "assets": assets}
            self._said_s = now_s
        return self._said

    def picture(self, name: str) -> Picture | None:
        """The last window that was caught of an asset."""
        asset = self.assets.get(name)
        return asset.picture if asset is not None else None

    def diagnosis_of(self, shown: Picture) -> Diagnosis | None:
        """The answer to the window that is shown, where its sender numbers windows."""
        asset = self.assets.get(shown.asset, Asset())
        mine = (one for _, one in asset.last if (one.boot, one.seq) == shown.number)
        return next(mine, None)

    def verified(self, model: Model, name: str) -> dict[str, Any]:
        """Whether a certificate is the command's, signed with the key of the gateway's birth; worked out anew."""
        document = model.certificates.get(name)
        if document is None:
            return {"verified": False, "problem": "there is no certificate"}
        try:
            key = parse_public_key(model.birth.public_key if model.birth is not None else "", "the birth message")
            content = opened(document, key)
            about = vouched(content)
        except (Untrusted, Misconfigured) as error:
            return {"verified": False, "problem": error.reason[:1000]}
        job, command = model.jobs.get(name), about.command
        expected = model.gateway, name.split(","), command.id if job is None else job.id
        if (about.gateway, command.classes, command.id) != expected:
            words = f"it is that of command {command.id!r} for {', '.join(command.classes)} on {about.gateway!r}"
            return {"verified": False, "problem": words[:1000]}
        return {"verified": True, "key": key.fingerprint, "content": content}


def _after(before: Birth | None, now: Birth) -> Birth:
    """A will says only that the agent has gone; what it said of itself before is still the newest that is known."""
    return now if before is None or now.cached is not None else before.model_copy(update={"state": now.state})


def _answer(name: str, asset: Asset, now_s: float) -> dict[str, Any]:
    at_s, last = asset.last[-1]
    return {
        "name": name,
        "age_s": round(now_s - at_s, 1),
        "class": last.class_,
        "confidence": last.confidence,
        "flags": last.flags,
        "top": last.top,
        "release": last.release[:12],
    }


def _model(model: Model) -> dict[str, Any]:
    return {
        "base": model.topics.base,
        "release": _shown(model.release),
        "masked": model.birth.masked if model.birth is not None else [],
        "cached": model.birth.cached if model.birth is not None else None,
        "jobs": [_shown(job) for job in reversed(model.jobs.values())],
        "rejected": [{**_shown(job), "heard": heard} for heard, job in reversed(model.refused.values())],
        "certificates": sorted(model.certificates),
    }


def _shown(content: BaseModel | None) -> Any:
    return None if content is None else content.model_dump(mode="json", exclude_none=True)
