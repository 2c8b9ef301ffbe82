"""``edge-agent unlearn``: ask a gateway to forget, and watch it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from edge_agent.commands.client import ToolClient, connected
from edge_agent.core.errors import Unreachable
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.commands import class_list, parse_unlearn, to_sign
from edge_agent.schemas.messages import TERMINAL, dump
from edge_agent.schemas.topics import Topics
from edge_agent.signing import Signer, read_private_key

ANSWER_S: Final = 15.0  # an agent that is there accepts or rejects within this
RETRY_S: Final = 2.0
TURN_S: Final = 0.5


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
    valid_s: float,
    timeout_s: float | None,
    on_status: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Send the command and return its last status: the first answer, or with a timeout the final one.

    Args:
        valid_s: how long an agent that is away, or busy, may still begin with it.

    Raises:
        Refused: the classes, the id or the reason are malformed.
        Unreachable: ``E_BROKER``, no answer came in time.
    """
    classes = class_list(*classes)
    topics, name = Topics(base), ",".join(classes)
    id_ = id_ or f"cli-{uuid.uuid4().hex[:12]}"
    until = (datetime.now(timezone.utc) + timedelta(seconds=valid_s)).isoformat(timespec="seconds")
    # The broker's own expiry is MQTT 5's alone, and says nothing of how long an agent's queue holds a command up.
    content = {"id": id_, "reason": reason, "expires_at": until}
    body = dump(content if signing is None else signing.of(classes, content))
    parse_unlearn(name, body)  # what the agent would refuse unread is refused here
    watch = _Watch(topics.unlearn_status(name), id_, until, timeout_s, on_status)
    with connected(address) as client:
        client.subscribe([watch.topic])
        client.publish(topics.unlearn(name), body, expires_s=valid_s)
        watch.listen(client)
    while not watch.over:  # the connection was lost, but the state is retained
        time.sleep(RETRY_S)
        with suppress(Unreachable), connected(address) as client:
            client.subscribe([watch.topic])
            watch.listen(client)
    return watch.outcome()


class _Watch:
    """What a command's status says, until it says enough or the time is over."""

    def __init__(
        self, topic: str, id_: str, until: str, timeout_s: float | None, on_status: Callable[[dict[str, Any]], None]
    ) -> None:
        self.topic, self._id, self._until, self._timeout_s, self._on_status = topic, id_, until, timeout_s, on_status
        self.status: dict[str, Any] = {}
        now_s = time.monotonic()
        self._silence_s = ANSWER_S if timeout_s is None else min(ANSWER_S, timeout_s)
        self._deadline_s = now_s + (ANSWER_S if timeout_s is None else timeout_s)
        self._silent_until_s = now_s + self._silence_s

    @property
    def _left_s(self) -> float:
        return (self._deadline_s if self.status else self._silent_until_s) - time.monotonic()

    @property
    def _enough(self) -> bool:
        return bool(self.status) and (self._timeout_s is None or self.status["status"] in TERMINAL)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be heard."""
        return self._enough or self._left_s <= 0

    def listen(self, client: ToolClient) -> None:
        """Hear until it is over or the connection is lost."""
        while not (self.over or client.lost):
            for heard in client.listen(min(self._left_s, TURN_S)):
                if isinstance(heard.content, dict) and heard.content.get("id") == self._id:
                    self.status = heard.content
                    self._on_status(self.status)
                    if self._enough:
                        return

    def outcome(self) -> dict[str, Any]:
        """The last status.

        Raises:
            Unreachable: ``E_BROKER``, there was none, or with a timeout no final one.
        """
        if not self.status:
            words = f"command {self._id} is with the broker, for an agent that comes until {self._until}"
            raise Unreachable("E_BROKER", f"no agent answered on {self.topic} within {self._silence_s:g} s; {words}")
        if not self._enough:
            at = f"{self.status['status']}, phase {self.status['phase']}"
            raise Unreachable("E_BROKER", f"not finished after {self._timeout_s:g} s: {at}")
        return self.status
