"""Work on releases that takes too long for the thread that answers windows: sealing one, loading one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Installer(Generic[Made]):
    """Makes one thing at a time in a thread of its own; asked again and again until it is there."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "installer")
        self._task: tuple[str, Future[Made]] | None = None

    def made(self, name: str, make: Callable[[], Made]) -> Made | None:
        """What ``make`` has made, once; None as long as it, or what was begun before under another name, is at work.

        Raises:
            EdgeAgentError: what ``make`` raised; asked once more it is begun anew.
        """
        if self._task is not None and self._task[0] != name and self._task[1].done():
            self._task = None  # nobody has come for it
        if self._task is None:
            self._task = name, self._pool.submit(make)
        if self._task[0] != name or not self._task[1].done():
            return None
        done, self._task = self._task[1], None
        return done.result()

    def discard(self) -> Made | None:
        """Wait for what is at work; what it has made, if it could, for nobody comes for it any more."""
        task, self._task = self._task, None
        return task[1].result() if task is not None and task[1].exception() is None else None
