"""Certificates that a class was forgotten: how they are told from whatever else a gateway's key has signed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.core.errors import Untrusted
from edge_agent.schemas.commands import first_problem
from edge_agent.schemas.heard import CommandHead, Name

KIND: Final = "edge-agent forgetting certificate"
VERSION: Final = 1


class Vouched(BaseModel):
    """Which gateway vouches, and for which command."""

    model_config = ConfigDict(frozen=True)

    gateway: Name
    command: CommandHead


def vouched(content: Mapping[str, Any]) -> Vouched:
    """What the content of a signed document vouches for.

    Raises:
        Untrusted: ``E_SIGNATURE``, it is no certificate.
    """
    try:
        if (content.get("kind"), content.get("version")) == (KIND, VERSION):
            return Vouched.model_validate(content)
        reason = f"it is signed, but no {KIND} of version {VERSION}"
    except ValidationError as error:
        reason = f"it is signed, but does not name gateway and command: {first_problem(error)}"
    raise Untrusted("E_SIGNATURE", reason)
