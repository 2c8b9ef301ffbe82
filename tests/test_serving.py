"""Windows in one batch: each is answered for itself, refused for itself, and cached where it belongs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import toy
from edge_agent import rig
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import read_release
from edge_agent.commands.demo import packaged_release
from edge_agent.core.errors import BrokenRelease, Refused
from edge_agent.core.types import Float32, Window
from edge_agent.mqtt_link import Message, Receipt
from edge_agent.schemas.card import MODEL
from edge_agent.schemas.windows import WindowSpec, encode, examine
from edge_agent.served import ServedModel
from edge_agent.serving import LONGEST_STUCK_S, MOST_STUCK
from tests.offline import config_of, ended, quiet, started
from tests.plant import known_windows

pytestmark = pytest.mark.usefixtures(quiet.__name__)


class Ear:
    """Stands in for the broker, where only what it is told counts."""

    def __init__(self) -> None:
        self.answers: dict[int, dict[str, Any]] = {}
        self.refused: list[str] = []
        self.reconnects, self.keeps_windows = 0, True

    def answer(self, _: object, __: str, payload: bytes) -> bool:
        content = json.loads(payload)
        self.answers[content["seq"]] = content
        return True

    def publish(self, _: str, payload: bytes, **__: object) -> None:
        self.refused.append(json.loads(payload)["code"])

    def reconnect(self) -> None:
        self.reconnects += 1


def heard(
    model: ServedModel,
    windows: Iterable[Float32],
    rate_hz: float = toy.RATE_HZ,
    label: str | None = None,
    receipt: Receipt | None = None,
) -> Ear:
    """What the model says to windows that come at once, all from one asset."""
    ear: Any = Ear()
    model.serving._broker = model.tally._broker = ear
    boot = uuid4().hex[:8]
    batch = [Window("m1", boot, seq, 0, label, samples) for seq, samples in enumerate(windows)]
    received_s = time.monotonic()
    topic = "edge/toy/windows/m1"
    model.serving.serve([Message(topic, encode(one, rate_hz, "m/s^2"), False, received_s, receipt) for one in batch])
    told: Ear = ear
    return told


def test_each_window_of_a_batch_gets_its_own_answer_though_others_are_refused(
    tmp_path: Path, toy_release: Path
) -> None:
    model = started(config_of(tmp_path, toy_release))
    every = toy.dataset().test.windows  # class after class
    windows = list(every[:: len(every) // 12][:12].copy())
    windows[1][0, 5] = np.nan
    windows[4][2, 0] = 1e6
    windows[5][1, 1] = -np.inf
    told = heard(model, windows)
    sound = [seq for seq in range(12) if seq not in {1, 4, 5}]
    assert sorted(told.answers) == sound
    assert len(told.refused) == 3
    logits = OnnxModel(read_release(toy_release).read(MODEL), 1).logits(np.stack([windows[seq] for seq in sound]))
    expected = [toy.CLASSES[label] for label in logits.argmax(axis=1)]
    assert [told.answers[seq]["class"] for seq in sound] == expected
    assert len(set(expected)) > 2
    ended(model)


def test_nothing_is_cached_by_its_diagnosis_once_a_class_is_hidden(tmp_path: Path) -> None:
    """Its windows are answered with another one, often as surely: there they outlived the certificate."""
    with packaged_release() as release:
        model = started(config_of(tmp_path, release, "[cache]\nfrom_diagnosis = true"))
    least = model.serving.settings.min_confidence
    heard(model, rig_windows("NC"), rig.RATE_HZ)
    before = model._cache.counts()
    assert before["NC"] > 0
    model.live.hide(frozenset({"OF-2"}))
    told = heard(model, rig_windows("OF-2"), rig.RATE_HZ)
    sure = [one for one in told.answers.values() if one["confidence"] >= least and "unusual" not in one["flags"]]
    assert {one["class"] for one in sure} == {"IF-2"}
    heard(model, rig_windows("NC"), rig.RATE_HZ)  # nor of others: an edited model never answers what it has forgotten
    assert model._cache.counts() == before
    ended(model)


def test_a_window_whose_sender_names_a_class_that_the_release_has_not_is_kept_nowhere(
    tmp_path: Path, toy_release: Path
) -> None:
    """It was cached as what the model took it for, with the right name in its sender's own hand."""
    model = started(config_of(tmp_path, toy_release, "[cache]\nfrom_diagnosis = true\nmin_confidence = 0.5"))
    told = heard(model, known_windows(toy_release, 0, 8), label="wear")
    assert (len(told.answers), len(told.refused)) == (8, 8)
    assert sum(model._cache.counts().values()) == 0
    ended(model)


class Failing:
    """A model that cannot be run on windows with a sample beyond a limit."""

    def __init__(self, model: OnnxModel, most: float) -> None:
        self.model, self.most = model, most

    def logits(self, windows: Float32) -> Float32:
        if np.abs(windows).max() > self.most:
            raise BrokenRelease("E_MODEL", "the model cannot run: out of memory")
        return self.model.logits(windows)


def unable(model: ServedModel, most: float) -> Failing:
    """Make it a model that cannot be run on windows with a sample beyond ``most``, which may be changed."""
    failing: Any = Failing(model.live._live.model, most)
    model.live._loaded = replace(model.live._live, model=failing)
    told: Failing = failing
    return told


def test_windows_wait_until_the_model_can_be_run_again_and_the_process_ends_if_it_cannot(
    tmp_path: Path, toy_release: Path
) -> None:
    """Each was refused and acknowledged: an accelerator that had failed ate the whole stream."""
    model = started(config_of(tmp_path, toy_release))
    failing = unable(model, most=-1.0)
    told = heard(model, known_windows(toy_release, 0, 6))
    model.serving.retry(time.monotonic())
    assert (told.answers, told.refused) == ({}, [])
    failing.most = np.inf
    model.serving.retry(time.monotonic())
    assert (sorted(told.answers), told.refused) == ([0, 1, 2, 3, 4, 5], [])
    failing.most = -1.0
    heard(model, known_windows(toy_release, 0, 2))
    with pytest.raises(BrokenRelease, match="out of memory; the broker keeps the windows"):
        model.serving.retry(time.monotonic() + LONGEST_STUCK_S)
    ended(model)


class Acknowledged:
    """Stands in for paho's client, where only what is acknowledged counts."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def ack(self, message_id: int, _: int) -> None:
        self.ids.append(message_id)


def test_more_windows_than_can_wait_are_left_to_the_broker_and_called_back(tmp_path: Path, toy_release: Path) -> None:
    """Beyond the 256th each was refused and acknowledged, while the model could not be run: the broker had no more."""
    model = started(config_of(tmp_path, toy_release))
    failing = unable(model, most=-1.0)
    client: Any = Acknowledged()
    windows = np.repeat(known_windows(toy_release, 0, 1), MOST_STUCK + 5, axis=0)
    told = heard(model, windows, receipt=Receipt(client, 7, 1))
    assert (told.answers, told.refused, client.ids, told.reconnects) == ({}, [], [], 0)
    failing.most = np.inf
    deadline_s = time.monotonic() + 60.0
    while not told.reconnects and time.monotonic() < deadline_s:
        model.serving.retry(time.monotonic())
    assert (len(told.answers), told.refused, told.reconnects) == (MOST_STUCK, [], 1)
    ended(model)


def test_at_qos_0_more_windows_than_can_wait_are_refused_for_no_broker_has_them(
    tmp_path: Path, toy_release: Path
) -> None:
    model = started(config_of(tmp_path, toy_release))
    unable(model, most=-1.0)
    told = heard(model, np.repeat(known_windows(toy_release, 0, 1), MOST_STUCK + 5, axis=0))
    assert told.refused == ["E_MODEL"] * 5
    ended(model)


def test_a_lone_window_that_no_model_can_be_run_on_ends_no_agent(tmp_path: Path, toy_release: Path) -> None:
    """On a quiet gateway nothing else is answered meanwhile; its self-test tells that the model is well."""
    model = started(config_of(tmp_path, toy_release))
    unable(model, most=4000.0)
    told = heard(model, known_windows(toy_release, 0, 1) + np.float32(5000.0))
    model.serving.retry(time.monotonic())
    assert (told.answers, told.refused) == ({}, [])
    model.serving.retry(time.monotonic() + LONGEST_STUCK_S)
    assert told.refused == ["E_MODEL"]
    assert list(model.live.health._bad) == [True]  # once, whatever was tried
    ended(model)


def test_a_window_that_no_model_can_be_run_on_stalls_no_stream(tmp_path: Path, toy_release: Path) -> None:
    model = started(config_of(tmp_path, toy_release))
    windows = known_windows(toy_release, 0, 6)
    windows[2, 0, 0] = 5000.0
    unable(model, most=4000.0)
    told = heard(model, windows)
    assert (sorted(told.answers), told.refused) == ([0, 1, 3, 4, 5], [])
    model.serving.retry(time.monotonic())
    assert told.refused == ["E_MODEL"]
    model.serving.retry(time.monotonic() + LONGEST_STUCK_S)  # nothing is left
    ended(model)


def rig_windows(name: str) -> list[Float32]:
    generator = np.random.default_rng(1)
    return list(rig.windows(rig.Run.draw(generator, 1100), name, 24, generator))


SPEC = WindowSpec(2, 4, 1000.0, max_abs=10.0)
SAMPLES = st.lists(st.floats(-12, 12, width=32) | st.just(np.nan) | st.just(0.0), min_size=8, max_size=8)


@given(st.lists(SAMPLES, min_size=1, max_size=6))
def test_windows_are_examined_together_as_they_are_one_by_one(rows: list[list[float]]) -> None:
    windows = np.array(rows, np.float32).reshape(-1, 2, 4)
    together = [_said(found) for found in examine(windows, SPEC)]
    assert together == [_said(examine(window[np.newaxis], SPEC)[0]) for window in windows]


def _said(found: Any) -> Any:
    return (found.code, found.reason) if isinstance(found, Refused) else found
