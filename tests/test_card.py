"""The card of a release: a consistent one comes back as written, any other bytes are ``E_CARD``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.core.errors import BrokenRelease
from edge_agent.core.margins import LEVELS
from edge_agent.schemas.card import SELF_TEST_WINDOWS, digest, parse_card, self_test_windows

FIELDS: dict[str, Any] = {
    "format": 1,
    "name": "press",
    "classes": ["NC", "IF-1", "OR007@6"],
    "forgotten": ["IF-1"],
    "channels": ["x", "y"],
    "length": 64,
    "rate_hz": 1000.0,
    "unit": "m/s^2",
    "architecture": "resnet18_1d",
    "width": 8,
    "parent": None,
    "channel_mean": [0.0, 1.0],
    "channel_std": [1.0, 2.0],
    "energy_floor": -3.5,
    "margins": [{"recall": 0.9, "quantiles": [2.0] * len(LEVELS)}, {}, {"recall": 0.0, "quantiles": []}],
    "metrics": {"test_accuracy": 99.0},
    "self_test": [[0.0, 1.0, 2.0]] * SELF_TEST_WINDOWS,
    "files": {"model.onnx": "0" * 64, "weights.safetensors": "1" * 64},
    "versions": {"torch": "2"},
    "notes": "",
}


def _bytes(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in {**FIELDS, **changes}.items() if value is not ...}).encode()


def _refusal(content: bytes) -> BrokenRelease:
    with pytest.raises(BrokenRelease) as caught:
        parse_card(content)
    assert caught.value.code == "E_CARD"
    return caught.value


def test_a_card_comes_back_as_it_was_written() -> None:
    card = parse_card(_bytes())
    again = parse_card(card.to_bytes())
    assert again == card
    assert digest(again.to_bytes()) == digest(card.to_bytes())


def test_the_digest_is_that_of_the_bytes() -> None:
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(_bytes()) != digest(_bytes(notes="edited"))


def test_forgotten_classes_do_not_live_but_keep_their_output() -> None:
    card = parse_card(_bytes())
    assert card.living == ("NC", "OR007@6")
    assert card.indices(("OR007@6", "IF-1")) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ...}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"format": 2}, "format"),
        ({"pickle": "x"}, "pickle"),
        ({"classes": ["NC"], "forgotten": []}, "classes"),
        ({"classes": ["NC", "NC", "a"]}, "distinct"),
        ({"classes": ["NC", "IF-1", "a/b"]}, "distinct names"),
        ({"classes": ["NC", "IF-1", "a,b"]}, "distinct names"),
        ({"forgotten": ["OF-9"]}, "forgotten class is not in classes"),
        ({"channels": []}, "channels"),
        ({"channels": ["x"]}, "different lengths"),
        ({"channel_std": [1.0]}, "different lengths"),
        ({"channel_mean": [0.0, 0.0, 0.0]}, "different lengths"),
        ({"length": 0}, "length"),
        ({"length": 10.5}, "length"),
        ({"length": 1 << 20}, "a window has 8388608 bytes, at most 4128768 fit a message"),
        ({"rate_hz": 0}, "rate_hz"),
        ({"width": 0}, "width"),
        ({"margins": []}, "margins are of 0 classes, expected 3"),
        ({"margins": [{}, {}, {"recall": 1.0, "quantiles": [1.0, 2.0]}]}, f"margins are not {len(LEVELS)} numbers"),
        ({"margins": [{"recall": 1.1}, {}, {}]}, "recall is not between 0 and 1"),
        ({"margins": [{"recall": -0.1}, {}, {}]}, "recall is not between 0 and 1"),
        ({"margins": [{"quantiles": [*[2.0] * (len(LEVELS) - 1), 1.0]}, {}, {}]}, "do not rise"),
        ({"margins": [{"quantiles": [-1.0, *[2.0] * (len(LEVELS) - 1)]}, {}, {}]}, "do not rise"),
        ({"margins": [{"quantiles": [float("nan"), *[2.0] * (len(LEVELS) - 1)]}, {}, {}]}, "quantiles"),
        ({"energy_floor": None}, "energy_floor"),
        ({"energy_floor": float("nan")}, "energy_floor"),
        ({"rate_hz": float("inf")}, "rate_hz"),
        ({"metrics": {"test_accuracy": float("nan")}}, "metrics.test_accuracy"),
        ({"self_test": [[0.0, 1.0, 2.0]] * 3}, "4 rows of 3 logits"),
        ({"self_test": [[0.0, 1.0, 2.0]] * 3 + [[0.0, 1.0]]}, "4 rows of 3 logits"),
        ({"self_test": [[0.0, 1.0, 2.0]] * 3 + [[0.0, 1.0, float("inf")]]}, "self_test"),
        ({"files": {"model.onnx": "0"}}, "files must be"),
        ({"files": {**FIELDS["files"], "../../etc/passwd": "0"}}, "files must be"),
        ({"files": {**FIELDS["files"], "card.json": "0"}}, "files must be"),
    ],
)
def test_an_inconsistent_card_is_refused_with_what_is_wrong(changes: dict[str, Any], words: str) -> None:
    assert words in _refusal(_bytes(**changes)).reason


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"name":"' + b"9" * 9999]
)
def test_what_is_no_card_is_refused(content: bytes) -> None:
    assert len(_refusal(content).reason) < 400


@given(content=st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_refused_in_one_way(content: bytes) -> None:
    _refusal(content)


@given(
    key=st.sampled_from(sorted(FIELDS)),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
)
@settings(max_examples=400)
def test_a_card_with_any_one_value_is_refused_or_consistent(key: str, value: Any) -> None:
    try:
        card = parse_card(_bytes(**{key: value}))
    except BrokenRelease:
        return
    assert parse_card(card.to_bytes()) == card
    assert set(card.forgotten) <= set(card.classes)
    assert np.array(card.self_test).shape == (SELF_TEST_WINDOWS, len(card.classes))
    assert len(card.channels) == len(card.channel_mean) == len(card.channel_std)


def test_a_card_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        parse_card(_bytes()).name = "other"  # type: ignore[misc]


@given(
    mean=st.lists(st.floats(-100, 100), min_size=1, max_size=5),
    length=st.integers(1, 300),
)
@settings(max_examples=50)
def test_self_test_windows_are_the_same_every_time_and_lie_around_the_mean(mean: list[float], length: int) -> None:
    std = [2.0] * len(mean)
    windows = self_test_windows(mean, std, length)
    assert windows.shape == (SELF_TEST_WINDOWS, len(mean), length)
    assert windows.dtype == np.float32
    assert np.array_equal(windows, self_test_windows(mean, std, length))
    assert np.abs(windows - np.reshape(mean, (1, -1, 1))).max() <= 1.5 * 2.0 + 1e-4


def test_self_test_windows_differ_from_each_other_in_every_channel() -> None:
    windows = self_test_windows([0.0, 0.0], [1.0, 1.0], 64)
    for first in range(SELF_TEST_WINDOWS):
        for second in range(first):
            assert np.abs(windows[first] - windows[second]).max(axis=1).min() > 0.1
    assert np.abs(windows[:, 0] - windows[:, 1]).max(axis=1).min() > 0.1
