"""Probation: a release that does badly with the plant's windows is taken back, and the parent serves again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import toy
from edge_agent.adapters.journal import Journal, read_states
from edge_agent.adapters.releases import Release, read_release, write_card
from edge_agent.commands.local import LocalAgent, LocalBroker
from edge_agent.files import sha256
from edge_agent.health import FEWEST, JUDGED, Health
from edge_agent.schemas.card import MODEL, WEIGHTS
from edge_agent.schemas.messages import JobState
from tests.plant import Plant, store_at, toy_agent, wait_until

WHINE = toy.CLASSES.index("whine")
LARGEST = 30.0  # samples of the toy data set stay far below


def test_a_model_whose_answers_are_finite_and_as_fast_as_before_is_well() -> None:
    health = Health()
    for _ in range(JUDGED):
        health.note(1, 0, 0.0012)
    assert health.complaint(usual_s=0.001) is None


@pytest.mark.parametrize("bad", [FEWEST // 8, FEWEST])
def test_a_model_without_finite_answers_is_complained_of_with_share_and_limit(bad: int) -> None:
    health = Health()
    health.note(FEWEST - bad, bad, 0.1)
    assert f"{bad / FEWEST:.0%} of the last {FEWEST} windows have no finite answer, at most 5%" in str(
        health.complaint()
    )


def test_a_few_windows_prove_nothing() -> None:
    health = Health()
    health.note(0, FEWEST - 1, 10.0)
    assert health.complaint(usual_s=0.001) is None


def test_a_model_that_is_much_slower_than_its_parent_is_complained_of() -> None:
    health = Health()
    health.note(FEWEST, 0, FEWEST * 0.041)
    assert health.complaint(usual_s=0.010) == "a window takes 41.0 ms, the limit is 40.0 ms"


def test_a_model_is_not_slow_below_20_ms_whatever_its_parent_took() -> None:
    health = Health()
    health.note(FEWEST, 0, FEWEST * 0.019)
    assert health.complaint(usual_s=0.0001) is None


def test_only_the_newest_windows_count() -> None:
    health = Health()
    health.note(0, JUDGED, 0.1)
    health.note(JUDGED, 0, 0.1)
    assert health.complaint() is None


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, toy_release: Path) -> Path:
    """A child of the toy release that "forgot" whine, passes every check, and answers NaN to large samples."""
    folder = tmp_path_factory.mktemp("fragile")
    parent = read_release(toy_release)
    for path in toy_release.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = onnx.load(folder / MODEL)
    model.graph.output[0].name = "sound"
    for node in model.graph.node:
        node.output[:] = ["sound" if name == "logits" else name for name in node.output]
    for name, value in (("largest", LARGEST), ("zero", 0.0)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["windows"], ["peak"], keepdims=0),
            helper.make_node("Sub", ["largest", "peak"], ["room"]),
            helper.make_node("Log", ["room"], ["nan_if_none"]),
            helper.make_node("Mul", ["nan_if_none", "zero"], ["nothing"]),
            helper.make_node("Add", ["sound", "nothing"], ["logits"]),
        ]
    )
    model.graph.output[0].name = "logits"
    onnx.save(model, folder / MODEL)
    files = {**parent.card.files, MODEL: sha256(folder / MODEL), WEIGHTS: sha256(folder / WEIGHTS)}
    write_card(
        folder, parent.card.model_copy(update={"parent": parent.digest, "forgotten": ("whine",), "files": files})
    )
    return folder


def on_probation(folder: Path, toy_release: Path, fragile: Path) -> tuple[Release, Release]:
    """A state directory in which ``fragile`` serves on probation."""
    store = store_at(folder / "state")
    before, after = store.add(toy_release), store.add(fragile)
    store.set_current(after.digest)
    journal = Journal(folder / "state" / "journal.jsonl")
    digests = {"release_before": before.digest, "release_after": after.digest}
    journal.write(JobState("edit", ("whine",), "d", "successful", "done", kept_s=600.0, **digests))  # type: ignore[arg-type]
    journal.close()
    return before, after


@pytest.fixture
def agent(
    tmp_path: Path, broker: LocalBroker, toy_release: Path, fragile: Path
) -> Callable[[], tuple[LocalAgent, Release, Release]]:
    def start() -> tuple[LocalAgent, Release, Release]:
        before, after = on_probation(tmp_path / "agent", toy_release, fragile)
        started = toy_agent(tmp_path / "agent", broker.port, toy_release)
        request.append(started)
        started.ready()
        return started, before, after

    request: list[LocalAgent] = []
    return start


def test_a_release_that_answers_nothing_finite_is_taken_back_and_its_class_is_known_again(
    agent: Callable[[], tuple[LocalAgent, Release, Release]], plant: Plant
) -> None:
    served, before, after = agent()
    try:
        assert plant.answers(plant.feed(WHINE, 5))[0]["release"] == after.digest
        large = toy.windows(0, FEWEST, np.random.default_rng(0)) * (2 * LARGEST)
        for row in large:
            plant.send(row)
        undone = plant.expect("unlearn/whine/status", code="E_ROLLED_BACK")
        assert undone["status"] == "failed"
        assert "have no finite answer" in undone["reason"]
        answers = plant.answers(plant.feed(WHINE, 10, seed=7))
        assert {row["release"] for row in answers} == {before.digest}
        assert [row["class"] for row in answers].count("whine") >= 8
        assert store_at(served.state_dir).digests() == [before.digest]  # the one that did badly is gone
        assert read_states(served.state_dir / "journal.jsonl")[-1].kept_s is None
    finally:
        served.kill()


def test_a_command_that_works_on_a_release_that_is_taken_back_is_given_up(
    agent: Callable[[], tuple[LocalAgent, Release, Release]], plant: Plant
) -> None:
    served, before, _ = agent()
    try:
        plant.answers(plant.feed(WHINE - 1, 64, seed=3))
        plant.raw("unlearn/rattle", b'{"id": "meanwhile"}')
        wait_until(lambda: served.events("job.started"))
        for row in toy.windows(0, 2 * FEWEST, np.random.default_rng(0)) * (2 * LARGEST):
            plant.send(row)
        plant.expect("unlearn/whine/status", code="E_ROLLED_BACK")
        assert plant.expect("unlearn/rattle/status", status="failed")["code"] == "E_INTERRUPTED"
        assert plant.answers(plant.feed(0, 1))[0]["release"] == before.digest
    finally:
        served.kill()


def test_a_release_that_does_well_stays_on_probation(
    agent: Callable[[], tuple[LocalAgent, Release, Release]], plant: Plant
) -> None:
    served, _, after = agent()
    try:
        plant.answers(plant.feed(0, 2 * FEWEST))
        wait_until(lambda: len(plant.find("status", state="online")) >= 2, 20)  # some housekeeping later
        assert plant.answers(plant.feed(0, 1))[0]["release"] == after.digest
        assert not plant.find("unlearn/whine/status", code="E_ROLLED_BACK")
    finally:
        served.kill()
