"""``edge-agent releases remove``: what nothing needs goes, key first, and all else stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import toy
from edge_agent.adapters.journal import Journal
from edge_agent.commands.releases import discard
from edge_agent.core.errors import BrokenRelease, Refused
from tests.offline import done, on_probation
from tests.plant import store_at


def test_a_release_that_nothing_needs_is_removed_with_its_key_though_it_is_damaged(
    tmp_path: Path, toy_release: Path
) -> None:
    """There was no way to: each one that was ever installed stayed."""
    on_probation(tmp_path, toy_release)
    store = store_at(tmp_path / "state")
    digest = store.add(toy.twin(toy_release, tmp_path / "third", forgotten=("hum",))).digest
    next((store.folder / digest).glob("*.sealed")).write_bytes(b"damaged")
    keys = len(list((tmp_path / "state" / "keys").iterdir()))
    assert discard(store, digest[:6]) == digest
    assert digest not in store.digests()
    assert len(list((tmp_path / "state" / "keys").iterdir())) == keys - 1
    with pytest.raises(BrokenRelease, match="0 releases in"):
        discard(store, digest)


def test_what_is_live_wanted_on_probation_or_part_of_a_command_is_not_removed(
    tmp_path: Path, toy_release: Path
) -> None:
    before, after = on_probation(tmp_path, toy_release)
    store = store_at(tmp_path / "state")
    wanted, candidate = (
        store.add(toy.twin(toy_release, tmp_path / name, forgotten=(name,))).digest for name in ("hum", "rattle")
    )
    store.want(wanted)
    journal = Journal(tmp_path / "state" / "journal.jsonl")
    journal.write(replace(done("chirp"), status="executing", phase="shadowing", release_after=candidate))
    journal.close()
    for digest, reason in (
        (before, "is kept for the probation of whine"),
        (after, "is live"),
        (wanted, "is wanted by an operator"),
        (candidate, "is part of command"),
    ):
        with pytest.raises(Refused, match=reason) as error:
            discard(store, digest)
        assert error.value.code == "E_IN_USE"
    assert {*store.digests()} == {before, after, wanted, candidate}


def test_a_name_that_is_too_short_is_told_its_length(tmp_path: Path, toy_release: Path) -> None:
    on_probation(tmp_path, toy_release)
    with pytest.raises(BrokenRelease, match="'abc' has 3 digits, at least 6 are needed"):
        discard(store_at(tmp_path / "state"), "abc")
