"""Signed documents: nobody can change a byte, and nobody's signature passes for another's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.errors import Misconfigured, Untrusted
from edge_agent.signing import PublicKey, Signer, canonical, opened, read_private_key, read_public_key
from tests.scripts import NEEDS_OPENSSL

SIGNER, OTHER = Signer.of_seed(b"s" * 32), Signer.of_seed(b"o" * 32)
CONTENT = {"classes": ["IF-1"], "share": 0.25, "note": "Wälzlager", "none": None, "deep": {"b": 1, "a": [True]}}
DOCUMENT = SIGNER.document(CONTENT)


def refused(document: bytes, key: PublicKey = SIGNER.public) -> str:
    with pytest.raises(Untrusted) as caught:
        opened(document, key)
    assert caught.value.code == "E_SIGNATURE"
    return caught.value.reason


def test_a_document_is_opened_with_the_key_that_signed_it() -> None:
    assert opened(DOCUMENT, SIGNER.public) == CONTENT
    assert "signed with key" in refused(DOCUMENT, OTHER.public)


@given(st.integers(0, len(DOCUMENT) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(place: int, flip: int) -> None:
    document = bytearray(DOCUMENT)
    document[place] ^= flip
    refused(bytes(document))


@pytest.mark.parametrize(
    "document",
    [
        DOCUMENT + b"\n",
        DOCUMENT.replace(b":", b": ", 1),
        json.dumps(json.loads(DOCUMENT), indent=1).encode(),
        DOCUMENT.replace(b'{"content"', b'{"content":1,"content"'),
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        canonical({"content": CONTENT, "key": SIGNER.public.fingerprint, "signature": SIGNER.sign(CONTENT).upper()}),
        canonical({"content": CONTENT, "key": SIGNER.public.fingerprint, "signature": ""}),
        canonical({"content": CONTENT, "key": SIGNER.public.fingerprint, "signature": 7}),
        canonical({"content": CONTENT, "key": 7, "signature": SIGNER.sign(CONTENT)}),
        canonical({"content": CONTENT, "key": SIGNER.public.fingerprint, "signature": OTHER.sign(CONTENT)}),
    ],
)
def test_what_is_written_in_another_way_is_refused(document: bytes) -> None:
    refused(document)


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1)))
def test_the_order_of_keys_does_not_matter(content: dict[str, int | bool | None]) -> None:
    turned = dict(reversed(content.items()))
    assert canonical(turned) == canonical(content)
    SIGNER.public.check(turned, SIGNER.sign(content))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53])
def test_numbers_that_have_no_canonical_form_are_not_signed(value: float) -> None:
    with pytest.raises(ValueError, match=r".+"):
        SIGNER.sign({"value": value})


@NEEDS_OPENSSL
def test_keys_are_those_of_openssl(tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    for command in (
        f"genpkey -algorithm ed25519 -out {private}",
        f"pkey -in {private} -pubout -out {public}",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    signer, key = read_private_key(private), read_public_key(public)
    assert signer.public.pem == key.pem == public.read_text()
    assert opened(signer.document(CONTENT), key) == CONTENT
    (tmp_path / "content").write_bytes(canonical(CONTENT))
    (tmp_path / "signature").write_bytes(bytes.fromhex(signer.sign(CONTENT)))
    command = f"pkeyutl -verify -pubin -inkey {public} -rawin -in {tmp_path}/content -sigfile {tmp_path}/signature"
    subprocess.run(["openssl", *command.split()], check=True, capture_output=True)


@NEEDS_OPENSSL
def test_files_that_hold_no_such_key_are_refused(tmp_path: Path) -> None:
    rsa = tmp_path / "rsa.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", rsa],
        check=True,
        capture_output=True,
    )
    (tmp_path / "empty.pem").write_bytes(b"")
    (tmp_path / "public.pem").write_text(SIGNER.public.pem)
    for read in (read_private_key, read_public_key):
        for name in ("empty.pem", "nowhere.pem"):
            with pytest.raises(Misconfigured, match=rf"E_KEY.*{name}"):
                read(tmp_path / name)
    with pytest.raises(Misconfigured, match="is no Ed25519 key"):
        read_private_key(rsa)
    with pytest.raises(Misconfigured, match="is no private key"):
        read_private_key(tmp_path / "public.pem")
