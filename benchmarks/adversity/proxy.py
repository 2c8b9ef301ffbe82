"""A TCP proxy between agent and broker that misbehaves on demand, and lets an onlooker see every MQTT packet."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final

from benchmarks.adversity.mqtt_wire import Connection, Packet

PIECE_BYTES: Final = 4096
# Told of each packet before it is passed on: which connection, whether it goes to the broker, the packet.
Onlooker = Callable[[int, bool, Packet], None]


class Proxy:
    """Listens on ``port`` of loopback; runs in a thread of its own until ``stop``."""

    def __init__(self, target_port: int, onlooker: Onlooker) -> None:
        self._target, self._onlooker = target_port, onlooker
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._delay_per_byte_s = 0.0
        self._cut = False
        self._count = 0
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        self._started.wait()

    def cut(self) -> None:
        """End all connections, and every new one, until ``mend``."""
        self._do(lambda: self._set(cut=True))

    def reset(self) -> None:
        """End all connections by RST."""
        self._do(self._reset)

    def hold(self) -> None:
        """Pass nothing on any more, but keep the connections up, until ``mend``: half-open."""
        self._do(self._flowing.clear)

    def slow(self, bytes_per_s: float) -> None:
        """Pass on this much each way, until ``mend``."""
        self._do(lambda: self._set(delay_per_byte_s=1 / bytes_per_s))

    def mend(self) -> None:
        """Behave; connections that were held end, as they do when a route comes back too late."""
        self._do(self._mend)

    def stop(self) -> None:
        """End everything."""
        self._do(self._stopped.set)
        self._thread.join()
        self._loop.close()

    def _do(self, act: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(act)

    def _set(self, *, cut: bool = False, delay_per_byte_s: float = 0.0) -> None:
        self._cut, self._delay_per_byte_s = cut, delay_per_byte_s
        if cut:
            self._reset()

    def _reset(self) -> None:
        for writer in self._writers:
            if writer.is_closing():  # its socket may be closed already, while its task has not come to its end yet
                continue
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _mend(self) -> None:
        self._set()
        if not self._flowing.is_set():
            self._reset()
            self._flowing.set()

    async def _serve(self) -> None:
        self._flowing, self._stopped = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        self._started.set()
        await self._stopped.wait()
        server.close()
        self._mend()
        self._reset()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            if not self._cut:
                await self._join(reader, writer, self._count)
        except OSError:  # no broker there, or either side has gone
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(onward)
        wire = Connection()
        up = asyncio.ensure_future(self._pass(reader, onward, wire, number, upward=True))
        down = asyncio.ensure_future(self._pass(onward_reader, writer, wire, number, upward=False))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in (up, down):
                way.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            self._writers.discard(onward)
            onward.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Connection, number: int, *, upward: bool
    ) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await self._flowing.wait()
            await asyncio.sleep(len(piece) * self._delay_per_byte_s)
            if writer.is_closing():
                return
            for packet in wire.feed(piece, upward=upward):
                self._onlooker(number, upward, packet)
            writer.write(piece)
            await writer.drain()
