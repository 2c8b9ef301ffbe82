"""The agent, whose thread that keeps the connection dies of an error once it is connected: for a test to start."""

from __future__ import annotations

from edge_agent.adapters.mqtt import Broker
from edge_agent.cli import main
from edge_agent.mqtt_link import Link


def _stay(self: Broker, link: Link) -> None:
    link.decided.wait()
    raise RuntimeError("can't start new thread")


if __name__ == "__main__":
    Broker._stay = _stay  # type: ignore[method-assign]
    main()
