"""The page's ear: a thread that keeps a connection to the broker and hands over what it hears.

Diagnoses come all, at QoS 0. Of windows, which are large, one is caught each second, and only of assets that somebody
looks at: the topic is subscribed to until one has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from edge_agent.commands.client import Heard, ToolClient, connected
from edge_agent.core.errors import Misconfigured, Unreachable
from edge_agent.mqtt_client import BrokerAddress

CATCH_EVERY_S: Final = 1.0
RETRY_S: Final = 2.0
TURN_S: Final = 0.1


class Listener:
    """Listens until ``stop``.

    Args:
        topics: what is listened to always.
        windows: where windows of an asset are published.
        watched: the assets whose windows are wanted now.
        hand_over: called in the listener's thread with what has come, some times a second.
        tell: called there with whether the broker is connected, and with what it or the network said.
    """

    def __init__(
        self,
        address: BrokerAddress,
        topics: Sequence[str],
        windows: Callable[[str], str],
        watched: Callable[[], Collection[str]],
        hand_over: Callable[[list[Heard]], object],
        tell: Callable[[bool, str], None],
    ) -> None:
        self._address, self._topics, self._windows, self._watched = address, topics, windows, watched
        self._hand_over, self._tell = hand_over, tell
        self._stopping = threading.Event()
        self._open: set[str] = set()  # window topics that are subscribed to
        self._catch_s = float("-inf")
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Hang up."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with connected(self._address) as client:
                    client.subscribe(self._topics, qos=0)
                    self._tell(True, "")
                    self._listen(client)
                reason = "the connection ended"
            except (Unreachable, Misconfigured) as error:
                reason = error.reason
            self._open.clear()
            self._tell(False, reason)
            self._stopping.wait(RETRY_S)

    def _listen(self, client: ToolClient) -> None:
        while not (client.lost or self._stopping.is_set()):
            self._catch(client)
            come = [heard for heard in client.listen(TURN_S) if self._wanted(client, heard)]
            if come:
                self._hand_over(come)

    def _wanted(self, client: ToolClient, heard: Heard) -> bool:
        """Whether a message is handed over: of windows one of each topic, though more come until the broker knows."""
        if not heard.topic.startswith(self._windows("")):
            return True
        if heard.topic not in self._open:
            return False
        self._open.discard(heard.topic)
        client.client.unsubscribe(heard.topic)
        return True

    def _catch(self, client: ToolClient) -> None:
        now_s = time.monotonic()
        if now_s < self._catch_s + CATCH_EVERY_S:
            return
        self._catch_s = now_s
        wanted = {self._windows(asset) for asset in self._watched()}
        for topic in self._open - wanted:
            client.client.unsubscribe(topic)
        for topic in wanted - self._open:
            client.client.subscribe(topic, qos=0)
        self._open = wanted
