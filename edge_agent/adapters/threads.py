"""A thread that nothing goes on without takes its process with it when it dies of an error; systemd starts it again."""

from __future__ import annotations

import os
import threading
from typing import Final

import structlog

log = structlog.get_logger(__name__)

DIED: Final = 70  # EX_SOFTWARE of sysexits.h


def end_with(*names: str) -> None:
    """End the process, as SIGKILL would, when a thread dies whose name begins with one of these; ``""`` is each."""

    def died(about: threading.ExceptHookArgs) -> None:
        name = about.thread.name if about.thread is not None else ""
        log.error("thread.died", thread=name, exc_info=(about.exc_type, about.exc_value, about.exc_traceback))
        if name.startswith(names):
            os._exit(DIED)

    threading.excepthook = died
