"""The MQTT topics of one gateway (docs: README, "Topics")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from edge_agent.core.errors import Refused

ASSET: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
# A class name is a topic level, so it holds none of / + # and no comma, which separates several classes.
CLASS_NAME: Final = re.compile(r"[A-Za-z0-9_@](?:[A-Za-z0-9._@ -]{0,62}[A-Za-z0-9._@-])?")
PLANT_WIDE_UNLEARN: Final = "unlearn"
WINDOWS: Final = "/windows/+"  # how the subscription ends without which an agent answers nothing

Kind = Literal["window", "label"]


@dataclass(frozen=True)
class Topics:
    """All topics below one base, for example ``edge/press-7``."""

    base: str

    def shared_windows(self, share: str) -> str:
        """The topic filter of all windows; of some of them, where a shared subscription is named."""
        return f"$share/{share}/{self.base}{WINDOWS}" if share else f"{self.base}{WINDOWS}"

    def subscriptions(self, share: str = "", *, models: bool = False) -> tuple[str, ...]:
        """Topic filters that the agent listens to; with ``models``, beside its own, also for those."""
        base = self.base
        own = self.shared_windows(share), f"{base}/labels/+", f"{base}/unlearn/+", f"{PLANT_WIDE_UNLEARN}/+"
        return (*own, f"{base}/models/+/unlearn/+") if models else own

    def parse(self, topic: str) -> tuple[Kind, str]:
        """What the topic of a window or a label is about, and its asset.

        Raises:
            Refused: ``E_TOPIC`` for a topic that was not subscribed to, ``E_ASSET`` for a bad asset name.
        """
        head, _, name = topic.rpartition("/")
        kinds: dict[str, Kind] = {f"{self.base}/windows": "window", f"{self.base}/labels": "label"}
        kind = kinds.get(head)
        if kind is None:
            raise Refused("E_TOPIC", f"nothing is expected on {topic[:100]!r}")
        if not ASSET.fullmatch(name):
            raise Refused("E_ASSET", f"asset {name[:80]!r} is not 1 to 64 of A-Z a-z 0-9 . _ -")
        return kind, name

    def is_command(self, topic: str) -> bool:
        """Whether a topic's messages go before windows."""
        return topic.startswith((f"{self.base}/unlearn/", f"{self.base}/models/", f"{PLANT_WIDE_UNLEARN}/"))

    def is_plant_wide(self, topic: str) -> bool:
        """Whether a command is meant for every gateway."""
        return topic.rpartition("/")[0] == PLANT_WIDE_UNLEARN

    def windows(self, asset: str) -> str:
        """Where an asset's windows come in."""
        return f"{self.base}/windows/{asset}"

    def diagnosis(self, asset: str) -> str:
        """Where an asset's diagnoses go."""
        return f"{self.base}/diagnosis/{asset}"

    @property
    def unlearn_head(self) -> str:
        """What stands before the classes where this gateway is asked to forget."""
        return f"{self.base}/unlearn"

    def unlearn(self, classes: str) -> str:
        """Where this gateway is asked to forget."""
        return f"{self.unlearn_head}/{classes}"

    def unlearn_status(self, classes: str) -> str:
        """Where the state of a command is kept (retained)."""
        return f"{self.base}/unlearn/{classes}/status"

    def certificate(self, classes: str) -> str:
        """Where the certificate of a forgotten class is kept (retained)."""
        return f"{self.base}/unlearn/{classes}/certificate"

    @property
    def status(self) -> str:
        """Birth and will (retained)."""
        return f"{self.base}/status"

    @property
    def release(self) -> str:
        """The live release's card (retained)."""
        return f"{self.base}/release"

    @property
    def refused(self) -> str:
        """One line per refused message."""
        return f"{self.base}/refused"
