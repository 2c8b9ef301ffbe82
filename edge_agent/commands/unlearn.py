"""``edge-agent unlearn``: ask a gateway to forget, and watch it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from edge_agent.commands.client import connected
from edge_agent.core.errors import Unreachable
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.commands import parse_unlearn, to_sign
from edge_agent.schemas.messages import TERMINAL, dump
from edge_agent.schemas.topics import Topics
from edge_agent.signing import Signer, read_private_key

ANSWER_S = 15.0  # an agent that is there accepts or rejects within this


@dataclass(frozen=True)
class Signing:
    """How a command is signed: with whose key, for which gateways, until when."""

    signer: Signer
    key: str
    audience: tuple[str, ...]
    expires_at: datetime

    @classmethod
    def with_key(cls, path: Path, key: str, audience: tuple[str, ...], valid_s: float) -> Signing:
        """With a private key in a file, from now on.

        Raises:
            Misconfigured: ``E_KEY``.
        """
        return cls(read_private_key(path), key, audience, datetime.now(timezone.utc) + timedelta(seconds=valid_s))

    def of(self, classes: tuple[str, ...], content: dict[str, Any]) -> dict[str, Any]:
        """The payload of a signed command."""
        expires_at = self.expires_at.isoformat(timespec="seconds")
        whole = {**content, "audience": list(self.audience), "expires_at": expires_at, "key": self.key}
        return {**whole, "signature": self.signer.sign(to_sign(classes, whole))}


def unlearn(
    address: BrokerAddress,
    base: str,
    classes: tuple[str, ...],
    reason: str,
    id_: str | None,
    signing: Signing | None,
    timeout_s: float | None,
    on_status: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Send the command and return its last status: the first answer, or with a timeout the final one.

    Raises:
        Refused: the classes, the id or the reason are malformed.
        Unreachable: ``E_BROKER``, no answer came in time.
    """
    topics, name = Topics(base), ",".join(sorted(set(classes)))
    id_ = id_ or f"cli-{uuid.uuid4().hex[:12]}"
    content = {"id": id_, "reason": reason}
    body = dump(content if signing is None else signing.of(tuple(name.split(",")), content))
    parse_unlearn(name, body)  # what the agent would refuse unread is refused here
    with connected(address) as client:
        client.subscribe([topics.unlearn_status(name)])
        client.publish(topics.unlearn(name), body)
        status: dict[str, Any] = {}
        deadline_s = time.monotonic() + (timeout_s if timeout_s is not None else ANSWER_S)
        silent_s = ANSWER_S if timeout_s is None else min(ANSWER_S, timeout_s)
        silent_until_s = time.monotonic() + silent_s
        while (left_s := (deadline_s if status else silent_until_s) - time.monotonic()) > 0:
            for heard in client.listen(left_s):
                if isinstance(heard.content, dict) and heard.content.get("id") == id_:
                    status = heard.content
                    on_status(status)
                    if status["status"] in TERMINAL or timeout_s is None:
                        return status
    if not status:
        raise Unreachable("E_BROKER", f"no agent answered on {topics.unlearn_status(name)} within {silent_s:g} s")
    raise Unreachable("E_BROKER", f"not finished after {timeout_s:g} s: {status['status']}, phase {status['phase']}")
