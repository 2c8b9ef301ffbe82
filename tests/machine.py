"""A gateway with a real systemd: the root file system of this machine under an overlay, booted in a container.

Its network is this machine's, so that a test's broker and plant are its broker and plant. What it writes to its disk is
gone with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from edge_agent.commands.local import wait_until

NEEDS_A_MACHINE: Final = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("systemd-nspawn") is None,
    reason="a container with systemd needs root and systemd-nspawn (Debian: systemd-container)",
)
BOOT_S: Final = 60.0


class Machine:
    """A booted container. Commands run inside it, as root."""

    def __init__(self, leader: int) -> None:
        self._leader = leader

    def run(self, *command: object, expected: int | None = 0, timeout_s: float = 180) -> str:
        """Run a command; returns what it printed, on both streams."""
        enter = ["nsenter", "--target", str(self._leader), "--all", "--", *map(str, command)]
        done = subprocess.run(
            enter, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        assert expected in (None, done.returncode), f"{command}: {done.returncode}\n{done.stdout}{self.journal()}"
        return done.stdout

    def journal(self) -> str:
        """What the service has logged."""
        command = ["nsenter", "--target", str(self._leader), "--all", "journalctl", "-u", "edge-agent", "-o", "cat"]
        return subprocess.run([*command, "--no-pager"], capture_output=True, text=True, check=False).stdout

    def write(self, path: str, content: str) -> None:
        """Write a file inside."""
        self.run("sh", "-c", 'mkdir -p "${1%/*}" && printf %s "$2" >"$1"', "sh", path, content)

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.run("systemctl", "show", "edge-agent", "--value", "-p", name).strip()


@contextmanager
def booted(folder: Path, shared: Path) -> Iterator[Machine]:
    """A machine in which ``shared`` lies at ``/shared``, read-only."""
    root = folder / "root"
    root.mkdir()
    subprocess.run(["mount", "--bind", "/", root], check=True)
    name = f"gateway-{os.getpid()}"
    command: list[str | Path] = [
        "systemd-nspawn", "--quiet", "--directory", root, "--volatile=overlay", "--machine", name,
        # Whether the clock is synchronised may be asked on a real machine.
        "--system-call-filter=adjtimex clock_adjtime", "--register=no", "--keep-unit",
        "--bind-ro", f"{shared}:/shared", "--boot", "systemd.unit=basic.target",
    ]  # fmt: skip
    try:
        with (folder / "console").open("wb") as console:
            container = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        try:
            leader = wait_until(lambda: _leader(container), "the container has an init", BOOT_S)
            assert leader is not None
            machine = Machine(leader)
            target = "systemctl", "is-active", "basic.target"
            wait_until(lambda: machine.run(*target, expected=None).strip() == "active", "it has booted", BOOT_S)
            yield machine
        finally:
            container.terminate()
            try:
                container.wait(30)
            except subprocess.TimeoutExpired:
                container.kill()
                container.wait()
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


def _leader(container: subprocess.Popen[bytes]) -> int | None:
    """The container's first process, once it runs systemd."""
    assert container.poll() is None, "systemd-nspawn has ended"
    for child in Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
            return int(child)
    return None
