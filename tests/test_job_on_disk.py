"""A job whose files lay on a disk: certificates say so, whatever became of it. And who waits for a disk."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import toy
from edge_agent.adapters.audit import AuditLog
from edge_agent.core.errors import JobFailed, StorageFailed
from edge_agent.served import ServedModel
from tests.disk_kit import fail
from tests.offline import committing, config_of, done, ended, polled, quiet, started

pytestmark = pytest.mark.usefixtures(quiet.__name__)
GATE = JobFailed("E_GATE", "it would have harmed another class")


def begun_on_disk(tmp_path: Path, toy_release: Path) -> ServedModel:
    """A model whose command "first" has a job folder in the state directory."""
    model = started(config_of(tmp_path, toy_release))
    folder = tmp_path / "state" / "jobs" / "one"
    folder.mkdir(parents=True)
    (folder / "windows.safetensors").write_bytes(b"windows")
    state = replace(done("whine"), id="first", status="executing", phase="gating", attempts=1)
    model.forgetting._journal.write(state)
    return model


def candidate(model: ServedModel, tmp_path: Path, toy_release: Path) -> None:
    """Another command for the same class, about to go live."""
    store, before = model.forgetting._store, model.live.release.digest
    after = store.add(toy.twin(toy_release, tmp_path / "child", forgotten=("whine",), parent=before)).digest
    committing(model, "whine", before, after)


def test_a_later_certificate_says_that_a_job_before_which_failed_lay_on_a_disk(
    tmp_path: Path, toy_release: Path
) -> None:
    """It said "removed from memory": what the failed one had left was gone, and nobody had written it down."""
    model = begun_on_disk(tmp_path, toy_release)
    journal = model.forgetting._journal
    model.forgetting._failing.end(journal.states()[0], GATE)
    assert [(state.status, state.on_disk) for state in journal.states()] == [("failed", True)]
    candidate(model, tmp_path, toy_release)
    polled(model)
    last = next(state for state in journal.states() if state.id == "job-whine")
    content = json.loads(model.forgetting._erasure.certificate(last) or b"")["content"]
    assert {"how": "overwritten and unlinked", "what": "job folder"} in content["destroyed"]
    ended(model)


def test_a_failure_is_not_forgotten_where_the_audit_log_cannot_take_it_just_then(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = begun_on_disk(tmp_path, toy_release)
    failing = model.forgetting._failing
    fail(monkeypatch, AuditLog, "append", lambda *_: True)
    with pytest.raises(StorageFailed):
        failing.end(model.forgetting._journal.states()[0], GATE)
    assert failing.is_due
    failing.again()
    (state,) = model.forgetting._journal.states()
    assert (state.status, state.code, state.on_disk) == ("failed", "E_GATE", True)
    ended(model)


def test_a_model_that_waits_for_its_disk_in_an_erasure_keeps_no_other_from_forgetting(
    tmp_path: Path, toy_release: Path
) -> None:
    """With a file that could not be removed in one model's store, no other model began a command, without a word."""
    model = started(config_of(tmp_path, toy_release))
    candidate(model, tmp_path, toy_release)
    busy = [model.has_job]
    model.forgetting._wait_until_s = time.monotonic() + 60.0
    assert [*busy, model.has_job] == [True, False]
    ended(model)
