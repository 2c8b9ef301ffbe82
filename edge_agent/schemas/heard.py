"""What tools and the page read of an agent's messages: the keys that they show, each checked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from edge_agent.core.bearing import Bearing

Name = Annotated[str, Field(max_length=1024)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Heard(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Diagnosis(_Heard):
    """The answer to one window."""

    asset: Name
    boot: Name
    seq: int
    class_: Name = Field(alias="class")
    confidence: Share
    top: list[tuple[Name, Share]] = Field(max_length=64)
    energy: float = Field(ge=-1e30, le=1e30)
    flags: list[Name] = Field(max_length=16)
    masked: list[Name] = Field(max_length=1024)
    release: Name
    latency_ms: float = Field(ge=0, le=1e9)


class Refusal(_Heard):
    """One line about a message that the agent refused."""

    topic: Name = ""
    code: Name = ""
    reason: Annotated[str, Field(max_length=10_000)] = ""
    bytes: int = 0


class AuditHead(_Heard):
    """The newest row of the audit log."""

    n: int
    hash: Name


class Birth(_Heard):
    """A status message: birth, or will."""

    state: Name
    session: int = 0
    version: Name = ""
    masked: list[Name] = []
    cached: dict[Name, int] | None = None  # a will has none
    counters: dict[Name, int] = {}
    public_key: str = Field("", max_length=4096)
    audit: AuditHead | None = None
    clock: dict[str, Any] = {}


class LiveRelease(_Heard):
    """The retained announcement of the live release: its card."""

    digest: Name
    hidden: list[Name] = []
    name: Name
    classes: list[Name] = Field(max_length=1024)
    forgotten: list[Name] = []
    channels: list[Name] = Field(min_length=1, max_length=1024)
    length: int = Field(ge=1, le=1 << 20)
    rate_hz: float = Field(gt=0)
    unit: Name
    architecture: Name = ""
    width: int = 0
    parent: Name | None = None
    bearing: Bearing | None = None
    shaft_rpm: float | None = Field(None, gt=0)
    metrics: dict[str, float] = {}


class Job(_Heard):
    """The state of a forget command."""

    id: Name | None
    classes: list[Name] = Field(min_length=1, max_length=1024)
    status: Name
    phase: Name | None = None
    progress: Share = 0.0
    eta_s: float | None = None
    code: Name | None = None
    reason: str | None = Field(None, max_length=10_000)
    release_before: Name | None = None
    release_after: Name | None = None
    kept_s: float | None = None
    metrics: dict[str, Any] = {}


class CommandHead(_Heard):
    """Which command."""

    id: Name
    classes: list[Name] = Field(min_length=1, max_length=1024)


class ReleasesHead(_Heard):
    """From which release to which."""

    before: Name | None = None
    after: Name | None = None


class Loss(_Heard):
    """Of a class that stays: the share of its windows that the dreams say is lost."""

    predicted_loss: Share = 0.0


class EditHead(_Heard):
    """What the edit measured."""

    windows: int | None = None
    flip_rate: Share | None = None
    steps: int | None = None
    edit_s: float | None = None
    job_s: float | None = None
    gate_classes: dict[Name, Loss] = {}


class CertificateHead(_Heard):
    """Whose certificate it is, and what it tells in short."""

    command: CommandHead
    releases: ReleasesHead = ReleasesHead()
    issued: dict[str, Any] = {}
    edit: EditHead = EditHead()
