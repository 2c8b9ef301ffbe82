"""The live model: what it adopts, what it refuses, what it hides. The models are small graphs made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_agent.adapters.releases import Release, write_card
from edge_agent.core.errors import BrokenRelease
from edge_agent.files import sha256
from edge_agent.live import LiveModel
from edge_agent.schemas.card import MODEL, WEIGHTS, Card, self_test_windows
from tests.plant import store_at

CLASSES = ("a", "b", "c")
Make = Callable[..., Release]


def graph(path: Path, function: str, outputs: int, batch: str | int) -> None:
    """``logits = [f(mean), 0, ... ]`` over each window, f being Log or Identity."""
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, [outputs - 1], [0.0] * (outputs - 1))
    nodes = [
        helper.make_node("ReduceMean", ["windows"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node(function, ["mean"], ["value"]),
        helper.make_node("Unsqueeze", ["value", "one"], ["column"]),
        helper.make_node("Mul", ["column", "zeros"], ["rest"]),
        helper.make_node("Concat", ["column", "rest"], ["logits"], axis=1),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    windows = helper.make_tensor_value_info("windows", TensorProto.FLOAT, [batch, 2, 64])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, outputs])
    made = helper.make_graph(nodes, "g", [windows], [logits], [zeros, one])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a release in the store of ``tmp_path/state``."""

    def release(
        function: str = "Identity", outputs: int = 3, off: float = 0.0, batch: str | int = "n", **card: object
    ) -> Release:
        folder = tmp_path / f"release-{function}-{outputs}-{off}-{batch}-{len(card)}"
        folder.mkdir()
        graph(folder / MODEL, function, outputs, batch)
        (folder / WEIGHTS).write_bytes(b"none")
        means = self_test_windows((5.0, 5.0), (1.0, 1.0), 64).mean(axis=(1, 2))
        first = np.log(means) if function == "Log" else means
        content = {
            "name": "toy",
            "classes": CLASSES,
            "channels": ("x", "y"),
            "length": 64,
            "rate_hz": 100.0,
            "unit": "g",
            "architecture": "resnet18_1d",
            "width": 4,
            "channel_mean": (5.0, 5.0),
            "channel_std": (1.0, 1.0),
            "energy_floor": 0.5,
            "margins": [{}] * 3,
            "self_test": [[float(value) + off, 0.0, 0.0] for value in first],
            "files": {name: sha256(folder / name) for name in (MODEL, WEIGHTS)},
        }
        write_card(folder, Card.model_validate({**content, **card}))
        return store_at(tmp_path / "state").add(folder)

    return release


@pytest.fixture
def live(tmp_path: Path) -> LiveModel:
    return LiveModel(store_at(tmp_path / "state"), threads=1, max_abs=100.0)


def test_a_release_is_adopted_and_current_points_to_it(live: LiveModel, make: Make, tmp_path: Path) -> None:
    release = make()
    live.adopt(release)
    assert store_at(tmp_path / "state").current() == release.digest
    assert (live.spec.channels, live.spec.length, live.spec.max_abs) == (2, 64, 100.0)


@pytest.mark.parametrize(
    ("options", "words"), [({"outputs": 4}, "shape"), ({"off": 0.01}, "differ by 0.01"), ({"batch": 4}, "cannot run")]
)
def test_a_model_that_fails_its_self_test_is_refused_and_the_old_one_stays(
    live: LiveModel, make: Make, tmp_path: Path, options: dict[str, float], words: str
) -> None:
    good = make()
    live.adopt(good)
    with pytest.raises(BrokenRelease, match=rf"E_MODEL.*{words}"):
        live.adopt(make(**options))
    assert live.release is good
    assert store_at(tmp_path / "state").current() == good.digest


def test_a_release_that_knows_an_erased_class_is_refused_unless_it_has_forgotten_it(
    live: LiveModel, make: Make
) -> None:
    with pytest.raises(BrokenRelease, match="E_ERASED"):
        live.adopt(make(), frozenset({"a"}))
    live.adopt(make(forgotten=("a",)), frozenset({"a"}))


def test_hidden_classes_have_no_part_in_an_answer_and_the_others_share_the_probability(
    live: LiveModel, make: Make
) -> None:
    live.adopt(make())
    windows = np.full((1, 2, 64), 9.0, np.float32)
    shown = live.answer(windows)[0]
    live.hide(frozenset({"a"}))
    hidden = live.answer(windows)[0]
    assert shown is not None
    assert hidden is not None
    assert shown.top[0][0] == "a"
    assert shown.top[0][1] > 0.99
    assert dict(hidden.top) == {"b": pytest.approx(0.5), "c": pytest.approx(0.5)}
    assert live.masked == ("a",)


def test_a_hidden_class_is_not_named_where_the_others_are_as_improbable(live: LiveModel, make: Make) -> None:
    """Far behind the first all probabilities are 0.0, the hidden one's too, and by its place it came before them."""
    live.adopt(make())
    live.hide(frozenset({"b"}))
    answer = live.answer(np.full((1, 2, 64), 1e5, np.float32))[0]
    assert answer is not None
    assert [name for name, _ in answer.top] == ["a", "c"]
    assert answer.top[1][1] == 0.0


def test_the_energy_is_the_log_sum_exp_and_a_low_one_is_unusual(live: LiveModel, make: Make) -> None:
    live.adopt(make(energy_floor=2.0))
    low, high = live.answer(np.stack([np.full((2, 64), value, np.float32) for value in (0.0, 9.0)]))
    assert low is not None
    assert high is not None
    assert low.energy == pytest.approx(np.log(3.0))
    assert (low.unusual, high.unusual) == (True, False)


def test_an_output_that_is_not_finite_gives_no_answer_and_spares_its_neighbours(live: LiveModel, make: Make) -> None:
    live.adopt(make("Log"))
    answers = live.answer(np.stack([np.full((2, 64), value, np.float32) for value in (2.0, -1.0, 3.0)]))
    assert [answer is None for answer in answers] == [False, True, False]


def test_a_model_whose_self_test_is_not_finite_does_not_go_live(live: LiveModel, make: Make) -> None:
    with pytest.raises(BrokenRelease, match="logits differ by nan"):
        live.adopt(make("Log", channel_mean=(-1.0, -1.0)))


def test_what_an_accelerator_compiled_of_another_release_is_gone_when_one_goes_live(make: Make, tmp_path: Path) -> None:
    engines = tmp_path / "engines"
    live = LiveModel(store_at(tmp_path / "state"), threads=1, max_abs=100.0, engines=engines)
    first, second = make(), make("Log")
    for release in (first, second):
        (engines / release.digest).mkdir(parents=True)
        (engines / release.digest / "main.engine").touch()
    live.adopt(first)
    assert [folder.name for folder in engines.iterdir()] == [first.digest]
    live.adopt(second)
    assert list(engines.iterdir()) == []
