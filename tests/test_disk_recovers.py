"""What failed on the disk once is made good: later, once, and with the reason that it had."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from benchmarks import toy
from edge_agent.adapters import windows as cache_files
from edge_agent.adapters.audit import AuditLog
from edge_agent.adapters.journal import Journal
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.adopting import SETTLE_EVERY_S
from edge_agent.clock import Clock
from edge_agent.core.errors import StorageFailed
from edge_agent.schemas.messages import JobState
from tests.disk_kit import fail, no_disk, once, rows, stock
from tests.offline import config_of, done, ended, on_probation, polled, quiet, started
from tests.plant import store_at, wait_until

pytestmark = pytest.mark.usefixtures(quiet.__name__)


def test_a_cache_that_could_not_be_opened_at_the_start_is_opened_later(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the next start no window was cached, and commands were refused for too few."""
    once(monkeypatch, cache_files, "sweep")
    model = started(config_of(tmp_path, toy_release))
    for second in range(2):
        model.housekeep(second * SETTLE_EVERY_S)
    assert set(model._cache.counts()) == set(toy.CLASSES)
    stock(model, 3)
    assert model._cache.counts()["whine"] == 3
    ended(model)


@pytest.mark.parametrize("damage", ["torn", "broken"])
def test_a_full_disk_and_a_damaged_audit_log_do_not_keep_the_agent_from_starting(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    config = config_of(tmp_path, toy_release)
    ended(started(config))
    path = tmp_path / "state" / "audit.jsonl"
    log = AuditLog(path, Clock(tmp_path / "clock"))
    for _ in range(2):
        log.append("agent.started")
    log.close()
    content = path.read_bytes()
    path.write_bytes(content[:-3] if damage == "torn" else content[1:])
    monkeypatch.setattr("edge_agent.adapters.audit.append_durably", no_disk)
    ended(started(config))


def test_a_disk_that_is_full_while_a_release_is_sealed_is_what_the_command_says(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second turn found the result gone, and said that there was no release."""
    model = started(config_of(tmp_path, toy_release))
    before = model.live.release.digest
    model.forgetting._journal.write(JobState("a", ("whine",), "d", "executing", "verifying", attempts=1))
    result = tmp_path / "state" / "jobs" / "1" / "result"
    model.forgetting._result = toy.twin(toy_release, result, forgotten=("whine",), parent=before)
    fail(monkeypatch, ReleaseStore, "_seal", lambda *_: True)
    fail(monkeypatch, AuditLog, "append", lambda event, *_: event == "command.failed")
    polled(model)
    state = model.forgetting._journal.states()[0]
    ended(model)
    assert (state.status, state.code) == ("failed", "E_STORAGE")


def test_a_candidate_that_passed_its_trial_gets_no_second_one_from_a_failing_disk(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = "[forget]\nshadow_windows = 8\nshadow_s = 1.0\nshadow_agreement = 0.0"
    model = started(config_of(tmp_path, toy_release, limits))
    before = model.live.release.digest
    child = toy.twin(toy_release, tmp_path / "child", forgotten=("whine",), parent=before)
    after = model.forgetting._store.add(child).digest
    begun = JobState("a", ("whine",), "d", "executing", "shadowing", attempts=1)
    model.forgetting._journal.write(replace(begun, release_before=before, release_after=after))
    model.forgetting._masks.apply()
    fail(monkeypatch, Journal, "write", lambda state: state.phase == "committing")
    with capture_logs() as logs:
        model.poll(may_start=False)
        model.live.answer(toy.dataset().test.windows[:64])
        polled(model)  # no more windows come
    state = model.forgetting._journal.states()[0]
    ended(model)
    assert ([line["event"] for line in logs].count("shadow.started"), state.status) == (1, "successful")


def test_of_two_probations_none_is_charged_twice_when_the_disk_fails(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, middle = on_probation(tmp_path, toy_release, kept_s=3600.0)
    store = store_at(tmp_path / "state")
    child = toy.twin(toy_release, tmp_path / "last", forgotten=("hum", "whine"), parent=middle)
    last = store.add(child).digest
    store.set_current(last)
    journal = Journal(tmp_path / "state" / "journal.jsonl")
    journal.write(done("hum", kept_s=3600.0, release_before=middle, release_after=last))
    journal.close()
    model = started(config_of(tmp_path, toy_release))
    probation = model.forgetting._probation
    start_s = probation._counted_s
    fail(monkeypatch, Journal, "write", lambda state: state.id == "job-hum", times=5)
    for tries in range(6):
        with suppress(StorageFailed):
            probation.count(start_s + 300.0 + 5 * tries)
    kept = {state.id: state.kept_s for state in model.forgetting._journal.states()}
    ended(model)
    assert kept["job-whine"] == pytest.approx(3300.0, abs=30.0)
    assert kept["job-hum"] == pytest.approx(3300.0, abs=30.0)


def test_a_wish_that_cannot_be_removed_leaves_no_row_each_second(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = started(config_of(tmp_path, toy_release))
    model.forgetting._store.want(
        model.forgetting._store.add(toy.twin(toy_release, tmp_path / "twin", name="twin")).digest
    )
    fail(monkeypatch, ReleaseStore, "forget_wish", lambda *_: True, times=50)
    for now_s in range(50):
        model.housekeep(float(now_s))
    assert rows(tmp_path, "release.refused") == []
    before = model.live.release.digest

    def adopted() -> bool:
        model.housekeep(0.0)
        return model.live.release.digest != before

    wait_until(adopted)  # the wish stood
    ended(model)


def test_how_long_runs_took_before_a_swap_is_known_though_the_journal_failed_once(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a release that is four times as slow is not rolled back."""
    model = started(config_of(tmp_path, toy_release, "[forget]\nprobation_s = 600"))
    for samples in toy.dataset().test.windows[:64]:
        model.live.answer(samples[None])
    before = model.live.release.digest
    after = model.forgetting._store.add(
        toy.twin(toy_release, tmp_path / "child", forgotten=("whine",), parent=before)
    ).digest
    begun = JobState("a", ("whine",), "d", "executing", "committing", attempts=1)
    model.forgetting._journal.write(replace(begun, release_before=before, release_after=after))
    fail(monkeypatch, Journal, "write", lambda state: state.phase == "erasing")
    polled(model)
    state = model.forgetting._journal.states()[0]
    ended(model)
    assert state.kept_s is not None
    assert state.usual_s is not None
