"""What operators send: commands to forget and labels for windows that were seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edge_agent.core.errors import Refused
from edge_agent.schemas.topics import CLASS_NAME

MOST_BYTES: Final = 16 * 1024
MOST_CLASSES: Final = 32
LONGEST_GATEWAY: Final = 64 + len("/models/") + 64  # a further model's name has its gateway's before it


def _iso_text(value: Any) -> Any:
    """Numbers are refused: pydantic would guess between seconds and milliseconds."""
    if not isinstance(value, str):
        raise ValueError("not ISO 8601 text with a time zone")  # noqa: TRY004 pydantic takes no TypeError
    return value


class _UnlearnPayload(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str | None = Field(None, pattern=r"^[A-Za-z0-9._:-]{1,64}$")
    expires_at: Annotated[AwareDatetime, BeforeValidator(_iso_text), Field(strict=False)] | None = None
    reason: str = Field("", max_length=500)
    audience: list[Annotated[str, Field(max_length=LONGEST_GATEWAY)]] | None = None
    key: str | None = Field(None, max_length=64)
    signature: str | None = Field(None, pattern=r"^[0-9a-f]{128}$")


class _LabelPayload(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    seq: int = Field(ge=0, lt=2**63)
    boot: str | None = Field(None, max_length=64)
    label: str = Field(alias="class", max_length=64)


@dataclass(frozen=True)
class UnlearnCommand:
    """A command to forget ``classes``; ``digest`` tells two bodies with the same id apart."""

    classes: tuple[str, ...]  # sorted, each once
    id: str | None
    expires_at: datetime | None
    reason: str
    digest: str
    audience: tuple[str, ...] = ()  # gateways that it is for; empty: it does not say
    key: str | None = None  # id of the key that signed it
    signature: str | None = None
    signed: Mapping[str, Any] = field(default_factory=dict)  # what the signature is of

    @property
    def name(self) -> str:
        """The classes as they stand in the topics of the command's state."""
        return ",".join(self.classes)


@dataclass(frozen=True)
class Label:
    """The true class of a window seen before."""

    seq: int
    boot: str | None
    label: str


def class_list(*texts: str) -> tuple[str, ...]:
    """The classes in texts that part them by commas: sorted, each once, as they stand in topics."""
    return tuple(sorted({name.strip() for text in texts for name in text.split(",")}))


def parse_unlearn(classes: str, payload: bytes) -> UnlearnCommand:
    """Read a command: the classes from the topic's last level, the rest from an empty or JSON payload.

    Raises:
        Refused: ``E_TOO_LONG``, ``E_JSON`` or ``E_CLASS``.
    """
    names = class_list(classes)
    bad = [name[:80] for name in names if not CLASS_NAME.fullmatch(name)]
    if bad or len(names) > MOST_CLASSES:
        raise Refused(
            "E_CLASS", f"{bad[0]!r} is no class name" if bad else f"{len(names)} classes, limit {MOST_CLASSES}"
        )
    content = _json(payload, "E_JSON") if payload else {}
    try:
        body = _UnlearnPayload.model_validate(content)
    except ValidationError as error:
        raise Refused("E_JSON", f"the command is malformed: {first_problem(error)}") from error
    # Until when it holds, and the signature over that, make no other command: it may be sent again.
    lasting = {name: value for name, value in content.items() if name not in ("expires_at", "signature")}
    canonical = json.dumps([names, lasting], sort_keys=True, separators=(",", ":")).encode()
    digest, origin = hashlib.sha256(canonical).hexdigest(), (tuple(body.audience or ()), body.key, body.signature)
    return UnlearnCommand(names, body.id, body.expires_at, body.reason, digest, *origin, to_sign(names, content))


def to_sign(classes: tuple[str, ...], content: Mapping[str, Any]) -> dict[str, Any]:
    """What the signature of a command is of: its payload without the signature, and the classes of its topic."""
    return {**{name: value for name, value in content.items() if name != "signature"}, "classes": list(classes)}


def id_of(payload: bytes) -> str | None:
    """The id of a command that could not be read otherwise, so that who sent it learns why."""
    try:
        content = json.loads(payload[:MOST_BYTES])
    except (ValueError, RecursionError):
        return None
    id_ = content.get("id") if isinstance(content, dict) else None
    return id_[:64] if isinstance(id_, str) else None


def parse_label(payload: bytes) -> Label:
    """Read a label: JSON ``{seq, class, boot?}``.

    Raises:
        Refused: ``E_TOO_LONG`` or ``E_LABEL``.
    """
    try:
        body = _LabelPayload.model_validate(_json(payload, "E_LABEL"))
    except ValidationError as error:
        raise Refused("E_LABEL", f"the label is malformed: {first_problem(error)}") from error
    return Label(body.seq, body.boot, body.label)


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints as one short line, without the offending value."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part)[:40] for part in problem["loc"]) or "the object"
    return f"{where}: {problem['msg']}"


def _json(payload: bytes, code: str) -> Any:
    if len(payload) > MOST_BYTES:
        raise Refused("E_TOO_LONG", f"payload has {len(payload)} bytes, at most {MOST_BYTES} are read")
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:  # ValueError covers bad JSON, bad UTF-8 and huge integers
        raise Refused(code, f"the payload is not JSON ({type(error).__name__})") from error
