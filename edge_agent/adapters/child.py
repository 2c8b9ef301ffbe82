"""The forget job's process: started niced and apart, ended with the agent."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

STOP_S: Final = 5.0
LAST_WORDS: Final = 300  # characters of the log that go into a reason


def python() -> list[str]:
    """This interpreter, which looks for code in the caller's folder and environment only where this process does."""
    return [sys.executable, "-I"] if sys.flags.isolated else [sys.executable]


class Child:
    """``python -m edge_agent.unlearn_job FOLDER``, its output in a log file.

    Args:
        nice: how much less of the processor it is given than this process. It has it before it runs: two seconds go
            into reading torch, and that long it kept windows waiting when it did this itself.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, folder: Path, log: Path, nice: int) -> None:
        self._log = log
        command = [*python(), "-m", "edge_agent.unlearn_job", str(folder), "--parent", str(os.getpid())]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        level = os.getpriority(os.PRIO_PROCESS, 0) + nice  # the kernel takes what is over 19 for 19
        with suppress(ProcessLookupError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, level)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ended(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """Terminate it, and kill it if it does not follow."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """The last line that it wrote, which tells why it died."""
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][-LAST_WORDS:] if lines else ""
