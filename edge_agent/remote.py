"""Releases from elsewhere: plain files over HTTPS, or an artefact of an OCI registry.

The card comes first. It says what the release is and has the hash of every other file; nothing else is fetched unless
the card is what was asked for and was signed by somebody who is trusted.

    https://files.plant/releases/press/      card.json, card.json.sig, model.onnx, weights.safetensors, ...
    oci://registry.plant/press:2026-11       the same files, one layer each, as ``oras push`` makes them
"""

from __future__ import annotations

import functools
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import HTTPDefaultErrorHandler, HTTPErrorProcessor, HTTPSHandler, OpenerDirector, Request

from edge_agent.adapters.releases import Release, read_release
from edge_agent.core.errors import BrokenRelease, Misconfigured, StorageFailed, Unreachable, Untrusted
from edge_agent.files import storage, write_atomically
from edge_agent.schemas.card import CARD, Card, digest, parse_card
from edge_agent.signing import PublicKey

SIGNATURE: Final = "card.json.sig"
DIGEST: Final = re.compile("[0-9a-f]{64}")
TITLE: Final = "org.opencontainers.image.title"
MOST_CARD_BYTES: Final = 4 << 20
BLOCK: Final = 1 << 16
SPARE_BYTES: Final = 16 << 20
ANSWER_S: Final = 30.0
FETCH_S: Final = 900.0


@dataclass(frozen=True)
class Trust:
    """Whom to believe.

    Args:
        keys: one of which must have signed the card; none: the digest alone says that it is the right one.
        ca_file: certificates of who may vouch for the server, PEM; None: those that the machine trusts.
        max_bytes: largest release.
        token: sent to the server (``Authorization: Bearer``); registries take credentials from Docker's configuration.
    """

    keys: tuple[PublicKey, ...] = ()
    ca_file: Path | None = None
    token: str | None = None
    max_bytes: int = 256 << 20


class _Place(Protocol):
    def open(self, name: str) -> Any:
        """A context manager that gives the blocks of a file."""


def fetch(
    url: str,
    trust: Trust,
    folder: Path,
    wanted: str | None = None,
    check: Callable[[Card], None] = lambda _: None,
    progress: Callable[[int], None] = lambda count: None,
) -> Release:
    """Fetch a release into a folder, and verify it.

    Args:
        wanted: its digest, if that is known.
        check: raises if the card's release is not to be had; called before any weights are fetched.
        progress: called with the bytes of each block that has come.

    Raises:
        Unreachable: ``E_SOURCE``, the server cannot be reached, or has it not.
        Untrusted: ``E_SIGNATURE``, it is signed by nobody who is trusted.
        BrokenRelease: it is not what was asked for, or not what its card says.
        Misconfigured: ``E_CONFIG``, the address or the digest is none.
    """
    if wanted is not None and not DIGEST.fullmatch(wanted):
        words = f"{wanted!r} is no whole digest, 64 hex digits (edge-agent releases list --full)"
        raise Misconfigured("E_CONFIG", words)
    if wanted is None and not trust.keys:
        raise Untrusted("E_SIGNATURE", "nothing says whose release it is: name its digest, or keys in releases.keys")
    place = _place(url, trust)
    content = _read(place, CARD)
    if wanted is not None and digest(content) != wanted:
        raise BrokenRelease("E_HASH", f"{url} is release {digest(content)[:12]}, wanted {wanted[:12]}")
    if trust.keys:
        _check_signature(_read(place, SIGNATURE), content, trust.keys)
    card = parse_card(content)
    check(card)
    allowance = _Allowance(min(trust.max_bytes, shutil.disk_usage(folder).free - SPARE_BYTES), FETCH_S)
    with storage(f"{folder} cannot be written"):
        for name in card.files:
            _download(place, name, folder / name, allowance, progress)
        write_atomically(folder / CARD, content)
    return read_release(folder)


def _check_signature(signature: bytes, card: bytes, keys: tuple[PublicKey, ...]) -> None:
    text = signature.decode("ascii", errors="replace").strip()
    for key in keys:
        try:
            key.check(digest(card), text)
        except Untrusted:
            continue
        return
    known = ", ".join(key.fingerprint for key in keys)
    raise Untrusted("E_SIGNATURE", f"release {digest(card)[:12]} is signed with none of the keys {known}")


def _read(place: _Place, name: str) -> bytes:
    content, allowance = bytearray(), _Allowance(MOST_CARD_BYTES, FETCH_S)
    with place.open(name) as blocks:
        for block in blocks:
            allowance.check_time()
            content += block
            if len(content) > MOST_CARD_BYTES:
                raise BrokenRelease("E_CARD", f"{name} has more than {MOST_CARD_BYTES} bytes")
    return bytes(content)


class _Allowance:
    """What a server may still send, and until when: it may be slow, or not mean well."""

    def __init__(self, most_bytes: int, most_s: float) -> None:
        self._most_bytes = self._left_bytes = most_bytes
        self._most_s, self._end_s = most_s, time.monotonic() + most_s

    def take(self, count: int) -> None:
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise StorageFailed("E_STORAGE", f"there is room for {self._most_bytes} bytes, and the release has more")
        self.check_time()

    def check_time(self) -> None:
        if time.monotonic() > self._end_s:
            raise Unreachable("E_SOURCE", f"the release did not come within {self._most_s:g} s")


def _download(place: _Place, name: str, path: Path, allowance: _Allowance, progress: Callable[[int], None]) -> None:
    with place.open(name) as blocks, path.open("wb") as file:
        for block in blocks:
            allowance.take(len(block))
            file.write(block)
            progress(len(block))


def _place(url: str, trust: Trust) -> _Place:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise Misconfigured("E_CONFIG", "an address must hold no password, for it is shown: use releases.token_file")
    if parts.scheme == "https" and parts.hostname:
        return _Https(url.rstrip("/"), trust)
    if parts.scheme == "oci" and parts.hostname and parts.path.strip("/"):
        return _Oci(url.removeprefix("oci://"), trust)
    raise Misconfigured("E_CONFIG", f"{url[:200]!r} is no https:// or oci:// address of a release")


class _Https:
    """A folder of files. Redirections are not followed: the token is for this server alone."""

    def __init__(self, url: str, trust: Trust) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {trust.token}"} if trust.token else {}
        self._opener = OpenerDirector()
        try:
            context = ssl.create_default_context(cafile=trust.ca_file and str(trust.ca_file))
        except OSError as error:
            raise Misconfigured("E_CONFIG", f"releases.ca_file {trust.ca_file} cannot be used: {error}") from error
        for handler in (HTTPSHandler(context=context), HTTPErrorProcessor(), HTTPDefaultErrorHandler()):
            self._opener.add_handler(handler)

    @contextmanager
    def open(self, name: str) -> Iterator[Iterator[bytes]]:
        """The blocks of a file."""
        url = f"{self._url}/{name}"
        with _reaching(url):
            answer = self._opener.open(Request(url, headers=self._headers), timeout=ANSWER_S)  # noqa: S310 it is https
        with answer:
            yield _blocks(iter(lambda: answer.read1(BLOCK), b""), url)


class _Oci:
    """An artefact, each file a layer that bears its name."""

    def __init__(self, reference: str, trust: Trust) -> None:
        try:
            from oras.provider import Registry
        except ImportError as error:
            words = "oci:// addresses need the package oras: pip install 'edge-agent[oci]'"
            raise Misconfigured("E_CONFIG", words) from error
        self._url = f"oci://{reference}"
        self._registry = Registry(reference.partition("/")[0], tls_verify=str(trust.ca_file or "") or True)
        session = self._registry.session
        session.request = functools.partial(session.request, timeout=ANSWER_S)  # oras itself sets none
        with _reaching(self._url):
            # Each after a connection of its own: oras tries for two minutes to reach a server that is not there.
            parts = urlsplit(self._url)
            socket.create_connection((parts.hostname or "", parts.port or 443), ANSWER_S).close()
            self._container = self._registry.get_container(reference)
            manifest = self._registry.get_manifest(self._container)
            self._layers = {layer["annotations"][TITLE]: layer["digest"] for layer in manifest["layers"]}

    @contextmanager
    def open(self, name: str) -> Iterator[Iterator[bytes]]:
        """The blocks of a file."""
        url = f"{self._url} {name}"
        with _reaching(url):
            answer = self._registry.get_blob(self._container, self._layers[name], stream=True)
            answer.raise_for_status()
        with answer:
            # Not iter_content, which like read waits for whole blocks, however slowly they come.
            yield _blocks(iter(lambda: answer.raw.read1(BLOCK, decode_content=True), b""), url)


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Tell what goes wrong with a server. Both urllib's errors and those of requests are OSErrors."""
    try:
        yield
    except KeyError as error:
        raise Unreachable("E_SOURCE", f"{url}: it has no {error}") from error
    except (OSError, HTTPException, ValueError, TypeError, AttributeError) as error:  # a manifest may be anything
        raise Unreachable("E_SOURCE", f"{url}: {str(error)[:300]}") from error


def _blocks(blocks: Iterator[bytes], url: str) -> Iterator[bytes]:
    """The same blocks; what goes wrong with them is the server's, what goes wrong with the taker is not."""
    while True:
        with _reaching(url):
            block = next(blocks, b"")
        if not block:
            return
        yield block
