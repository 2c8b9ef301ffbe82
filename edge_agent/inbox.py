"""The door to the main thread: a bounded queue in which commands and events go before windows."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from edge_agent import mqtt_link
from edge_agent.mqtt_link import Message

Event = Message | mqtt_link.Event
MOST_BYTES: Final = 64 << 20  # 256 windows of nine channels are 9 MiB; whoever may publish can send 4 MiB at once


class Inbox:
    """Bounded by ``capacity`` messages and ``most_bytes``. Events about the connection are few and always fit."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._bytes = capacity, 0
        self.most_bytes = MOST_BYTES
        self._first: deque[Event] = deque()
        self._windows: deque[Message] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._first) + len(self._windows)

    def put(self, message: Message, *, first: bool, timeout_s: float) -> bool:
        """Hand over a message; waits for room, which slows the sender down, and is False if there was none."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(len(message.payload)), timeout_s):
                return False
            self._bytes += len(message.payload)
            (self._first if first else self._windows).append(message)
            self._changed.notify_all()
            return True

    def hold(self, window_bytes: int) -> None:
        """Have room for as many windows of this size as the broker may send before the first is acknowledged."""
        self.most_bytes = max(self.most_bytes, self._capacity * window_bytes)

    def _has_room(self, more_bytes: int) -> bool:
        """For one that is larger than all room there is once nothing else waits."""
        return len(self) < self._capacity and (not self._bytes or self._bytes + more_bytes <= self.most_bytes)

    def tell(self, event: mqtt_link.Event) -> None:
        """Hand over an event about the connection."""
        with self._changed:
            self._first.append(event)
            self._changed.notify_all()

    def take(self, most: int, timeout_s: float) -> tuple[list[Event], list[Message]]:
        """Wait for something, then take all events and commands, and at most ``most`` windows."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._first or self._windows), timeout_s)
            events = list(self._first)
            self._first.clear()
            windows = [self._windows.popleft() for _ in range(min(most, len(self._windows)))]
            self._bytes -= sum(len(one.payload) for one in (*events, *windows) if isinstance(one, Message))
            if events or windows:
                self._changed.notify_all()
            return events, windows
