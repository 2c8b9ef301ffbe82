"""A paho client made from the address of a broker: protocol version, credentials, TLS, session, no delay."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

LARGEST_PACKET_BYTES: Final = 4 << 20  # the broker drops larger messages, which no release has windows for


@dataclass(frozen=True)
class BrokerAddress:
    """How to reach the broker and who we are there."""

    host: str
    port: int
    client_id: str
    protocol: str = "auto"  # "auto", "5", "3.1.1"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: int = 20
    in_flight: int = 256
    session_expiry_s: int = 604_800


def make_client(address: BrokerAddress, protocol: str) -> Client:
    """A paho client with credentials and TLS set, not yet connected."""
    version = MQTTProtocolVersion.MQTTv5 if protocol == "5" else MQTTProtocolVersion.MQTTv311
    clean = None if protocol == "5" else address.session_expiry_s == 0  # MQTT 5 says it on connecting
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=address.client_id,
        clean_session=clean,
        protocol=version,
        manual_ack=True,
        reconnect_on_failure=False,
    )
    client.on_socket_open = lambda _, __, connection: _send_at_once(connection)
    client.username_pw_set(address.username, address.password)
    if (context := tls(address)) is not None:
        client.tls_set_context(context)
    return client


def tls(address: BrokerAddress) -> ssl.SSLContext | None:
    """What the connection is encrypted and authenticated with, read from the files as they are now.

    Raises:
        OSError: a file is missing or holds no certificate or no key that fits it.
    """
    if address.ca_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(address.ca_file))
    except OSError as error:
        raise OSError(f"CA certificates {address.ca_file} cannot be used: {error}") from error
    if address.cert_file is not None:
        try:
            context.load_cert_chain(str(address.cert_file), str(address.key_file) if address.key_file else None)
        except OSError as error:
            words = f"client certificate {address.cert_file} and key {address.key_file} cannot be used: {error}"
            raise OSError(words) from error
    return context


def tls_stamp(address: BrokerAddress) -> tuple[object, ...]:
    """Changes when one of the files is replaced or written, and when it can or cannot be looked at any more."""
    return tuple(_stamp(path) for path in (address.ca_file, address.cert_file, address.key_file) if path is not None)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _send_at_once(connection: Any) -> None:
    """Switch Nagle's algorithm off: with the peer's delayed acknowledgements it costs 40 ms per small message."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def connect(client: Client, address: BrokerAddress, protocol: str) -> None:
    """Open the connection; raises ``OSError`` if nobody listens."""
    if protocol == "5":
        properties = Properties(PacketTypes.CONNECT)
        properties.ReceiveMaximum = address.in_flight
        properties.MaximumPacketSize = LARGEST_PACKET_BYTES
        properties.SessionExpiryInterval = address.session_expiry_s
        clean = address.session_expiry_s == 0
        client.connect(address.host, address.port, address.keepalive_s, clean_start=clean, properties=properties)
    else:
        client.connect(address.host, address.port, address.keepalive_s)
