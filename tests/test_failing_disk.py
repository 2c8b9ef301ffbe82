"""A disk that fails in the middle: what is left is done later, nothing is left out, and nothing is said twice."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from benchmarks import toy
from edge_agent import unlearn_job
from edge_agent.adapters import checkpoints
from edge_agent.adapters.audit import AuditLog
from edge_agent.adapters.journal import Journal
from edge_agent.adapters.releases import ReleaseStore, read_release, write_card
from edge_agent.adopting import SETTLE_EVERY_S
from edge_agent.core.errors import BrokenRelease, JobFailed, Refused, StorageFailed
from edge_agent.core.evidence import prepare
from edge_agent.core.types import Window
from edge_agent.files import sha256
from edge_agent.masks import REVIVE
from edge_agent.reservoir import Source
from edge_agent.schemas.card import DREAMS, INT8, MODEL, WEIGHTS, Card
from edge_agent.schemas.messages import JobState
from edge_agent.served import ServedModel
from tests.disk_kit import fail, rows
from tests.offline import certified, config_of, ended, on_probation, polled, quiet, started
from tests.plant import store_at, wait_until

pytestmark = pytest.mark.usefixtures(quiet.__name__)
WHINE = toy.CLASSES.index("whine")


# The release store


def test_a_release_that_cannot_be_stored_leaves_no_file_and_no_key(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sealed by then stayed until the next start, with its key, and no erasure looked there."""
    store = store_at(tmp_path)
    monkeypatch.setattr("edge_agent.adapters.releases.sync_tree", _full)
    with pytest.raises(StorageFailed):
        store.add(toy_release)
    assert list(store.folder.iterdir()) == []
    assert store._vault.names("release-") == []


def _full(_: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def left_by_a_killed_process(store: ReleaseStore, toy_release: Path) -> Path:
    """Half a release beside the whole ones, with its key, as SIGKILL in ``edge-agent releases install`` leaves it."""
    digest = store.add(toy_release).digest
    half = (store.folder / digest).rename(store.folder / f".{digest}.new")
    assert store._vault.names(f"release-{digest}")
    return half


def test_half_a_release_that_knows_the_class_is_gone_before_a_certificate_is_signed(
    tmp_path: Path, toy_release: Path
) -> None:
    on_probation(tmp_path, toy_release, kept_s=None)
    model = started(config_of(tmp_path, toy_release))
    twin = toy.twin(toy_release, tmp_path / "twin", name="twin")
    half = left_by_a_killed_process(model.forgetting._store, twin)
    list(model.forgetting._erasure.erase(model.forgetting._journal.states()[0], model.live.release))
    assert not half.exists()
    assert not model.forgetting._store._vault.names(f"release-{half.name.strip('.').removesuffix('.new')}")
    ended(model)


def test_no_certificate_is_signed_and_nothing_is_swept_while_a_release_is_being_added(
    tmp_path: Path, toy_release: Path
) -> None:
    """A probation that ended while the next command's release was sealed must not take that for half a one."""
    on_probation(tmp_path, toy_release, kept_s=None)
    model = started(config_of(tmp_path, toy_release))
    state = model.forgetting._journal.states()[0]
    half = left_by_a_killed_process(model.forgetting._store, toy.twin(toy_release, tmp_path / "twin", name="twin"))
    with store_at(tmp_path / "state")._adding(wait=False), pytest.raises(StorageFailed, match="is being added"):
        list(model.forgetting._erasure.erase(state, model.live.release))
    assert half.exists()
    assert model.forgetting._erasure.certificate(state) is None
    ended(model)


# Erasing


def test_a_certificate_names_all_that_was_destroyed_before_the_disk_failed_and_after(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job folder, shredded in the first try, was said to have been in memory, and a second release was left out."""
    model = started(config_of(tmp_path, toy_release))
    before = model.live.release.digest
    other = model.forgetting._store.add(toy.twin(toy_release, tmp_path / "other", name="other")).digest
    model.forgetting._journal.write(JobState("a", ("whine",), "d", "executing", "verifying", attempts=1))
    job = tmp_path / "state" / "jobs" / "1"
    model.forgetting._result = toy.twin(toy_release, job / "result", forgotten=("whine",), parent=before)
    fail(monkeypatch, AuditLog, "append", lambda event, *_: event == "class.erased", times=2)
    polled(model)
    content = certified(model)
    destroyed = {one["digest"] for one in content["destroyed"] if one["what"] == "release"}
    assert destroyed == {before, other}
    assert [one["how"] for one in content["destroyed"] if one["what"] == "job folder"] == ["overwritten and unlinked"]
    (row,) = rows(tmp_path, "class.erased")
    assert row["destroyed"] == content["destroyed"]
    ended(model)


@pytest.mark.parametrize("damage", [b"{}", b"\xff"])
def test_a_certificate_names_the_configured_release_that_it_cannot_read(
    tmp_path: Path, toy_release: Path, damage: bytes
) -> None:
    """It was passed over, as if it knew nothing."""
    folder = toy.twin(toy_release, tmp_path / "configured", name="configured")
    on_probation(tmp_path, toy_release, kept_s=None)
    model = started(config_of(tmp_path, folder))
    (folder / "card.json").write_bytes(damage)
    list(model.forgetting._erasure.erase(model.forgetting._journal.states()[0], model.live.release))
    (left,) = certified(model)["not_destroyed"]
    assert (left["path"], left["knows"]) == (str(folder), ["whine"])
    ended(model)


# Candidates


def test_a_candidate_that_failed_its_trial_gets_no_second_one_from_a_failing_disk(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its removal failed, nobody remembered why it was to go, and the next turn began another trial."""
    model = started(config_of(tmp_path, toy_release, "[forget]\nshadow_windows = 1000\nshadow_s = 0.001"))
    after = model.forgetting._store.add(toy.twin(toy_release, tmp_path / "child", forgotten=("whine",))).digest
    digests: Any = {"release_before": model.live.release.digest, "release_after": after, "attempts": 1}
    model.forgetting._journal.write(replace(JobState("a", ("whine",), "d", "executing", "shadowing"), **digests))
    fail(monkeypatch, ReleaseStore, "remove", lambda name: name == after)
    with capture_logs() as logs:
        polled(model)
    state = model.forgetting._journal.states()[0]
    assert (state.status, state.code) == ("failed", "E_SHADOW")
    assert [line["event"] for line in logs].count("shadow.started") == 1
    assert model.forgetting._store.digests() == [model.live.release.digest]
    ended(model)


def test_a_command_does_not_fail_because_no_int8_model_can_be_made(tmp_path: Path, toy_release: Path) -> None:
    """Whatever the quantiser raised ended the job: on that gateway nothing could be forgotten."""
    release = read_release(toy_release)
    network = checkpoints.load_network(release.read(WEIGHTS), release.card)
    dreams, generator = checkpoints.load_dreams(toy_release / DREAMS), torch.Generator().manual_seed(0)
    anchors, evidence = prepare(dreams, network, (WHINE,), release.card.margins, generator)
    result = toy.twin(toy_release, tmp_path / "result", name="result")
    (result / MODEL).write_bytes(b"no graph")
    card = read_card(result)
    write_card(result, card.model_copy(update={"files": {**card.files, MODEL: sha256(result / MODEL)}}))
    told = unlearn_job._smaller(result, network, anchors, evidence, toy_windows(), 1)
    assert told["refused"].startswith("E_PRECISION: no int8 model can be made")
    assert INT8 not in read_release(result).card.files
    assert not (result / INT8).exists()


def read_card(folder: Path) -> Card:
    return Card.model_validate_json((folder / "card.json").read_bytes())


def toy_windows() -> torch.Tensor:
    return torch.from_numpy(toy.dataset().test.windows[:4])


# An operator's release


def test_a_cache_follows_a_release_whose_adoption_cannot_be_written_down_at_once(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went on with the window shape of the release before, and the row was never written."""
    model = started(config_of(tmp_path, toy_release))
    fail(monkeypatch, AuditLog, "append", lambda event, *_: event == "release.adopted")
    wanted = model.forgetting._store.add(
        toy.twin(toy_release, tmp_path / "twin", name="twin", classes=("a", "b", "c", "d", "e"))
    )
    adopted(model, wanted.digest)
    assert set(model._cache.counts()) == set("abcde")
    assert rows(tmp_path, "release.adopted") == []
    model.housekeep(1.0 + SETTLE_EVERY_S)
    model.housekeep(2.0 + SETTLE_EVERY_S)
    assert rows(tmp_path, "release.adopted") == [{"release": wanted.digest, "reason": "operator"}]
    ended(model)


def toy_window() -> Window:
    return Window("m1", "b", 1, 0, None, toy.dataset().test.windows[0])


def adopted(model: ServedModel, digest: str) -> None:
    model.forgetting._store.want(digest)
    model.housekeep(0.0)
    wait_until(lambda: model.adopting._installer._task and model.adopting._installer._task[1].done())
    model.housekeep(1.0)
    assert model.live.release.digest == digest


def test_an_erased_class_gets_no_windows_after_an_adoption_that_the_cache_cannot_follow(
    tmp_path: Path, toy_release: Path
) -> None:
    """Where one class's file could not be opened, nobody closed the erased class's: its windows were cached again."""
    on_probation(tmp_path, toy_release, kept_s=None)
    model = started(config_of(tmp_path, toy_release, '[forget]\nknown_again = "mask"'))
    wanted = model.forgetting._store.add(toy.twin(toy_release, tmp_path / "later", name="later"))
    model._cache.close()
    (blocked,) = (tmp_path / "state" / "cache").glob(f"{model._cache._file_name('hum')}.*.slots")
    blocked.unlink()
    blocked.mkdir()
    adopted(model, wanted.digest)
    assert "hum" not in model._cache.counts()
    window = replace(toy_window(), label="whine")
    assert not model._cache.offer("whine", window, Source.SENDER)
    blocked.rmdir()
    model.housekeep(1.0 + SETTLE_EVERY_S)
    assert "hum" in model._cache.counts()
    assert not model._cache.offer("whine", window, Source.SENDER)
    ended(model)


def test_a_release_that_is_being_sealed_when_its_command_is_dropped_does_not_stay(
    tmp_path: Path, toy_release: Path
) -> None:
    """After a rollback by bad health it lay in the store, and no command named it."""
    on_probation(tmp_path, toy_release, kept_s=None)
    model = started(config_of(tmp_path, toy_release))
    stored = model.forgetting._store.digests()
    edited = toy.twin(toy_release, tmp_path / "edited", name="edited")
    state = model.forgetting._journal.write(JobState("job-hum", ("hum",), "d", "executing", "verifying", attempts=1))
    model.forgetting._sealing.made(state.id, lambda: model.forgetting._store.add(edited))
    model.forgetting._failing.drop(state, JobFailed("E_INTERRUPTED", "the release that it began with was rolled back"))
    model.forgetting._sealing._pool.shutdown()
    assert model.forgetting._store.digests() == stored
    assert model.forgetting._journal.get(state.id).code == "E_INTERRUPTED"  # type: ignore[union-attr]
    ended(model)


# Probations


def test_going_back_is_told_once_while_the_journal_cannot_be_written(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each second left another ``certificate.withdrawn`` in a log that is never cut."""
    before, after = on_probation(tmp_path, toy_release)
    model = started(config_of(tmp_path, toy_release))
    parent = model.forgetting._probation.parent(model.forgetting._journal.states()[0], frozenset())
    assert parent is not None
    fail(monkeypatch, Journal, "write", lambda state: state.code == "E_ROLLED_BACK", times=3)
    fail(monkeypatch, ReleaseStore, "remove", lambda name: name == after)
    with pytest.raises(StorageFailed):
        model.forgetting._probation.go_back(parent, "too slow")
    for now_s in range(5):
        model.housekeep(float(now_s))
    assert len(rows(tmp_path, "certificate.withdrawn")) == 1
    state = model.forgetting._journal.states()[0]
    assert (state.code, state.reason) == ("E_ROLLED_BACK", "live health: too slow")  # and not an operator's wish
    assert rows(tmp_path, "release.adopted") == [{"release": before, "reason": "live health: too slow"}]
    assert model.forgetting._store.digests() == [before]  # the one that did badly is gone, though that failed at first
    ended(model)


def test_a_class_on_probation_cannot_be_revived_and_who_asks_is_told(tmp_path: Path, toy_release: Path) -> None:
    """The wish was accepted, and then removed without a word."""
    from edge_agent.commands.releases import revive

    on_probation(tmp_path, toy_release)
    config = config_of(tmp_path, toy_release)
    with pytest.raises(Refused, match="class 'whine' is on probation"):
        revive(config, "whine")
    model = started(config)
    (tmp_path / "state" / REVIVE).write_text("whine")  # asked for before the probation began
    with capture_logs() as logs:
        model.housekeep(0.0)
    assert ("wish.refused", "whine") in [(line["event"], line.get("name")) for line in logs]
    assert not (tmp_path / "state" / REVIVE).exists()
    ended(model)


def test_a_revival_is_told_once_while_the_journal_cannot_be_written(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_probation(tmp_path, toy_release, kept_s=None)
    model = started(config_of(tmp_path, toy_release))
    (tmp_path / "state" / REVIVE).write_text("whine")
    fail(monkeypatch, Journal, "write", lambda state: bool(state.revived), times=3)
    for now_s in range(5):
        model.housekeep(float(now_s))
    assert rows(tmp_path, "class.revived") == [{"class": "whine"}]
    assert model.forgetting._journal.states()[0].revived == ("whine",)
    ended(model)


def test_a_damaged_live_release_can_be_replaced(tmp_path: Path, toy_release: Path) -> None:
    """Whoever wanted to install another was refused, for the damaged one could not be read."""
    from edge_agent.commands.releases import refuse

    _, after = on_probation(tmp_path, toy_release, kept_s=None)
    config, store = config_of(tmp_path, toy_release), store_at(tmp_path / "state")
    (store.folder / after / "model.onnx.sealed").write_bytes(b"")
    with pytest.raises(BrokenRelease):
        store.get(after)
    good = read_release(toy.twin(toy_release, tmp_path / "good", name="good", forgotten=("whine",)))
    refuse(config, store, good.card, good.digest)
    bad = read_release(toy_release)
    with pytest.raises(BrokenRelease, match="E_ERASED"):
        refuse(config, store, bad.card, bad.digest)
