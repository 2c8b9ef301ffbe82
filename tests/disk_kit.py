"""A disk that fails when a test wants it to, and what tests of it share."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import toy
from edge_agent.adapters.audit import read_rows
from edge_agent.core.errors import StorageFailed
from edge_agent.core.types import Window
from edge_agent.reservoir import Source
from edge_agent.served import ServedModel

WHINE = toy.CLASSES.index("whine")


class Failing:
    """A method that fails, as on a full disk, in its first calls of those that ``when`` is true for."""

    def __init__(self, method: Callable[..., Any], when: Callable[..., bool], times: int = 1) -> None:
        self._method, self._when, self._left = method, when, times

    def __get__(self, instance: Any, _: type) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if self._left and self._when(*args):
                self._left -= 1
                raise StorageFailed("E_STORAGE", os.strerror(errno.ENOSPC))
            return self._method(instance, *args, **more)

        return call


def fail(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, when: Callable[..., bool], times: int = 1) -> None:
    monkeypatch.setattr(owner, name, Failing(getattr(owner, name), when, times))


def rows(folder: Path, event: str) -> list[dict[str, Any]]:
    return [row["content"] for row in read_rows(folder / "state" / "audit.jsonl") if row["event"] == event]


def no_disk(*_: Any) -> OSError:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: Callable[..., bool] = lambda *_: True, times: int = 1
) -> None:
    """The next calls that ``when`` is true for fail with an I/O error; all later ones are fine."""
    call, left = getattr(owner, name), [*range(times)]

    def failing(*args: Any, **more: Any) -> Any:
        if left and when(*args):
            left.pop()
            no_disk()
        return call(*args, **more)

    monkeypatch.setattr(owner, name, failing)


def stock(model: ServedModel, count: int = 12) -> None:
    """Cached windows of "whine"."""
    for seq, samples in enumerate(toy.windows(WHINE, count, np.random.default_rng(0))):
        model._cache.offer("whine", Window("m", "b", seq, 0, "whine", samples), Source.SENDER)
