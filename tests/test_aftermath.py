"""What is left after forgetting: releases beside the parent, probations, tombstones, and what the certificate says."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import toy
from edge_agent.adapters.audit import read_rows
from edge_agent.adapters.windows import WindowCache
from edge_agent.adopting import REKEY_EVERY_S, SETTLE_EVERY_S
from edge_agent.commands.assembly import assemble
from edge_agent.commands.local import LocalAgent
from edge_agent.core.errors import BrokenRelease
from edge_agent.core.types import Window
from edge_agent.erasure import Publisher
from edge_agent.health import FEWEST
from edge_agent.reservoir import Source
from edge_agent.schemas.messages import JobState
from edge_agent.served import ServedModel
from edge_agent.settings import OWN_MODEL
from tests.offline import certified, committing, config_of, done, ended, on_probation, polled, quiet, started
from tests.plant import Plant, store_at, wait_until
from tests.scripts import edge_agent

Start = Callable[..., LocalAgent]
WHINE = toy.CLASSES.index("whine")
FORGET_S = 120.0
pytestmark = pytest.mark.usefixtures(quiet.__name__)


# A state directory as agents leave it, taken up by an agent that talks to nobody


def test_a_probation_is_not_charged_for_the_time_before_it_began(tmp_path: Path, toy_release: Path) -> None:
    """Beside one that had not been counted for some minutes, one of 200 s was over at once."""
    before, after = on_probation(tmp_path, toy_release)
    model = started(config_of(tmp_path, toy_release, "[forget]\nprobation_s = 200"))
    child = model.forgetting._store.add(toy.twin(toy_release, tmp_path / "grandchild", forgotten=("whine", "hum")))
    committing(model, "hum", after, child.digest)
    model.forgetting._probation._counted_s -= 250.0
    polled(model)
    kept = {state.id: state.kept_s for state in model.forgetting._journal.states()}
    assert kept["job-whine"] == pytest.approx(350.0, abs=5.0)
    assert kept["job-hum"] == pytest.approx(200.0, abs=5.0)
    assert set(model.forgetting._store.digests()) == {before, after, child.digest}
    ended(model)


def test_what_was_usual_before_the_swap_is_what_a_release_on_probation_is_held_against(
    tmp_path: Path, toy_release: Path
) -> None:
    model = started(config_of(tmp_path, toy_release, "[forget]\nprobation_s = 200"))
    before = model.live.release.digest
    model.live.answer(toy.dataset().test.windows[:FEWEST])
    usual_s = model.live.health.usual_s
    child = model.forgetting._store.add(toy.twin(toy_release, tmp_path / "child", forgotten=("whine",)))
    committing(model, "whine", before, child.digest)
    polled(model)
    assert usual_s is not None
    assert model.forgetting._journal.states()[0].usual_s == usual_s
    ended(model)


def test_a_command_that_was_begun_three_times_is_not_begun_again(tmp_path: Path, toy_release: Path) -> None:
    model = started(config_of(tmp_path, toy_release))
    model.forgetting._journal.write(replace(done("whine"), status="executing", phase="editing", attempts=3))
    model.forgetting._masks.apply()
    assert "whine" in model.live.hidden
    model.poll(may_start=True)
    state = model.forgetting._journal.states()[0]
    assert (state.status, state.code, state.attempts) == ("failed", "E_INTERRUPTED", 3)
    assert "whine" not in model.live.hidden
    ended(model)


def test_a_command_that_has_expired_while_it_waited_is_not_begun(tmp_path: Path, toy_release: Path) -> None:
    model = started(config_of(tmp_path, toy_release))
    waiting = replace(done("whine"), status="accepted", phase="masked", expires_at="2020-01-01T00:00:00+00:00")
    model.forgetting._journal.write(waiting)
    model.forgetting._masks.apply()
    model.poll(may_start=True)
    state = model.forgetting._journal.states()[0]
    assert (state.status, state.code, state.attempts) == ("failed", "E_EXPIRED", 0)
    assert model.live.masked == ()
    ended(model)


def test_a_stored_release_that_nobody_can_read_is_taken_to_know_the_class(tmp_path: Path, toy_release: Path) -> None:
    on_probation(tmp_path, toy_release, kept_s=None)
    model = started(config_of(tmp_path, toy_release))
    older = model.forgetting._store.add(
        toy.twin(toy_release, tmp_path / "older", forgotten=("whine",), name="older")
    ).digest
    (model.forgetting._store.folder / older / "card.json").write_bytes(b"{")
    list(model.forgetting._erasure.erase(model.forgetting._journal.states()[0], model.live.release))
    assert model.forgetting._store.digests() == [model.live.release.digest]
    assert [one["knew"] for one in certified(model)["destroyed"] if one.get("digest") == older] == [["whine"]]
    ended(model)


def test_a_crash_between_going_back_and_writing_it_down_is_made_good_at_the_start(
    tmp_path: Path, toy_release: Path
) -> None:
    before, _ = on_probation(tmp_path, toy_release)
    store_at(tmp_path / "state").set_current(before)
    model = started(config_of(tmp_path, toy_release))
    assert model.live.release.digest == before
    assert model.live.masked == ()
    assert [(state.status, state.code) for state in model.forgetting._journal.states()] == [("failed", "E_ROLLED_BACK")]
    ended(model)


def test_a_certificate_at_the_end_of_a_probation_names_a_later_release_that_serves_with_the_class_masked(
    tmp_path: Path, toy_release: Path
) -> None:
    """It said that nothing was left, while the live release knew the class."""
    before, _ = on_probation(tmp_path, toy_release)
    later = store_at(tmp_path / "state").add(toy.twin(toy_release, tmp_path / "later", name="later"))
    model = started(config_of(tmp_path, toy_release, '[forget]\nknown_again = "mask"'))
    model.live.adopt(later)
    model.forgetting._probation.count(time.monotonic() + 601.0)
    content = certified(model)
    assert before in [one.get("digest") for one in content["destroyed"]]
    release = {"what": "release", "digest": later.digest, "knows": ["whine"], "how": "served with the class masked"}
    assert content["not_destroyed"][0] == release
    ended(model)


def test_a_certificate_names_another_model_that_knows_the_class_by_a_stored_release_only(
    tmp_path: Path, toy_release: Path
) -> None:
    """The parent on probation of the gateway's own model still knew what its live release did not."""
    on_probation(tmp_path, toy_release)
    more = f'[models.pumps]\nrelease = "{toy_release}"\nassets = ["pump-*"]'
    own, pumps = assemble(config_of(tmp_path, toy_release, more)).models
    assert isinstance(own, ServedModel)
    assert isinstance(pumps, ServedModel)
    state = pumps.forgetting._journal.write(done("whine"))
    list(pumps.forgetting._erasure.erase(state, pumps.live.release))
    (other,) = [one for one in certified(pumps)["not_destroyed"] if one["what"] == "model"]
    assert (other["name"], other["knows"]) == (OWN_MODEL, ["whine"])
    ended(own)
    ended(pumps)


def test_of_the_stored_releases_the_one_that_has_forgotten_most_replaces_a_broken_one(
    tmp_path: Path, toy_release: Path
) -> None:
    """The newest by the wall clock did, so that an edit of 1970 gave way to its parent."""
    _, after = on_probation(tmp_path, toy_release)
    os.utime(tmp_path / "state" / "releases" / after, (0, 0))
    (tmp_path / "state" / "current").unlink()
    model = started(config_of(tmp_path, toy_release))
    assert model.live.release.digest == after
    ended(model)


def test_windows_of_a_class_that_a_release_from_elsewhere_has_forgotten_are_destroyed(
    tmp_path: Path, toy_release: Path
) -> None:
    """They stayed, closed, and no command could ask for them: the class was forgotten already."""
    model = started(config_of(tmp_path, toy_release))
    for seq, samples in enumerate(toy.windows(toy.CLASSES.index("whine"), 12, np.random.default_rng(0))):
        model._cache.offer("whine", Window("m", "b", seq, 0, "whine", samples), Source.SENDER)
    pulled = toy.twin(toy_release, tmp_path / "pulled", name="pulled", forgotten=("whine",))
    model.forgetting._store.want(model.forgetting._store.add(pulled).digest)

    def adopted() -> bool:
        model.housekeep(0.0)
        return model.live.card.forgotten == ("whine",)

    wait_until(adopted)
    model.housekeep(SETTLE_EVERY_S)
    assert model._cache.counts()["whine"] == 0
    ended(model)


def test_labels_do_not_have_files_written_anew_every_minute(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gave the file that its window was moved from a new key, and a file may have a gigabyte."""
    folder = toy.twin(toy_release, tmp_path / "pulled", forgotten=("whine",))
    model, asked = started(config_of(tmp_path, folder)), list[str]()
    monkeypatch.setattr(WindowCache, "rekey_one", lambda _, name: asked.append(name))
    for now_s in (0.0, SETTLE_EVERY_S, 2 * SETTLE_EVERY_S, REKEY_EVERY_S - 1.0):
        model.housekeep(now_s)
    assert asked == ["whine"]
    model.housekeep(REKEY_EVERY_S + SETTLE_EVERY_S)  # what a crash between an erasure and this has left
    assert asked == ["whine", "whine"]
    ended(model)


def test_files_get_their_new_keys_one_in_a_turn_and_no_more_than_there_are(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in one turn held answers up; without an end a label a minute would have them written for ever."""
    folder = toy.twin(toy_release, tmp_path / "pulled", forgotten=("whine",))
    model, asked = started(config_of(tmp_path, folder)), list[str]()

    def always(_: WindowCache, name: str) -> bool:
        asked.append(name)
        return True

    monkeypatch.setattr(WindowCache, "rekey_one", always)
    files = len(model._cache.counts())
    for second in range(2 * files):
        model.housekeep(float(second))
        assert len(asked) == min(second + 1, files)
    model.housekeep(REKEY_EVERY_S - 1.0)
    assert len(asked) == files
    ended(model)


def test_a_command_that_waits_for_a_class_that_the_release_of_a_new_start_has_forgotten_ends_well(
    tmp_path: Path, toy_release: Path
) -> None:
    """Its card named no parent, and each start ended by an assertion."""
    folder = toy.twin(toy_release, tmp_path / "pulled", forgotten=("whine",))
    model = started(config_of(tmp_path, folder))
    model.forgetting._journal.write(JobState("a", ("whine",), "d", "accepted", "masked"))
    polled(model)
    state = model.forgetting._journal.states()[0]
    assert (state.status, certified(model)["releases"]["before"]) == ("successful", None)
    ended(model)


def test_a_release_of_which_every_class_is_hidden_is_not_adopted(tmp_path: Path, toy_release: Path) -> None:
    """Its first answer named nothing, and ended the agent at every start."""
    model = started(config_of(tmp_path, toy_release))
    model.live.hide(frozenset(toy.CLASSES))
    with pytest.raises(BrokenRelease, match="every class that release"):
        model.live.adopt(model.live.release)
    ended(model)


def test_a_release_that_was_destroyed_while_it_waited_does_not_go_live(tmp_path: Path, toy_release: Path) -> None:
    """It had been loaded before the command came, and went live after the certificate had called it destroyed."""
    before, after = on_probation(tmp_path, toy_release, kept_s=None)
    (tmp_path / "state" / "journal.jsonl").unlink()
    model = started(config_of(tmp_path, toy_release, '[forget]\nknown_again = "mask"'))
    store, journal = model.forgetting._store, model.forgetting._journal
    wanted = store.add(toy.twin(toy_release, tmp_path / "later", name="later")).digest
    store.want(wanted)
    model.housekeep(0.0)
    wait_until(lambda: model.adopting._installer._task and model.adopting._installer._task[1].done())
    digests = {"release_before": before, "release_after": after}
    journal.write(JobState("job-whine", ("whine",), "d", "executing", "committing", **digests))  # type: ignore[arg-type]
    model.housekeep(1.0)
    polled(model)
    assert journal.states()[0].status == "successful"
    assert store.digests() == [after]
    model.housekeep(2.0)
    assert (model.live.release.digest, store.current()) == (after, after)
    refused = list(read_rows(tmp_path / "state" / "audit.jsonl"))[-1]["content"]
    assert (refused["release"], refused["code"]) == (wanted, "E_NO_RELEASE")
    ended(model)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff"])
def test_a_certificate_that_is_damaged_or_gone_is_not_published_and_not_withdrawn(
    tmp_path: Path, toy_release: Path, damage: bytes
) -> None:
    """One that was gone had the broker's copy, the last, cleared."""
    on_probation(tmp_path, toy_release, kept_s=None)
    model = started(config_of(tmp_path, toy_release))
    path = model.forgetting._erasure._path(model.forgetting._journal.states()[0])
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damage)
    published: list[bytes] = []
    publish = Publisher(lambda _: None, lambda _, document: published.append(document), lambda: None)
    model.forgetting._publish = publish
    model.forgetting.republish()
    assert published == []
    path.unlink()
    model.forgetting.republish()
    assert published == []
    model.forgetting._journal.write(replace(model.forgetting._journal.states()[0], status="failed"))
    model.forgetting.republish()
    assert published == [b""]  # withdrawn
    ended(model)


def test_a_wish_that_cannot_be_read_is_removed(tmp_path: Path, toy_release: Path) -> None:
    model = started(config_of(tmp_path, toy_release))
    (tmp_path / "state" / "revive").write_bytes(b"\xff\xfe")
    model.housekeep(0.0)
    assert not (tmp_path / "state" / "revive").exists()
    ended(model)


# The process


def test_other_releases_that_know_the_class_do_not_outlive_it_behind_a_probation(
    start_agent: Start, plant: Plant, toy_release: Path, tmp_path: Path
) -> None:
    """Only the parent was named by the certificate; an older release that knew the class lay beside it."""
    agent = start_agent("[forget]\nprobation_s = 600")
    store, parent = store_at(agent.state_dir), agent.live_release().digest
    older = store.add(toy.twin(toy_release, tmp_path / "older", name="older")).digest
    plant.answers(plant.feed(WHINE, 64, seed=11))
    plant.raw("unlearn/whine", b"")
    content = plant.expect("unlearn/whine/certificate", FORGET_S)["content"]
    assert older in [one.get("digest") for one in content["destroyed"]]
    assert [one.get("digest") for one in content["not_destroyed"]] == [parent, None]  # None: the folder it came from
    assert store.digests() == [parent, content["releases"]["after"]]

    another = store.add(toy.twin(toy_release, tmp_path / "another", name="another")).digest
    store.want(another)
    refused = wait_until(lambda: agent.events("release.refused"))
    assert refused[0]["code"] == "E_ERASED"
    wait_until(lambda: another not in store.digests())
    assert plant.final()["status"] == "successful"  # type: ignore[index]


def test_a_refused_release_leaves_nothing_of_an_erased_class_behind(
    start_agent: Start, plant: Plant, toy_release: Path
) -> None:
    agent = start_agent()
    plant.answers(plant.feed(WHINE, 64, seed=11))
    plant.raw("unlearn/whine", b"")
    plant.expect("unlearn/whine/certificate", FORGET_S)
    done = edge_agent("releases", "install", toy_release, "--config", agent.config)
    assert done.returncode == 1
    assert "E_ERASED" in done.stderr
    assert store_at(agent.state_dir).digests() == [agent.live_release().digest]


def test_a_trial_that_is_switched_off_ends_with_the_new_model(start_agent: Start, plant: Plant) -> None:
    agent = start_agent("[forget]\nshadow_windows = 1000")
    plant.answers(plant.feed(WHINE, 64, seed=11))
    plant.raw("unlearn/whine", b"")
    plant.expect("unlearn/whine/status", FORGET_S, phase="shadowing")
    agent.config.write_text(agent.config.read_text().replace("1000", "0"))
    agent.process.send_signal(signal.SIGHUP)
    assert wait_until(plant.final, FORGET_S)["status"] == "successful"


def test_a_job_that_was_on_a_disk_before_a_crash_is_not_said_to_have_been_in_memory(
    start_agent: Start, plant: Plant
) -> None:
    agent = start_agent()
    plant.answers(plant.feed(WHINE, 64, seed=11))
    plant.raw("unlearn/whine", b"")
    wait_until(lambda: agent.events("job.started"))
    agent.kill()
    (agent.state_dir / "jobs" / "one").mkdir(parents=True)
    (agent.state_dir / "jobs" / "one" / "windows.safetensors").write_bytes(b"windows")
    agent.start()
    certificates = wait_until(lambda: list(filter(None, plant.find("unlearn/whine/certificate"))), FORGET_S)
    content = certificates[0]["content"]
    assert {"how": "overwritten and unlinked", "what": "job folder"} in content["destroyed"]
    states = [json.loads(line[9:]) for line in (agent.state_dir / "journal.jsonl").read_text().splitlines()]
    assert states[-1]["on_disk"]
