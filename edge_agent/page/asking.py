"""Who may ask to forget through the page, and how the wish is passed on: the way that any other command goes."""

from __future__ import annotations

import hmac
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Final

from edge_agent.commands.client import connected
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.commands import parse_unlearn
from edge_agent.schemas.messages import dump
from edge_agent.schemas.topics import Topics

VALID_S: Final = 300.0  # a command that the agent has not taken by then is void
FAILURES: Final = 5  # wrong tokens, after which nobody is believed for a while
LOCKED_S: Final = 30.0


@dataclass
class Doorman:
    """Says whether somebody may act.

    Args:
        token: what he must show; None: tokens open nothing.
        user_header: where a reverse proxy names him; empty: there is none.
        signed_only: the agent takes signed commands alone, and the page has no key.
    """

    token: str | None = field(repr=False)
    user_header: str
    signed_only: bool
    _failures: int = 0
    _locked_until_s: float = float("-inf")

    def ways(self) -> dict[str, bool]:
        """What the page offers."""
        return {
            "token": self.token is not None and not self.signed_only,
            "proxy": bool(self.user_header) and not self.signed_only,
            "signed_only": self.signed_only,
        }

    def refusal(self, authorization: str, user: str) -> str | None:
        """Why he may not, or None; who is named by the proxy needs no token."""
        if self.signed_only:
            return "this gateway takes signed commands only: edge-agent unlearn --key"
        if self.user_header and user:
            return None
        if self.token is None:
            return "nobody may ask here: page.token_file and page.user_header are not set"
        if time.monotonic() < self._locked_until_s:
            return f"too many wrong tokens; wait {LOCKED_S:.0f} s"
        if hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
            self._failures = 0
            return None
        self._failures += 1
        if self._failures >= FAILURES:
            self._failures, self._locked_until_s = 0, time.monotonic() + LOCKED_S
        return "the token is wrong"


def ask_to_forget(address: BrokerAddress, topics: Topics, name: str, reason: str) -> str:
    """Publish a command to forget the classes of ``name``; returns its id.

    Raises:
        Refused: the agent would refuse it unread.
        Unreachable: ``E_BROKER``.
        Misconfigured: ``E_CONFIG``.
    """
    id_ = f"page-{uuid.uuid4().hex[:12]}"
    until = datetime.now(timezone.utc) + timedelta(seconds=VALID_S)
    body = dump({"id": id_, "reason": reason, "expires_at": until.isoformat(timespec="seconds")})
    parse_unlearn(name, body)
    with connected(address) as client:
        client.publish(topics.unlearn(name), body, expires_s=VALID_S)
    return id_
