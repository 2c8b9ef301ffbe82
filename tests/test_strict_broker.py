"""A broker that holds its clients to the Receive Maximum that it announces, as HiveMQ does (10 by default)."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.plant import toy_agent, wait_until

MOST = 1  # the release and the status, which each connection begins with, are one too many


class Strict(socketserver.BaseRequestHandler):
    """Stands in for it, since mosquitto takes any number. It acknowledges what has come by a moment's silence."""

    kicked, taken = 0, 0

    def handle(self) -> None:
        while data := self.heard():
            answer, taken = b"", 0
            for kind, body in packets(data):
                if kind == 0x10:  # CONNECT
                    answer += b"\x20\x06\x00\x00\x03\x21\x00" + bytes([MOST])
                elif kind == 0x82:  # SUBSCRIBE
                    answer += b"\x90\x04" + body[:2] + b"\x00\x01"
                elif kind & 0xF6 == 0x32:  # PUBLISH at QoS 1
                    topic, taken = int.from_bytes(body[:2], "big"), taken + 1
                    answer += b"\x40\x02" + body[2 + topic : 4 + topic]
            if taken > MOST:
                Strict.kicked, answer = Strict.kicked + 1, b"\xe0\x02\x93\x00"
            else:
                Strict.taken += taken
            self.request.sendall(answer)

    def heard(self) -> bytes:
        self.request.settimeout(None)
        data: bytes = self.request.recv(1 << 20)
        self.request.settimeout(0.2)
        with suppress(TimeoutError):
            while more := self.request.recv(1 << 20):
                data += more
        return data


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """First byte and body of each."""
    while data:
        size, shift, place = 0, 0, 1
        while True:
            size, shift, place = size | (data[place] & 0x7F) << shift, shift + 7, place + 1
            if data[place - 1] < 0x80:
                break
        yield data[0], data[place : place + size]
        data = data[place + size :]


def test_a_broker_that_hangs_up_over_too_many_messages_is_kept_to_its_number(tmp_path: Path, toy_release: Path) -> None:
    """paho takes no notice of it: each connection ended with what is published on connecting, for ever."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Strict) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        agent = toy_agent(tmp_path / "agent", server.server_address[1], toy_release, 'protocol = "5"')
        try:
            wait_until(lambda: Strict.kicked and Strict.taken > MOST, 60)
            reasons = [event["reason"] for event in agent.events("broker.disconnected")]
            assert reasons[0] == "Receive maximum exceeded"
            assert Strict.kicked == 1
        finally:
            agent.kill()
            server.shutdown()
