"""A disk that fails for a moment, or goes away: serving goes on, and nothing that is sound is given up or destroyed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from benchmarks import toy
from edge_agent import jobs
from edge_agent.adapters import windows as cache_files
from edge_agent.adapters.audit import AuditLog
from edge_agent.adapters.journal import Journal
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.clock import Clock
from edge_agent.commands import adoption
from edge_agent.core.errors import EdgeAgentError, StorageFailed
from edge_agent.core.types import Window
from edge_agent.reservoir import Source
from edge_agent.schemas.messages import JobState
from edge_agent.served import SETTLE_EVERY_S, ServedModel
from tests.cache_kit import open_cache, window_of
from tests.offline import config_of, done, ended, on_probation, polled, quiet, started
from tests.plant import store_at, wait_until
from tests.scripts import ROOT
from tests.test_failing_disk import fail, rows

pytestmark = pytest.mark.usefixtures(quiet.__name__)
WHINE = toy.CLASSES.index("whine")


def no_disk(*_: Any) -> OSError:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def stock(model: ServedModel, count: int = 12) -> None:
    """Cached windows of "whine"."""
    for seq, samples in enumerate(toy.windows(WHINE, count, np.random.default_rng(0))):
        model._cache.offer("whine", Window("m", "b", seq, 0, "whine", samples), Source.SENDER)


def once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: Callable[..., bool] = lambda *_: True, times: int = 1
) -> None:
    """The next calls that ``when`` is true for fail with an I/O error; all later ones are fine."""
    call, left = getattr(owner, name), [*range(times)]

    def failing(*args: Any, **more: Any) -> Any:
        if left and when(*args):
            left.pop()
            no_disk()
        return call(*args, **more)

    monkeypatch.setattr(owner, name, failing)


def unreadable_once(monkeypatch: pytest.MonkeyPatch, part: str, times: int = 1) -> None:
    """One read of a file whose path has ``part`` in it fails, or so many."""
    once(monkeypatch, Path, "read_bytes", lambda path: part in str(path), times)
    monkeypatch.setattr(adoption, "READ_AGAIN_S", 0.0)


# A disk that has gone


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """From when it is called, each stat, listing and opening below a folder fails."""

    def go(folder: Path) -> None:
        for name in ("stat", "scandir", "listdir", "open"):
            monkeypatch.setattr(os, name, _failing_below(folder, getattr(os, name)))

    return go


def _failing_below(folder: Path, call: Callable[..., Any]) -> Callable[..., Any]:
    def failing(path: Any, *args: Any, **more: Any) -> Any:
        if not isinstance(path, int) and os.fspath(path).startswith(str(folder)):
            no_disk()
        return call(path, *args, **more)

    return failing


def test_an_agent_whose_disk_has_gone_serves_on(
    tmp_path: Path, toy_release: Path, gone: Callable[[Path], None]
) -> None:
    """It looked for a wish each second, and ended by the OSError within one."""
    model = started(config_of(tmp_path, toy_release))
    gone(tmp_path / "state")
    for now_s in range(3):
        model.housekeep(float(now_s))
    assert model.live.answer(toy.dataset().test.windows[:1])[0] is not None


def test_an_agent_whose_disk_has_gone_says_goodbye(
    tmp_path: Path, toy_release: Path, gone: Callable[[Path], None]
) -> None:
    model = started(config_of(tmp_path, toy_release, f'[forget]\nwork_dir = "{tmp_path}/none"\n'))
    gone(tmp_path / "state")
    model.stop()


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    """``edge-agent run 2>agent.log`` ended on a full disk."""
    script = (
        "from edge_agent import logs; import structlog; logs.configure('info', 'json'); log = structlog.get_logger()"
    )
    script += "; [log.error('storage.failed', text='x' * 10_000) for _ in range(3)]; print('goes on', flush=True)"
    with Path("/dev/full").open("w") as full:
        run = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=full, cwd=ROOT, check=False)
    assert run.stdout == b"goes on\n"


def test_an_error_while_a_job_folder_is_filled_fails_the_command_and_not_the_agent(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = started(config_of(tmp_path, toy_release, "[forget]\nmin_windows = 8\n"))
    stock(model)
    model.forgetting._journal.write(JobState("a", ("whine",), "d", "accepted", "masked"))
    monkeypatch.setattr(jobs, "size_of", no_disk)

    def turn() -> bool:
        model.poll(may_start=True)
        return model.forgetting.at_work is None

    wait_until(turn)
    state = model.forgetting._journal.states()[0]
    ended(model)
    assert (state.status, state.code) == ("failed", "E_STORAGE")


@pytest.mark.parametrize("name", ["outcome.json", "progress.jsonl"])
def test_a_jobs_file_that_cannot_be_read_ends_no_agent(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Child:
        """A job that has written the file, and in the one case has ended."""

        def __init__(self, folder: Path, *_: Any) -> None:
            self.pid = 1
            (folder / name).write_bytes(b"{}\n")

        def ended(self) -> int | None:
            return 0 if name == "outcome.json" else None

        def end(self) -> None:
            pass

        def last_words(self) -> str:
            return ""

    monkeypatch.setattr(jobs, "Child", Child)
    model = started(config_of(tmp_path, toy_release, f'[forget]\nmin_windows = 8\nwork_dir = "{tmp_path}/none"\n'))
    stock(model)
    model.forgetting._journal.write(JobState("a", ("whine",), "d", "accepted", "masked"))

    def runs() -> bool:
        model.poll(may_start=True)
        return model.forgetting._jobs._running is not None

    wait_until(runs)
    for call in ("open", "read_bytes"):
        once(monkeypatch, Path, call, lambda path, *_: path.name == name)
    model.poll(may_start=True)
    model.stop()
    ended(model)


# A read that fails once says nothing of what lies there


def test_one_read_error_does_not_cost_the_windows_of_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that could not be read passed for lost, and what it had sealed was destroyed."""
    cache = open_cache(tmp_path)
    for seq in range(5):
        cache.offer("whine", window_of(seq), Source.SENDER)
    key = f"cache-{cache._file_name('whine')}"
    cache.close()
    unreadable_once(monkeypatch, key)
    with pytest.raises(StorageFailed):
        open_cache(tmp_path)
    assert open_cache(tmp_path).counts()["whine"] == 5


def test_one_read_error_does_not_replace_the_identity(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, toy_release)
    model = started(config)
    before = model.forgetting.fingerprint
    ended(model)
    once(monkeypatch, Path, "read_bytes", lambda path: path.name == "identity.key" and path.exists())
    with suppress(EdgeAgentError):  # systemd starts it again
        ended(started(config))
    model = started(config)
    after = model.forgetting.fingerprint
    ended(model)
    assert after == before


@pytest.mark.parametrize("part", ["/model.onnx", "/card.json", ".key"])
def test_one_read_error_does_not_bring_a_forgotten_class_back(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """During a probation the parent was adopted, the class named again, and its certificate withdrawn."""
    _, after = on_probation(tmp_path, toy_release)
    if part == ".key":  # each start tries first whether the master key opens any key at all
        unreadable_once(monkeypatch, f"release-{after}.key", times=2)
    else:
        unreadable_once(monkeypatch, f"{after}{part}")
    model = started(config_of(tmp_path, toy_release))
    state = model.forgetting._journal.states()[0]
    live = model.live.release.digest
    ended(model)
    assert (state.status, live) == ("successful", after)


def test_a_release_that_can_never_be_read_gives_way_to_another(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = on_probation(tmp_path, toy_release)
    read = Path.read_bytes
    monkeypatch.setattr(adoption, "READ_AGAIN_S", 0.0)
    monkeypatch.setattr(Path, "read_bytes", lambda path: no_disk() if f"{after}/model" in str(path) else read(path))
    model = started(config_of(tmp_path, toy_release))
    assert model.live.release.digest == before
    ended(model)


# What failed once is made good


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
    after = model._store.add(child).digest
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
    model._store.want(model._store.add(toy.twin(toy_release, tmp_path / "twin", name="twin")).digest)
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
    after = model._store.add(toy.twin(toy_release, tmp_path / "child", forgotten=("whine",), parent=before)).digest
    begun = JobState("a", ("whine",), "d", "executing", "committing", attempts=1)
    model.forgetting._journal.write(replace(begun, release_before=before, release_after=after))
    fail(monkeypatch, Journal, "write", lambda state: state.phase == "erasing")
    polled(model)
    state = model.forgetting._journal.states()[0]
    ended(model)
    assert state.kept_s is not None
    assert state.usual_s is not None
