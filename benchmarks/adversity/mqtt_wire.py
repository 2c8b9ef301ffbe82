"""MQTT as it passes on the wire: the few packets that an onlooker needs (MQTT 3.1.1 and 5, section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

CONNECT, PUBLISH, PUBACK = 1, 3, 4
_V5: Final = 5


@dataclass(frozen=True)
class Published:
    """A PUBLISH; ``mid`` is 0 at QoS 0."""

    topic: str
    payload: bytes
    mid: int


@dataclass(frozen=True)
class Acknowledged:
    """A PUBACK."""

    mid: int


Packet = Published | Acknowledged


class Connection:
    """Both directions of one connection, put together again from whatever pieces TCP brings."""

    def __init__(self) -> None:
        self._rest = {True: b"", False: b""}
        self._version = 4

    def feed(self, piece: bytes, *, upward: bool) -> Iterator[Packet]:
        """The packets that a piece completes; ``upward`` is from the client to the broker."""
        content = self._rest[upward] + piece
        start = 0
        while (sized := _size(content, start)) is not None:
            body, end = sized
            if end > len(content):
                break
            packet = self._parse(content[start], content[body:end])
            start = end
            if packet is not None:
                yield packet
        self._rest[upward] = content[start:]

    def _parse(self, head: int, body: bytes) -> Packet | None:
        kind, qos = head >> 4, head >> 1 & 3
        if kind == CONNECT:
            self._version = body[2 + _number(body, 0)]
        elif kind == PUBACK:
            return Acknowledged(_number(body, 0))
        elif kind == PUBLISH:
            place = 2 + _number(body, 0)
            topic = body[2:place].decode()
            mid = _number(body, place) if qos else 0
            place += 2 if qos else 0
            if self._version == _V5:
                length, place = _varint(body, place) or (0, place)
                place += length
            return Published(topic, body[place:], mid)
        return None


def _number(content: bytes, start: int) -> int:
    return int.from_bytes(content[start : start + 2], "big")


def _varint(content: bytes, start: int) -> tuple[int, int] | None:
    """A variable byte integer and where it ends, or None if it is not whole."""
    value = 0
    for place, byte in enumerate(content[start : start + 4]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, start + place + 1
    return None


def _size(content: bytes, start: int) -> tuple[int, int] | None:
    """Where the body of the packet at ``start`` begins and ends, or None if its head is not whole."""
    sized = _varint(content, start + 1)
    return (sized[1], sized[1] + sized[0]) if sized else None
