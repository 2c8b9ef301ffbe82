"""deploy/pki.sh: the certificates and rights that it makes, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.scripts import NEEDS_OPENSSL, ROOT
from tests.secure_broker import pki

pytestmark = NEEDS_OPENSSL


def test_rights_that_were_changed_stay_when_a_certificate_is_renewed(tmp_path: Path) -> None:
    for words in ("ca",), ("agent", "toy"), ("operator", "anna"):
        assert pki(tmp_path, *words).returncode == 0
    changed = (tmp_path / "acl").read_text().replace("topic write unlearn/+\n", "")
    (tmp_path / "acl").write_text(changed)
    before = (tmp_path / "anna.pem").read_bytes()
    assert pki(tmp_path, "operator", "anna").returncode == 0
    assert (tmp_path / "acl").read_text() == changed
    assert (tmp_path / "anna.pem").read_bytes() != before
    assert (tmp_path / "anna.key").stat().st_mode & 0o077 == 0


def test_a_name_that_looks_like_another_gets_rights_of_its_own(tmp_path: Path) -> None:
    for words in ("ca",), ("agent", "press-7"), ("agent", "press.7"), ("sensor", "b.c", "a"), ("sensor", "c", "a.b"):
        assert pki(tmp_path, *words).returncode == 0
    rights = (tmp_path / "acl").read_text()
    assert "read edge/press.7/windows/+" in rights
    assert "user b.c@a\ntopic write edge/a/windows/b.c\n" in rights
    assert "user c@a.b\ntopic write edge/a.b/windows/c\n" in rights


def test_certificates_are_for_everybody_and_keys_for_their_owner(tmp_path: Path) -> None:
    for words in ("ca",), ("broker", "localhost"), ("agent", "toy"):
        assert pki(tmp_path, *words).returncode == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert {modes[name] for name in ("ca.pem", "crl.pem", "broker.pem", "toy.pem")} == {0o644}
    assert {modes[name] for name in ("ca.key", "broker.key", "toy.key", "acl")} == {0o600}


def test_what_openssl_does_not_take_is_told_and_leaves_no_key_behind(tmp_path: Path) -> None:
    assert pki(tmp_path, "ca").returncode == 0
    before = sorted(tmp_path.iterdir())
    assert "DAYS is 'soon'" in subprocess.run(
        [ROOT / "deploy" / "pki.sh", tmp_path, "operator", "bob"], env={**os.environ, "DAYS": "soon"},
        capture_output=True, text=True, check=False,
    ).stderr  # fmt: skip
    failed = pki(tmp_path, "broker", "")
    assert failed.returncode == 1
    assert "openssl x509 failed" in failed.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_revoking_a_client_revokes_every_certificate_that_it_ever_had(tmp_path: Path) -> None:
    """A renewal forgot the one before, which had all rights again once the name was given to a new gateway."""
    for words in ("ca",), ("agent", "press"), ("agent", "press.7"):
        assert pki(tmp_path, *words).returncode == 0
    (tmp_path / "stolen.pem").write_bytes((tmp_path / "press.pem").read_bytes())
    assert pki(tmp_path, "agent", "press").returncode == 0
    shutil.copytree(tmp_path / "issued", tmp_path / "kept")
    assert pki(tmp_path, "revoke", "press").returncode == 0
    # Had it been cut off after the first of them, the other could never have been revoked: "Already revoked".
    shutil.copytree(tmp_path / "kept", tmp_path / "issued", dirs_exist_ok=True)
    (tmp_path / "press.pem.revoked").rename(tmp_path / "press.pem")
    for words in ("revoke", "press"), ("agent", "press"):
        assert pki(tmp_path, *words).returncode == 0

    def holds(name: str) -> bool:
        command = ["openssl", "verify", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "crl.pem", name]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0

    assert (holds("stolen.pem"), holds("press.pem"), holds("press.7.pem")) == (False, True, True)


def test_the_authority_is_no_client_that_could_be_revoked(tmp_path: Path) -> None:
    """It took the authority's key away."""
    assert pki(tmp_path, "ca").returncode == 0
    assert "'ca' is no client" in pki(tmp_path, "revoke", "ca").stderr
    assert (tmp_path / "ca.key").exists()


def test_a_name_is_given_to_one_kind_of_client_only_and_the_authority_made_once(tmp_path: Path) -> None:
    for words in ("ca",), ("agent", "toy"):
        assert pki(tmp_path, *words).returncode == 0
    assert "the certificate of another kind of client" in pki(tmp_path, "operator", "toy").stderr
    assert "is there already" in pki(tmp_path, "ca").stderr
    for name in ("", "a/b", "a+", "a b", "ca", "../x"):
        assert "is no name" in pki(tmp_path, "agent", name).stderr
