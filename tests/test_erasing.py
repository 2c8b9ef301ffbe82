"""An erasure takes a piece each turn; what comes between two of them is seen to."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import toy
from edge_agent.core.errors import KeyLost
from edge_agent.jobs import Jobs
from edge_agent.reservoir import HEADER_BYTES, Source
from edge_agent.schemas.messages import JobState
from edge_agent.served import ServedModel
from edge_agent.vault import OVERHEAD_BYTES, Cipher
from tests.disk_kit import fail
from tests.offline import certified, committing, config_of, ended, on_probation, polled, quiet, started
from tests.plant import wait_until
from tests.test_failing_disk import toy_window

pytestmark = pytest.mark.usefixtures(quiet.__name__)


def erasing(folder: Path, release: Path) -> tuple[str, str, ServedModel]:
    """A command whose release is live, and nothing destroyed yet; the releases before and after it."""
    before, after = on_probation(folder, release, kept_s=None)
    (folder / "state" / "journal.jsonl").unlink()
    model = started(config_of(folder, release))
    digests = {"release_before": before, "release_after": after}
    model.forgetting._journal.write(JobState("job-whine", ("whine",), "d", "executing", "erasing", **digests))  # type: ignore[arg-type]
    return before, after, model


def test_an_erasure_takes_a_piece_each_turn_and_begins_anew_where_the_disk_fails_in_between(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, model = erasing(tmp_path, toy_release)
    model.poll(may_start=True)
    assert before in model.forgetting._store.digests(), "one turn did it all"
    fail(monkeypatch, Jobs, "clear", lambda: True)
    polled(model)
    assert model.forgetting._journal.states()[0].status == "successful"
    assert model.forgetting._store.digests() == [after]
    assert [one["what"] for one in certified(model)["destroyed"]] == ["cached windows", "job folder", "release"]
    ended(model)


def test_a_window_labelled_with_the_class_while_it_is_erased_leaves_no_key_behind(
    tmp_path: Path, toy_release: Path
) -> None:
    """Its old file kept the key: what flash may hold of it opened still, and the certificate was signed."""
    _, _, model = erasing(tmp_path, toy_release)
    assert model._cache.offer("hum", toy_window(), Source.DIAGNOSIS)
    image = {path: path.read_bytes() for path in (tmp_path / "state" / "cache").glob("*.slots")}
    model.forgetting._masks.apply()
    for _ in range(2):  # it begins, and the windows of the class are gone
        model.poll(may_start=False)
    window = toy_window()
    model._cache.label(window.asset, window.boot, window.seq, "whine")
    polled(model)
    assert certified(model)
    vault = model.forgetting._store._vault
    keys = [vault.find(name) for name in vault.names("cache-")]
    assert not any(opens(key, path, content) for key in keys for path, content in image.items())
    ended(model)


def opens(key: Cipher, path: Path, content: bytes) -> bool:
    """Whether a key opens the header of an image's first slot."""
    name = path.name.partition(".")[0]
    with suppress(KeyLost):
        return bool(key.open(content[: HEADER_BYTES + OVERHEAD_BYTES], f"{name}/0/header"))
    return False


def erasing_again(folder: Path, release: Path) -> tuple[str, ServedModel]:
    """A second class is being erased within the probation of the first; and the release before both."""
    before, after = on_probation(folder, release)
    model = started(config_of(folder, release, "[forget]\nprobation_s = 200"))
    forgotten = ("whine", "hum")
    child = model.forgetting._store.add(toy.twin(release, folder / "grandchild", forgotten=forgotten, parent=after))
    committing(model, "hum", after, child.digest)

    def begun() -> bool:
        model.poll(may_start=False)
        return state_of(model, "job-hum").phase == "erasing"

    wait_until(begun)
    return before, model


def state_of(model: ServedModel, id_: str) -> JobState:
    state = model.forgetting._journal.get(id_)
    assert state is not None
    return state


def test_a_probation_is_not_charged_for_the_erasure_that_it_begins_after(tmp_path: Path, toy_release: Path) -> None:
    _, model = erasing_again(tmp_path, toy_release)
    model.forgetting._probation._counted_s -= 30.0  # the steps take so long
    polled(model)
    model.forgetting._probation.count(time.monotonic(), keep_every_s=0.0)
    assert state_of(model, "job-hum").kept_s == pytest.approx(200, abs=5)
    ended(model)


def test_a_parent_whose_probation_ends_in_the_middle_of_an_erasure_stands_in_its_certificate(
    tmp_path: Path, toy_release: Path
) -> None:
    before, model = erasing_again(tmp_path, toy_release)
    model.forgetting._journal.write(replace(state_of(model, "job-whine"), kept_s=1e-6))
    model.poll(may_start=False)
    polled(model)
    document = json.loads(model.forgetting._erasure.certificate(state_of(model, "job-hum")) or b"")["content"]
    assert before in [one.get("digest") for one in document["destroyed"] + document["not_destroyed"]]
    ended(model)
