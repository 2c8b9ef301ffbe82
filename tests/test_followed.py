"""Which announcement a replica follows, and how it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from benchmarks import toy
from edge_agent.adapters.releases import Release, ReleaseStore, read_release
from edge_agent.commands import assembly
from edge_agent.commands.assembly import assemble
from edge_agent.config import read_config
from edge_agent.core.errors import BrokenRelease
from edge_agent.followed import RECORD, Announcement, FollowedModel, remember
from edge_agent.mqtt_link import Message
from edge_agent.settings import Config
from tests.disk_kit import fail
from tests.offline import quiet
from tests.plant import store_at

ORDERS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def announced(key: str, order: tuple[int, int]) -> Announcement:
    return Announcement(digest="0" * 64, hidden=(), order=(key, *order))


@given(ORDERS, ORDERS)
def test_of_one_installation_the_later_start_and_then_the_later_number_is_followed(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    assert announced("a", one).follows(announced("a", other)) is (one >= other)


@given(ORDERS, ORDERS)
def test_a_gateway_that_was_installed_anew_is_followed_though_it_counts_from_one(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    assert announced("b", one).follows(announced("a", other))


# A replica that starts


class Waited(Exception):
    """It would wait for its first release."""


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*_: object) -> None:
        raise Waited

    monkeypatch.setattr(assembly, "_await_release", wait)


def replica_of(folder: Path) -> Config:
    (folder / "agent.toml").write_text(
        '[gateway]\nname = "spare"\nstate_dir = "state"\nmode = "replica"\n[mqtt]\nshare = "press"\n'
        '[replica]\nof = "edge/press"\nsource = "https://localhost:1/x"\n'
    )
    (folder / "state").mkdir(exist_ok=True)
    return read_config(folder / "agent.toml")


def news(digest: str, number: int = 1) -> Announcement:
    return Announcement(digest=digest, hidden=(), order=("f", 1, number))


def followed(folder: Path, release: Path) -> Config:
    """A replica with one release, which is what was announced last."""
    config, store = replica_of(folder), store_at(folder / "state")
    digest = store.add(release).digest
    store.set_current(digest)
    remember(news(digest), folder / "state" / RECORD)
    return config


def model_of(config: Config) -> FollowedModel:
    (model,) = assemble(config).models
    assert isinstance(model, FollowedModel)
    return model


@pytest.mark.usefixtures(quiet.__name__, waits.__name__)
def test_one_that_was_stopped_before_its_first_release_came_waits_for_it_again(tmp_path: Path) -> None:
    """It had written down what was announced, took that for a release, and never started again."""
    config = replica_of(tmp_path)
    remember(news("a" * 64), tmp_path / "state" / RECORD)
    with pytest.raises(Waited):
        assemble(config)


@pytest.mark.usefixtures(quiet.__name__, waits.__name__)
def test_one_whose_only_release_is_damaged_waits_for_it_again(tmp_path: Path, toy_release: Path) -> None:
    config = followed(tmp_path, toy_release)
    model_of(config)
    (path,) = (tmp_path / "state" / "releases").glob("*/model.onnx.sealed")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(Waited):
        assemble(config)


@pytest.mark.usefixtures(quiet.__name__)
def test_a_release_that_cannot_work_is_fetched_ever_more_rarely_until_another_is_announced(
    tmp_path: Path, toy_release: Path
) -> None:
    """It came over the network every ten seconds, for ever, though its digest fixes every byte of it."""
    model = model_of(followed(tmp_path, toy_release))

    def broken(*_: object) -> Release:
        raise BrokenRelease("E_MODEL", "it fails its self-test")

    def next_try_s() -> float:
        model._again_s = float("-inf")
        model.poll(may_start=True)
        assert model._errand is not None
        assert model._errand.done.wait(20)
        with capture_logs() as logs:
            model.poll(may_start=True)
        return float(logs[-1]["next_try_s"])

    model.resume()
    model._fetch = broken
    model._follow(news("0" * 64, 2))
    assert [next_try_s() for _ in range(10)] == [20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    model._follow(news("1" * 64, 3))
    assert next_try_s() == 20


@pytest.mark.usefixtures(quiet.__name__)
def test_tidying_up_destroys_no_release_that_is_about_to_go_live(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = followed(tmp_path, toy_release)
    model = model_of(config)
    release = read_release(toy.twin(toy_release, tmp_path / "twin", name="twin"))
    monkeypatch.setattr(model, "_fetch", lambda *_: release)
    stray = model._store.add(toy.twin(toy_release, tmp_path / "stray", name="stray")).digest
    fail(monkeypatch, ReleaseStore, "remove", lambda name: name == stray)
    model.resume()  # one removal is left to do
    announced = news(release.digest, number=2).model_dump_json().encode()
    model.command("", Message("edge/press/release", announced, True, 0.0))
    model.poll(may_start=True)
    errand = model._errand
    assert errand is not None
    assert errand.done.wait(20)
    model.housekeep(1e9)
    model.poll(may_start=True)
    assert model.live.release.digest == release.digest
    model.housekeep(2e9)
    assert model._store.digests() == [release.digest]


@pytest.mark.usefixtures(quiet.__name__)
def test_a_label_that_an_earlier_session_at_the_broker_still_holds_is_refused(
    tmp_path: Path, toy_release: Path
) -> None:
    model = model_of(followed(tmp_path, toy_release))
    model.serving.serve([Message("edge/press/labels/m1", b'{"seq": 1, "class": "whine"}', False, 0.0)])
    assert model.tally.counters["refused_E_TOPIC"] == 1
