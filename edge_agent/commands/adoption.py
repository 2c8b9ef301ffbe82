"""Which release serves after a start: the current one, else the best of the store, else the configured one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from edge_agent.adapters.releases import Release, ReleaseStore, read_release
from edge_agent.core.errors import BrokenRelease, Misconfigured, StorageFailed
from edge_agent.live import LiveModel, refuse_erased
from edge_agent.tally import storage_failed

log = structlog.get_logger(__name__)

READ_AGAIN: Final = 3  # times, where the disk cannot read a release
READ_AGAIN_S: Final = 1.0


def adopt_first(
    source: Path | None, store: ReleaseStore, live: LiveModel, unwelcome_in: Callable[[str], frozenset[str]]
) -> None:
    """Adopt the current release, else the one in the store that has forgotten most, else the configured one.

    The configured one comes last, and is not even copied if it knows an erased class: a restart must not bring back
    what was destroyed.
    """
    current, problems = store.current(), []
    for name in _candidates(store, current):
        try:
            live.adopt(_patiently(store, name), unwelcome_in(name))
        except BrokenRelease as error:
            log.error("release.refused", release=name[:12], code=error.code, reason=error.reason)
            problems.append(error)
        else:
            if current not in (None, name):
                log.error("release.replaced", wanted=str(current)[:12], release=name[:12])
            return
    if source is not None:
        release = read_release(source)
        refuse_erased(release.card, unwelcome_in(release.digest))
        live.adopt(store.add(source), unwelcome_in(release.digest))
    elif problems:
        raise problems[0]
    else:
        words = f"{store.folder} is empty; train one (edge-agent train) and name it as release in the configuration"
        raise Misconfigured("E_NO_RELEASE", words)


def _patiently(store: ReleaseStore, name: str) -> Release:
    """A release of the store. In the place of one that the disk cannot read at once no other may serve for good.

    Raises:
        BrokenRelease: it cannot be used, or the disk could not read it in several attempts.
    """
    for _ in range(READ_AGAIN):
        try:
            return store.get(name)
        except StorageFailed as error:
            storage_failed(error, next_try_s=READ_AGAIN_S)
            time.sleep(READ_AGAIN_S)
    try:
        return store.get(name)
    except StorageFailed as error:
        raise BrokenRelease(error.code, error.reason) from error


def _candidates(store: ReleaseStore, current: str | None) -> Iterator[str]:
    """The current release; only if that cannot be used are the others looked at."""
    if current is not None:
        yield current
    others = [name for name in reversed(store.digests()) if name != current]
    yield from sorted(others, key=lambda name: -_forgotten(store, name))  # by no clock: a child before its parent


def _forgotten(store: ReleaseStore, name: str) -> int:
    try:
        return len(store.get(name).card.forgotten)
    except (BrokenRelease, StorageFailed):
        return -1
