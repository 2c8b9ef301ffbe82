"""Shadow mode: the candidate answers live windows unheard; it goes live only if it agrees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import toy
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import Release
from edge_agent.commands.local import LocalAgent
from edge_agent.core.types import Float32
from edge_agent.schemas.card import MODEL
from edge_agent.settings import Forget
from edge_agent.shadow import Shadow
from tests.plant import Plant, known_windows, store_at, wait_until

Start = Callable[..., LocalAgent]
WHINE = toy.CLASSES.index("whine")
FORGET_S = 120.0


def shadow(release: Path, gone: tuple[str, ...] = (), leaving: tuple[str, ...] = ("whine",)) -> Shadow:
    candidate = OnnxModel((release / "model.onnx").read_bytes(), 1)
    return Shadow(candidate, toy.CLASSES, frozenset(gone), frozenset(leaving))


def logits_for(names: list[str]) -> Float32:
    """What a live model would say."""
    rows = np.zeros((len(names), len(toy.CLASSES)), np.float32)
    rows[np.arange(len(names)), [toy.CLASSES.index(name) for name in names]] = 9.0
    return rows


def test_agreement_is_the_share_of_windows_with_the_same_first_class(toy_release: Path) -> None:
    trial = shadow(toy_release)
    trial.compare(known_windows(toy_release, 0, 8), logits_for(["hum"] * 6 + ["chirp"] * 2))
    report = trial.report()
    assert report == {"windows": 8, "agreement": 0.75, "by_class": {"chirp": 0.0, "hum": 1.0}}


def test_windows_of_a_class_that_leaves_are_not_counted(toy_release: Path) -> None:
    trial = shadow(toy_release)
    trial.compare(toy.windows(WHINE, 8, np.random.default_rng(0)), logits_for(["whine"] * 8))
    assert trial.windows == 0


def test_a_class_that_neither_model_may_name_is_passed_over_by_both(toy_release: Path) -> None:
    trial = shadow(toy_release, gone=("hum",))
    said = logits_for(["hum"] * 8)
    said[:, toy.CLASSES.index("rattle")] = 5.0
    trial.compare(toy.windows(0, 8, np.random.default_rng(0)), said)
    assert trial.report()["by_class"].keys() == {"rattle"}


def test_an_answer_that_is_not_finite_is_no_agreement_and_a_question_that_is_not_is_not_counted(
    toy_release: Path,
) -> None:
    trial = shadow(toy_release)
    windows = known_windows(toy_release, 0, 4)
    said = logits_for(["hum"] * 4)
    said[3] = np.nan
    trial.compare(np.where(np.arange(4)[:, None, None] == 0, np.float32(np.nan), windows), said)
    assert trial.report() == {"windows": 3, "agreement": 0.6667, "by_class": {"hum": 0.6667}}


def test_the_complaint_says_value_and_limit(toy_release: Path) -> None:
    trial = shadow(toy_release)
    settings = Forget(shadow_windows=8, shadow_agreement=0.8)
    assert trial.complaint(settings) is None  # there is time
    assert "0 of 8 live windows came within 1e-09 s" in str(
        trial.complaint(settings.model_copy(update={"shadow_s": 1e-9}))
    )
    trial.compare(known_windows(toy_release, 0, 8), logits_for(["hum"] * 6 + ["chirp"] * 2))
    assert "agrees on 75.0% of 8 live windows, limit 80.0%" in str(trial.complaint(settings))
    assert trial.complaint(settings.model_copy(update={"shadow_agreement": 0.75})) is None


def test_a_candidate_that_cannot_run_is_given_up_and_stops_no_answer(toy_release: Path) -> None:
    trial = shadow(toy_release)
    trial.compare(np.zeros((2, 7, 9), np.float32), logits_for(["hum"] * 2))
    assert "E_MODEL" in str(trial.complaint(Forget(shadow_windows=8)))


def disputed(one: Release, other: Release) -> Float32:
    """Windows on the border of two classes that stay, which two releases answer with different ones of them."""
    chance = np.random.default_rng(0)
    first, second = (toy.windows(label, 2000, chance) for label in (0, 1))
    between = second + chance.uniform(0.0, 1.0, (2000, 1, 1)).astype(np.float32) * (first - second)
    answers = [OnnxModel(release.read(MODEL), 1).logits(between) for release in (one, other)]
    for logits in answers:
        logits[:, WHINE] = -np.inf
    rows: Float32 = between[answers[0].argmax(axis=1) != answers[1].argmax(axis=1)][:20]
    assert len(rows) > 0
    return rows


def asked(plant: Plant) -> dict[str, Any]:
    """Have a stock of windows, ask to forget them, and wait until the candidate is at its trial."""
    plant.answers(plant.feed(WHINE, 64, seed=11))
    plant.raw("unlearn/whine", b'{"id": "trial"}')
    return plant.expect("unlearn/whine/status", FORGET_S, phase="shadowing")


def test_a_candidate_that_agrees_on_live_windows_goes_live(start_agent: Start, plant: Plant) -> None:
    agent = start_agent("[forget]\nshadow_windows = 100\nshadow_agreement = 0.8")
    before = agent.live_release()
    asked(plant)
    answers = plant.answers([seq for label in (0, 1) for seq in plant.feed(label, 49, seed=3)])
    assert {row["release"] for row in answers} == {before.digest}  # the candidate is not heard
    plant.answers(plant.feed(0, 20, seed=4))
    status = wait_until(plant.final, FORGET_S)
    assert status["status"] == "successful", status
    assert status["metrics"]["shadow"]["windows"] >= 100
    assert status["metrics"]["shadow"]["agreement"] >= 0.8
    assert plant.answers(plant.feed(0, 1))[0]["release"] != before.digest


def test_a_candidate_that_disagrees_is_destroyed_and_the_class_is_named_again(
    start_agent: Start, plant: Plant, toy_release: Path
) -> None:
    """No candidate of the toy falls apart, and on any windows some keep every answer: those count that tell the two."""
    agent = start_agent("[forget]\nshadow_windows = 120\nshadow_agreement = 1.0")
    before = agent.live_release()
    candidate = asked(plant)["release_after"]
    rows = disputed(before, store_at(agent.state_dir).get(candidate))
    plant.answers([plant.send(row) for row in np.concatenate([rows, toy.windows(0, 150, np.random.default_rng(0))])])
    status = wait_until(plant.final, FORGET_S)
    assert (status["status"], status["code"]) == ("failed", "E_SHADOW")
    assert "limit 100.0%" in status["reason"]
    assert status["metrics"]["shadow"]["windows"] >= 120
    assert candidate not in store_at(agent.state_dir).digests()
    answers = plant.answers([plant.send(row, "whine") for row in known_windows(toy_release, WHINE, 10, seed=7)])
    assert {row["release"] for row in answers} == {before.digest}
    assert {row["class"] for row in answers} == {"whine"}


def test_a_trial_that_was_cut_short_begins_anew_after_a_restart(
    start_agent: Start, plant: Plant, toy_release: Path
) -> None:
    agent = start_agent("[forget]\nshadow_windows = 60\nshadow_agreement = 0.8")
    asked(plant)
    plant.answers(plant.feed(0, 40, seed=3))
    agent.stop()  # killed, it would be sent some of them again, and count them
    agent.start()
    agent.ready(times=2)
    wait_until(lambda: len(agent.events("shadow.started")) == 2)
    plant.answers([plant.send(row, "rattle") for row in known_windows(toy_release, 1, 80, seed=5)])
    status = wait_until(plant.final, FORGET_S)
    assert status["status"] == "successful", status
    assert status["metrics"]["shadow"]["by_class"].keys() == {"rattle"}  # none of before
    assert len(agent.events("job.started")) == 1


def test_a_trial_to_which_no_windows_come_ends_with_how_many_came(start_agent: Start, plant: Plant) -> None:
    start_agent("[forget]\nshadow_windows = 100\nshadow_s = 1.0")
    asked(plant)
    status = wait_until(plant.final, FORGET_S)
    assert (status["status"], status["code"]) == ("failed", "E_SHADOW")
    assert "0 of 100 live windows came within 1 s" in status["reason"]


@pytest.mark.parametrize("key", ["shadow_windows = -1", "shadow_agreement = 1.5", "shadow_s = 0"])
def test_limits_that_make_no_sense_are_refused(key: str) -> None:
    name, value = key.split(" = ")
    with pytest.raises(ValueError, match=name):
        Forget.model_validate({name: float(value)})
