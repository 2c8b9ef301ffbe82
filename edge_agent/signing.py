"""Ed25519 signatures (RFC 8032) over canonical JSON (RFC 8785).

A signed document is one canonical JSON object ``{content, key, signature}``: ``signature`` is that of the canonical
``content``, in hex; ``key`` the fingerprint of the key it was made with. A document that is not canonical itself is
refused, so that not one byte of it can be changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from edge_agent.core.errors import Misconfigured, Untrusted


def canonical(content: Any) -> bytes:
    """The one way to write a JSON value.

    Raises:
        ValueError: it has no such form: a number that is not finite or beyond 2^53, a key that is no text.
    """
    return rfc8785.dumps(content)


class PublicKey:
    """Tells whether the owner of the other half has signed."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @property
    def pem(self) -> str:
        """SubjectPublicKeyInfo in PEM, as openssl reads it."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the SHA-256 of the raw key."""
        return hashlib.sha256(self._key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]

    def check(self, content: Any, signature: str) -> None:
        """Hold a signature, lower-case hex, against JSON content.

        Raises:
            Untrusted: ``E_SIGNATURE``.
        """
        try:
            raw = bytes.fromhex(signature)
            if raw.hex() != signature:
                raise ValueError("not lower-case hex")
            self._key.verify(raw, canonical(content))
        except (InvalidSignature, ValueError) as error:
            raise Untrusted("E_SIGNATURE", f"the signature is not that of key {self.fingerprint}") from error


class Signer:
    """Signs with a private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def of_seed(cls, seed: bytes) -> Signer:
        """The key of 32 random bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def sign(self, content: Any) -> str:
        """The signature of JSON content, hex."""
        return self._key.sign(canonical(content)).hex()

    def document(self, content: Mapping[str, Any]) -> bytes:
        """The signed document of a content."""
        whole = {"content": content, "key": self.public.fingerprint, "signature": self.sign(content)}
        return canonical(whole)


def opened(document: bytes, key: PublicKey) -> dict[str, Any]:
    """The content of a signed document.

    Raises:
        Untrusted: ``E_SIGNATURE``, it is no such document, was signed with another key, or a byte was changed.
    """
    try:
        whole = json.loads(document)
        content, name, signature = whole["content"], whole["key"], whole["signature"]
        if not isinstance(content, dict) or not isinstance(signature, str) or canonical(whole) != document:
            raise ValueError("not canonical")
        if len(whole) > 3:
            raise ValueError("a member beside those, which nobody has signed")
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # rfc8785's errors are ValueErrors
        raise Untrusted("E_SIGNATURE", "this is no signed document, or a byte of it was changed") from error
    if name != key.fingerprint:
        raise Untrusted("E_SIGNATURE", f"it was signed with key {str(name)[:16]}, not with {key.fingerprint}")
    key.check(content, signature)
    return content


def read_public_key(path: Path) -> PublicKey:
    """An Ed25519 public key in PEM.

    Raises:
        Misconfigured: ``E_KEY``.
    """
    try:
        return parse_public_key(path.read_text(), str(path))
    except OSError as error:
        raise Misconfigured("E_KEY", f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Misconfigured("E_KEY", f"{path} is no public key in PEM") from error


def parse_public_key(pem: str, where: str) -> PublicKey:
    """An Ed25519 public key in PEM; ``where`` it was found stands in the error.

    Raises:
        Misconfigured: ``E_KEY``.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Misconfigured("E_KEY", f"{where} is no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise Misconfigured("E_KEY", f"{where} is no Ed25519 key")
    return PublicKey(key)


def read_private_key(path: Path) -> Signer:
    """An Ed25519 private key in PEM (openssl genpkey -algorithm ed25519).

    Raises:
        Misconfigured: ``E_KEY``.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise Misconfigured("E_KEY", f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise Misconfigured("E_KEY", f"{path} is no private key in PEM without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured("E_KEY", f"{path} is no Ed25519 key")
    return Signer(key)
