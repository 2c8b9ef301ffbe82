"""What the page makes of what it hears, whoever says it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import toy
from edge_agent.commands.client import Heard
from edge_agent.page.asking import FAILURES, Doorman
from edge_agent.page.pictures import picture
from edge_agent.page.plant import HISTORY_S, MOST_ASSETS, MOST_JOBS, MOST_REFUSED, Model, Plant
from edge_agent.schemas.certificate import KIND, VERSION
from edge_agent.schemas.heard import LiveRelease
from edge_agent.schemas.topics import Topics
from edge_agent.settings import OWN_MODEL
from edge_agent.signing import Signer

BASE = "edge/toy"
NOON = "2026-11-26T12:00:00+00:00"
CARD = {
    "digest": "a" * 64,
    "name": "toy",
    "classes": list(toy.CLASSES),
    "channels": list(toy.CHANNELS),
    "length": toy.LENGTH,
    "rate_hz": toy.RATE_HZ,
    "unit": "m/s^2",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=6),
    max_leaves=12,
)
TOPICS = ["diagnosis/m1", "status", "release", "unlearn/hum/status", "unlearn/hum/certificate", "refused", "windows/m1"]


def page_plant() -> Plant:
    pumps = Model("toy/models/pumps", Topics(f"{BASE}/models/pumps"))
    return Plant("toy", Topics(BASE), {OWN_MODEL: Model("toy", Topics(BASE)), "pumps": pumps}, utc=lambda: NOON)


def heard(topic: str, content: Any, *, retained: bool = False) -> Heard:
    return Heard(f"{BASE}/{topic}", content, retained, json.dumps(content).encode())


def diagnosis(asset: str = "m1", **change: Any) -> Heard:
    content = {
        "asset": asset, "boot": "b", "seq": 7, "class": "hum", "confidence": 0.9, "top": [["hum", 0.9], ["chirp", 0.1]],
        "energy": 3.0, "flags": [], "masked": [], "release": "a" * 64, "latency_ms": 2.5, **change,
    }  # fmt: skip
    return heard(f"diagnosis/{asset}", content)


def status(**change: Any) -> Heard:
    content = {"id": "c-1", "classes": ["hum"], "status": "executing", "phase": "probing", "progress": 0.1, **change}
    return heard(f"unlearn/{','.join(content['classes'])}/status", content)


def test_the_last_answer_and_the_seconds_of_an_asset_are_kept() -> None:
    plant = page_plant()
    plant.hear([diagnosis(), diagnosis(confidence=0.5), diagnosis(**{"class": "chirp"})], 100.2)
    plant.hear([diagnosis(confidence=0.6, flags=["unusual"], latency_ms=4.5)], 101.4)
    live = plant.live("m1", float("-inf"), 101.5)
    assert live["history"] == [[-1.5, "hum", 0.7667, 3, 0], [-0.5, "hum", 0.6, 1, 1]]
    assert live["assets"][0] | {"age_s": 0.1, "class": "hum", "confidence": 0.6} == live["assets"][0]
    assert (live["per_s"], live["p50_ms"]) == (0.4, 2.5)
    assert [row[0] for row in plant.live("m1", 101, 101.5)["history"]] == [-0.5]


def test_history_assets_commands_and_refusals_are_bounded() -> None:
    plant = page_plant()
    for second in range(HISTORY_S + 50):
        plant.hear([diagnosis()], float(second))
    assert len(plant.live("m1", float("-inf"), 400.0)["history"]) == HISTORY_S
    plant.hear([diagnosis(f"a{number}") for number in range(MOST_ASSETS + 20)], 400.0)
    assert len(plant.assets) == MOST_ASSETS
    plant.hear([status(id=str(number), classes=[f"c{number}"]) for number in range(MOST_JOBS + 9)], 400.0)
    rejected = [status(status="rejected", classes=[f"c{number}"]) for number in range(MOST_REFUSED + 9)]
    plant.hear(rejected + [heard("refused", {"code": "E_SIZE"})] * 99, 400.0)
    shown = plant.state()["models"][OWN_MODEL]
    assert (len(shown["jobs"]), len(shown["rejected"])) == (MOST_JOBS, MOST_REFUSED)
    assert len(plant.refused) == MOST_REFUSED


def test_a_refused_command_does_not_take_the_place_of_the_one_before() -> None:
    plant = page_plant()
    plant.hear([status(status="successful", phase="done"), status(id="c-2", status="rejected", code="E_GONE")], 0.0)
    shown = plant.state()["models"][OWN_MODEL]
    assert [job["id"] for job in shown["jobs"]] == ["c-1"]
    assert [(job["id"], job["heard"]) for job in shown["rejected"]] == [("c-2", NOON)]


@pytest.mark.parametrize("topic", ["refused", "unlearn/hum/status", "status"])
def test_numbers_that_no_browser_reads_are_not_passed_on(topic: str) -> None:
    # A NaN in a retained status would end every browser's event stream.
    plant = page_plant()
    content = {"id": "c", "classes": ["hum"], "status": "failed", "state": "online", "metrics": {"x": [float("nan")]}}
    plant.hear([heard(topic, content)], 0.0)
    assert plant.unreadable == 1
    json.dumps(plant.state(), allow_nan=False)


@given(st.sampled_from(TOPICS), JSON)
def test_whatever_is_published_is_taken_or_counted(topic: str, content: Any) -> None:
    plant = page_plant()
    plant.watched["m1"] += 1
    plant.hear([diagnosis(), heard("release", CARD), heard(topic, content)], 0.0)
    json.dumps([plant.state(), plant.live("m1", float("-inf"), 1.0)], allow_nan=False)


def certificate(signer: Signer, classes: list[str], id_: str = "c-1", **other: Any) -> Heard:
    content = {"kind": KIND, "version": VERSION, "gateway": "toy", "command": {"id": id_, "classes": classes}}
    document = signer.document(content | other)
    return Heard(f"{BASE}/unlearn/hum/certificate", json.loads(document), True, document)


def test_a_certificate_is_verified_with_the_key_of_the_birth() -> None:
    plant, signer = page_plant(), Signer.of_seed(bytes(32))
    model, heard_of = plant.models[OWN_MODEL], certificate(signer, ["hum"])
    assert plant.verified(model, "hum") == {"verified": False, "problem": "there is no certificate"}
    plant.hear([heard_of], 0.0)
    assert not plant.verified(model, "hum")["verified"]
    plant.hear([heard("status", {"state": "online", "public_key": signer.public.pem})], 0.0)
    verdict = plant.verified(model, "hum")
    assert verdict == {"verified": True, "key": signer.public.fingerprint, "content": heard_of.content["content"]}
    model.certificates["hum"] = model.certificates["hum"].replace(b'"toy"', b'"toi"')
    assert not plant.verified(model, "hum")["verified"]
    plant.hear([Heard(f"{BASE}/unlearn/hum/certificate", None, True, b"")], 0.0)
    assert plant.state()["models"][OWN_MODEL]["certificates"] == []


@pytest.mark.parametrize(("classes", "id_"), [(["chirp"], "c-1"), (["hum"], "c-2"), (["hum", "chirp"], "c-1")])
def test_a_certificate_of_another_command_proves_nothing_of_this_one(classes: list[str], id_: str) -> None:
    """Found in a review: whatever the gateway had signed was shown as verified, for whichever class."""
    plant, signer = page_plant(), Signer.of_seed(bytes(32))
    birth = heard("status", {"state": "online", "public_key": signer.public.pem})
    plant.hear([birth, status(status="successful"), certificate(signer, classes, id_)], 0.0)
    verdict = plant.verified(plant.models[OWN_MODEL], "hum")
    assert not verdict["verified"]
    assert "it is that of command" in verdict["problem"]


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"gateway": "press-9"}, "on 'press-9'"),
        ({"kind": "receipt"}, f"no {KIND} of version"),
        ({"version": VERSION + 1}, f"no {KIND} of version"),
    ],
)
def test_what_else_the_key_has_signed_is_no_certificate(other: dict[str, Any], problem: str) -> None:
    """Its kind, its version and its gateway were not looked at: another document about the command was shown as one."""
    plant, signer = page_plant(), Signer.of_seed(bytes(32))
    birth = heard("status", {"state": "online", "public_key": signer.public.pem})
    plant.hear([birth, certificate(signer, ["hum"], **other)], 0.0)
    verdict = plant.verified(plant.models[OWN_MODEL], "hum")
    assert not verdict["verified"]
    assert problem in verdict["problem"]


def test_a_certificate_of_a_further_model_names_it_as_a_gateway_of_its_own() -> None:
    plant, signer = page_plant(), Signer.of_seed(bytes(32))
    base = f"{BASE}/models/pumps"
    birth = json.dumps({"state": "online", "public_key": signer.public.pem}).encode()
    document = certificate(signer, ["hum"], gateway="toy/models/pumps")
    plant.hear([Heard(f"{base}/status", json.loads(birth), True, birth)], 0.0)
    plant.hear([replace(document, topic=f"{base}/unlearn/hum/certificate")], 0.0)
    assert plant.verified(plant.models["pumps"], "hum")["verified"]


def test_a_will_leaves_what_the_agent_said_of_itself() -> None:
    """Found in a review: a killed agent's page showed no cached windows, as if they had been destroyed."""
    plant = page_plant()
    plant.hear([heard("status", {"state": "online", "cached": {"hum": 5}, "public_key": "k"})], 0.0)
    plant.hear([heard("status", {"state": "offline", "session": 1, "gateway": "toy"})], 1.0)
    assert plant.state()["agent"] == "offline"
    assert plant.state()["models"][OWN_MODEL]["cached"] == {"hum": 5}


def test_sums_of_what_is_published_stay_numbers() -> None:
    """Found in a review: latencies near the largest float summed up to infinity, and ended every browser's stream."""
    plant = page_plant()
    plant.hear([diagnosis(latency_ms=1.5e308)] * 40, 0.0)
    assert plant.unreadable == 40
    plant.hear([diagnosis(latency_ms=1e9)] * 40, 0.0)
    json.dumps(plant.live("m1", float("-inf"), 1.0), allow_nan=False)


def test_a_window_is_kept_only_of_an_asset_that_somebody_looks_at() -> None:
    plant = page_plant()
    samples = toy.windows(0, 1, np.random.default_rng(0))[0]
    window = Heard(f"{BASE}/windows/m1", None, False, toy.message(7, None, samples))
    plant.hear([heard("release", CARD), diagnosis(), window], 0.0)
    assert plant.picture("m1") is None
    plant.watched["m1"] += 1
    plant.hear([window], 0.0)
    shown = plant.picture("m1")
    assert shown is not None
    answer = plant.diagnosis_of(shown)
    assert answer is not None
    assert answer.class_ == "hum"


@pytest.mark.parametrize(
    ("rpm", "of_card", "expected"), [(1200.0, None, 20.0), (None, 600.0, 10.0), (None, None, None)]
)
def test_fault_frequencies_are_marked_where_somebody_says_how_fast_the_shaft_turns(
    rpm: float | None, of_card: float | None, expected: float | None
) -> None:
    bearing = {"elements": 9, "element_mm": 7.94, "pitch_mm": 39.04}
    release = LiveRelease.model_validate({**CARD, "bearing": bearing, "shaft_rpm": of_card})
    samples = toy.windows(0, 1, np.random.default_rng(0))[0]
    content = json.loads(picture("m1", toy.message(1, None, samples, rpm=rpm), release).content)
    shaft_hz = content["faults"]["FTF"] / 0.39831 if content["faults"] else None
    assert shaft_hz == (pytest.approx(expected, rel=1e-3) if expected else None)
    assert np.allclose(content["samples"], samples, atol=1e-3)


def test_a_wrong_token_opens_nothing_and_many_of_them_shut_the_door_for_a_while() -> None:
    door = Doorman("secret", "", signed_only=False)
    assert door.refusal("Bearer secret", "") is None
    for _ in range(FAILURES):
        assert door.refusal("Bearer guess", "") == "the token is wrong"
    assert "too many" in (door.refusal("Bearer secret", "") or "")
    assert "secret" not in repr(door)


@pytest.mark.parametrize(
    ("door", "user", "words"),
    [
        (Doorman(None, "", signed_only=False), "", "nobody may ask here"),
        (Doorman(None, "", signed_only=False), "eve", "nobody may ask here"),
        (Doorman(None, "X-User", signed_only=False), "", "nobody may ask here"),
        (Doorman(None, "X-User", signed_only=False), "anna", None),
        (Doorman("secret", "X-User", signed_only=True), "anna", "signed commands only"),
    ],
)
def test_who_may_act_is_decided_by_token_or_proxy(door: Doorman, user: str, words: str | None) -> None:
    refusal = door.refusal("Bearer wrong", user)
    assert (refusal is None) if words is None else words in (refusal or "")
