"""An operator's wish for another release: it goes live between two commands, and what keeps windows follows it."""

from __future__ import annotations

from typing import Final

import structlog

from edge_agent.adapters.audit import AuditLog
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.adapters.windows import WindowCache
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, StorageFailed
from edge_agent.forgetting import Forgetting
from edge_agent.installer import Installer
from edge_agent.live import LiveModel, Loaded, refuse_erased
from edge_agent.masks import Masks
from edge_agent.tally import Tally, tolerant

log = structlog.get_logger(__name__)

SETTLE_EVERY_S: Final = 60.0  # after a failure of the disk
REKEY_EVERY_S: Final = 86_400.0


class Adopting:
    """Owner of the wish. Everything here runs in the agent's main thread, but the loading of the release."""

    def __init__(
        self,
        store: ReleaseStore,
        live: LiveModel,
        cache: WindowCache,
        audit: AuditLog,
        masks: Masks,
        tally: Tally,
        forgetting: Forgetting,
    ) -> None:
        self._store, self._live, self._cache, self._audit = store, live, cache, audit
        self._masks, self._tally, self._forgetting = masks, tally, forgetting
        self._installer = Installer[Loaded]()
        self._wanted: str | None = None  # the release that was asked for, while it is being loaded
        self._adopted: str | None = None  # one that is live, until cache and audit log have followed
        self._settle_s = self._rekey_s = float("-inf")
        self._moved_to: set[str] = set()  # classes from whose windows files are to be parted by a new key,
        self._rekeys_left = 0  # and how many files that can be: no label given meanwhile adds to them

    def poll(self, now_s: float) -> bool:
        """Adopt what ``edge-agent releases`` asked for, once no command works on the present release.

        Returns:
            Whether another release is live now.

        Raises:
            StorageFailed: the wish could not be read or taken back; it is looked at again.
        """
        wanted = self._wanted or self._store.wanted()
        if wanted is None or self._forgetting.at_work:
            return False
        if self._wanted is None:
            self._store.forget_wish()  # first: a release that ended the process would do so at every start
            self._wanted = wanted
        try:
            if not self._swapped(wanted):
                return False
        except (BrokenRelease, StorageFailed) as error:
            self._wanted = None
            self._refuse(wanted, error)
            return False
        log.info("release.adopted", release=wanted[:12], reason="operator")
        self._wanted, self._adopted = None, wanted
        self._masks.apply()
        self._follow(now_s)
        return True

    def settle(self, now_s: float) -> None:
        """Let cache, probation and audit log follow where the disk failed before."""
        if now_s >= self._settle_s:
            self._follow(now_s)

    def _swapped(self, wanted: str) -> bool:
        loaded = self._installer.made(wanted, lambda: self._live.load(self._store.get(wanted)))
        if loaded is None:
            return False
        refuse_erased(loaded.release.card, self._forgetting.unwelcome(wanted))  # by what is erased now
        if loaded.release.digest not in self._store.digests():
            raise BrokenRelease("E_NO_RELEASE", f"release {wanted[:12]} was destroyed before it could go live")
        self._live.swap(loaded)
        return True

    def _refuse(self, wanted: str, error: EdgeAgentError) -> None:
        self._tally.counters["releases_refused"] += 1
        log.error("release.refused", release=wanted[:12], code=error.code, reason=error.reason)
        with tolerant():
            self._audit.append("release.refused", release=wanted, code=error.code, reason=error.reason)
        if error.code == "E_ERASED":  # what was erased must not lie in the store
            with tolerant():
                self._store.remove(wanted)

    def _follow(self, now_s: float) -> None:
        self._settle_s = now_s + SETTLE_EVERY_S
        with tolerant():
            # Without an adoption it fits, unless the disk failed when the agent started.
            if self._adopted is not None or self._cache.counts().keys() != set(self._live.card.classes):
                fit_cache(self._cache, self._live)
                self._masks.apply()
            if self._adopted is not None:
                self._forgetting.release_adopted()
                self._audit.append("release.adopted", release=self._adopted, reason="operator")
                self._adopted = None
        with tolerant():
            self._drop_forgotten(now_s)

    def _drop_forgotten(self, now_s: float) -> None:
        """Destroy windows of classes that a release from elsewhere had forgotten before: no command can ask for it.

        Files that windows were moved from get a new key, and are written anew, whole: after an erasure, and once in a
        day what a crash left of that. Whoever may give labels could wear the disk out else (decision 0015). A file is
        tens of megabytes, and windows wait meanwhile: one at a time, the next a second later.
        """
        if self._forgetting.at_work is not None:
            return  # the end of a command tells in its certificate what it destroys
        due = now_s >= self._rekey_s
        for name in self._live.card.forgotten:
            count = self._cache.counts().get(name)
            if count:
                self._cache.erase(name)
                log.warning("cache.dropped", files=1, windows=count, reason=f"the release has forgotten {name}")
            if count or due:
                self._moved_to.add(name)
                self._rekeys_left = len(self._cache.counts())
        if due:
            self._rekey_s = now_s + REKEY_EVERY_S
        if self._rekeys_left and any(self._cache.rekey_one(name) for name in sorted(self._moved_to)):
            self._rekeys_left, self._settle_s = self._rekeys_left - 1, now_s
        else:
            self._rekeys_left, self._moved_to = 0, set()


def fit_cache(cache: WindowCache, live: LiveModel) -> None:
    """Give the cache the classes and the window shape of the live release.

    Raises:
        StorageFailed: some classes are not cached until it is done again.
    """
    dropped = cache.fit(live.card.classes, (live.spec.channels, live.spec.length))
    if dropped:
        log.warning("cache.dropped", files=dropped, reason="of classes or a window shape that the release has not")
