"""Releases from elsewhere: who is believed, and ``edge-agent releases pull`` and ``sign``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from edge_agent.adapters.releases import Release, ReleaseStore, read_release
from edge_agent.adapters.workplace import bare_folder
from edge_agent.commands.client import connected
from edge_agent.commands.releases import install, refuse
from edge_agent.config import broker_address, read_secret
from edge_agent.core.errors import BrokenRelease, StorageFailed, Unreachable
from edge_agent.files import storage, write_atomically
from edge_agent.followed import RECORD, announcement, remember
from edge_agent.remote import SIGNATURE, Trust, fetch
from edge_agent.schemas.card import Card
from edge_agent.schemas.topics import Topics
from edge_agent.settings import Config
from edge_agent.signing import PublicKey, Signer, read_public_key

ANSWER_S = 10.0  # a retained announcement comes at once


def trust_of(config: Config, more: tuple[PublicKey, ...] = ()) -> Trust:
    """Whom a gateway believes, beside ``more``.

    Raises:
        Misconfigured: a key or the token cannot be read.
    """
    releases = config.releases
    keys = tuple(read_public_key(path) for path in releases.keys.values())
    return Trust(
        (*keys, *more), releases.ca_file, read_secret("releases.token_file", releases.token_file), releases.max_bytes
    )


def fetcher(config: Config, progress: Callable[[int], None] = lambda count: None) -> Callable[[str, Path], Release]:
    """Fetches releases by digest from where the gateway that a replica follows has them.

    Args:
        progress: called with the bytes of each block that has come.
    """
    source = config.replica.source
    between = ":" if source.startswith("oci://") else "/"

    def by_digest(digest: str, folder: Path) -> Release:
        url = f"{source.rstrip('/')}{between}{digest}"
        return fetch(url, trust_of(config), folder, digest, progress=progress)

    return by_digest


def first_release(config: Config, store: ReleaseStore, progress: Callable[[int], None]) -> None:
    """Hear what the gateway serves and hides which a replica follows, and fetch its release if there is none yet.

    What the gateway hides is written down, so that the first answer hides it.

    Args:
        progress: called with the bytes of each block that has come.

    Raises:
        EdgeAgentError: it cannot be had now.
    """
    topic = Topics(config.replica.of).release
    with connected(broker_address(config.mqtt, f"edge-agent-{config.gateway.name}-first")) as client:
        client.subscribe([topic])
        heard = next(iter(client.listen(ANSWER_S)), None)
    if heard is None:
        raise Unreachable("E_SOURCE", f"no release is announced on {topic}")
    news = announcement(heard.payload)
    remember(news, config.gateway.state_dir / RECORD)
    if has_whole(store) or config.gateway.release is not None:
        return  # the next one is fetched while it serves
    with bare_folder() as folder:
        fetcher(config, progress)(news.digest, folder)
        store.add(folder)


def has_whole(store: ReleaseStore) -> bool:
    """Whether there is a release that can be read."""
    for name in store.digests():
        with suppress(BrokenRelease, StorageFailed):
            store.get(name)
            return True
    return False


def pull(
    config: Config,
    store: ReleaseStore,
    url: str,
    digest: str | None,
    more: tuple[PublicKey, ...] = (),
    progress: Callable[[int], None] = lambda count: None,
) -> Release:
    """Fetch a release, verify it, and ask the agent to adopt it.

    Raises:
        EdgeAgentError: it cannot be had, or must not be.
    """

    def check(card: Card) -> None:
        refuse(config, store, card, digest or "")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing bare is left
    trust = trust_of(config, more)
    with bare_folder() as folder:
        fetch(url, replace(trust, keys=()) if digest and not more else trust, folder, digest, check, progress)
        return install(config, store, folder)


def sign(folder: Path, signer: Signer) -> Release:
    """Sign a release that is not sealed, for those who pull it: ``card.json.sig`` beside its card.

    Raises:
        BrokenRelease: it is not what its card says.
        StorageFailed: the signature cannot be written.
    """
    release = read_release(folder)
    with storage("the signature cannot be written"):
        write_atomically(folder / SIGNATURE, signer.sign(release.digest).encode() + b"\n")
    return release
