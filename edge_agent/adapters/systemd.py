"""``sd_notify``: tells systemd that the agent is ready, alive or stopping (sd_notify(3)). A no-op without systemd."""

from __future__ import annotations

import os
import socket


class Notifier:
    """Sends datagrams to the socket that systemd names in ``NOTIFY_SOCKET``."""

    def __init__(self, address: str | None) -> None:
        # A leading @ stands for the abstract namespace.
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    def send(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``; a service manager that has gone is no reason to fail."""
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            try:
                connection.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return


def from_environment() -> Notifier:
    """The notifier of this process's service manager, if there is one."""
    return Notifier(os.environ.get("NOTIFY_SOCKET"))
