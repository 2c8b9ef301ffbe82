"""The agent as a process, at a real broker: windows in, diagnoses out."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks import toy
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import read_release
from edge_agent.commands.client import connected
from edge_agent.commands.local import LocalAgent, LocalBroker, free_port
from edge_agent.core.types import Window
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.windows import encode
from edge_agent.signing import Signer
from tests.plant import Plant, damage, plant_at, toy_agent, wait_until

Start = Callable[..., LocalAgent]


def test_every_window_is_answered_with_the_class_that_onnx_runtime_gives_offline(
    start_agent: Start, plant: Plant, toy_release: Path
) -> None:
    start_agent()
    windows = toy.dataset(seed=3).test.windows
    answers = plant.answers([plant.send(row) for row in windows])
    offline = OnnxModel((toy_release / "model.onnx").read_bytes(), 1).logits(windows).argmax(axis=1)
    assert [row["class"] for row in answers] == [toy.CLASSES[label] for label in offline]
    assert all(row["release"] == read_release(toy_release).digest for row in answers)


def test_a_diagnosis_says_how_sure_it_is_and_what_else_it_may_be(start_agent: Start, plant: Plant) -> None:
    start_agent()
    row = plant.answers(plant.feed(2, 1))[0]
    assert row["asset"] == "m1"
    assert row["boot"] == "boot-1"
    assert row["top"][0][0] == row["class"]
    assert len(row["top"]) == 3
    assert 0 < row["confidence"] <= 1
    assert sum(value for _, value in row["top"]) <= 1.0001
    assert row["masked"] == []
    assert row["latency_ms"] >= 0


def test_windows_whose_energy_is_below_the_floor_of_the_card_are_flagged_as_unusual(
    start_agent: Start, plant: Plant, toy_release: Path
) -> None:
    start_agent()
    noise = np.random.default_rng(0).standard_normal((60, 3, 256)).astype(np.float32)
    answers = plant.answers([plant.send(row) for row in noise])
    floor = read_release(toy_release).card.energy_floor
    assert [("unusual" in row["flags"]) for row in answers] == [row["energy"] < floor for row in answers]
    assert any("unusual" in row["flags"] for row in answers)


def test_a_raw_window_is_answered_like_a_cbor_window(start_agent: Start, plant: Plant) -> None:
    start_agent()
    samples = toy.windows(1, 1, np.random.default_rng(0))[0]
    cbor = plant.answers([plant.send(samples)])[0]
    plant.raw("windows/m2", samples.astype("<f4").tobytes())
    raw = plant.expect("diagnosis/m2")
    assert (raw["class"], raw["confidence"]) == (cbor["class"], cbor["confidence"])


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "E_SIZE"),
        (b"x" * 100, "E_SIZE"),
        (b"x" * 100_000, "E_SIZE"),
        (b"\xa1" * 50, "E_CBOR"),
        (np.full((3, 256), np.nan, "<f4").tobytes(), "E_NOT_FINITE"),
        (np.full((3, 256), 1e9, "<f4").tobytes(), "E_RANGE"),
    ],
)
def test_a_bad_window_is_refused_with_its_code_and_the_next_one_is_answered(
    start_agent: Start, plant: Plant, payload: bytes, code: str
) -> None:
    start_agent()
    plant.raw("windows/m1", payload)
    line = plant.expect("refused", code=code)
    assert line["bytes"] == len(payload)
    assert "payload" not in line
    plant.answers(plant.feed(0, 1))
    wait_until(lambda: plant.find("status") and _refusals(plant, code), 15)


def _refusals(plant: Plant, code: str) -> bool:
    return any(row["counters"].get(f"refused_{code}") == 1 for row in plant.find("status", state="online"))


def test_a_bad_asset_name_is_refused(start_agent: Start, plant: Plant) -> None:
    start_agent()
    plant.raw("windows/a$b", toy.windows(0, 1, np.random.default_rng(0))[0].tobytes())
    plant.expect("refused", code="E_ASSET")


def test_a_retained_window_is_refused(start_agent: Start, plant: Plant) -> None:
    start_agent()
    plant.raw("windows/m1", toy.windows(0, 1, np.random.default_rng(0))[0].tobytes(), retain=True)
    plant.expect("refused", code="E_RETAINED")


def test_a_gap_and_a_repeat_in_the_sequence_are_flagged(start_agent: Start, plant: Plant) -> None:
    start_agent()
    samples = toy.windows(0, 1, np.random.default_rng(0))[0]
    for seq in (1, 2, 5, 5):
        plant.send(samples, seq=seq)
    wait_until(lambda: len(plant.find("diagnosis/m1")) == 4)
    assert [row["flags"] for row in plant.find("diagnosis/m1")] == [[], [], ["gap"], ["repeat"]]


def test_raw_windows_of_two_assets_are_not_taken_for_gaps(start_agent: Start, plant: Plant) -> None:
    """Raw windows carry no number; the agent's own counter served all assets, so each looked like a gap."""
    start_agent()
    payload = toy.windows(0, 1, np.random.default_rng(0))[0].astype("<f4").tobytes()
    for asset in ("m1", "m2", "m1", "m2"):
        plant.raw(f"windows/{asset}", payload)
    wait_until(lambda: len(plant.find("diagnosis/m1")) == len(plant.find("diagnosis/m2")) == 2)
    assert [row["flags"] for row in plant.find("diagnosis/m1") + plant.find("diagnosis/m2")] == [[]] * 4


def test_garbage_on_every_topic_is_acknowledged_so_that_the_stream_never_stalls(
    start_agent: Start, plant: Plant
) -> None:
    """With eight messages in flight, eight that were never acknowledged would stop everything."""
    agent = start_agent("in_flight = 8")
    chance = np.random.default_rng(0)
    good = encode(Window("m1", "b", 1, 0, "hum", toy.windows(0, 1, chance)[0]), toy.RATE_HZ, "m/s^2")
    for number in range(400):
        payload = bytearray(good if number % 2 else chance.bytes(int(chance.integers(0, 4000))))
        for _ in range(8):
            if payload:
                payload[int(chance.integers(min(len(payload), 200)))] = int(chance.integers(256))
        topic = ("windows/m1", "labels/m1", "unlearn/hum", f"unlearn/{'x' * 65_500}", "windows/a b")[number % 5]
        plant.raw(topic, bytes(payload))
    answers = plant.answers(plant.feed(0, 20, seed=4))
    assert len(answers) == 20
    assert agent.process.poll() is None
    assert not agent.events("message.lost")


@pytest.mark.parametrize("protocol", ["auto", "5"])
def test_a_message_that_the_client_cannot_read_does_not_stop_the_stream(
    start_agent: Start, plant: Plant, protocol: str
) -> None:
    """The broker lets U+FEFF in a user property pass, paho hangs up on it, and the message came again for a week."""
    agent = start_agent(f'protocol = "{protocol}"')
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("note", "\ufeff")
    plant.client.client.publish("edge/toy/windows/m1", b"x", qos=1, properties=properties)
    plant.expect("refused", code="E_SIZE")
    plant.answers(plant.feed(0, 10))
    assert agent.events("message.garbled")


def test_labelled_windows_are_cached_and_a_later_label_caches_a_window_seen_before(
    start_agent: Start, plant: Plant
) -> None:
    agent = start_agent()
    plant.answers(plant.feed(0, 5))
    seq = plant.feed(3, 1, labelled=False)[0]
    plant.raw("labels/m1", json.dumps({"seq": seq, "class": "squeal"}).encode())
    plant.raw("labels/m1", json.dumps({"seq": 999, "class": "squeal"}).encode())
    plant.expect("refused", code="E_NOT_CACHED")
    agent.stop()
    status = plant.expect("status", state="offline")
    assert status["cached"] == {"hum": 5, "rattle": 0, "whine": 0, "squeal": 1, "chirp": 0}


def test_confident_diagnoses_are_cached_only_if_configured(start_agent: Start, plant: Plant) -> None:
    agent = start_agent("[cache]\nfrom_diagnosis = true\nmin_confidence = 0.5")
    answers = plant.answers(plant.feed(2, 40, labelled=False))
    agent.stop()
    sure = [row["class"] for row in answers if row["confidence"] >= 0.5 and "unusual" not in row["flags"]]
    assert sure.count("whine") > 0
    assert plant.expect("status", state="offline")["cached"]["whine"] == sure.count("whine")


def test_a_cache_that_cannot_be_written_stops_no_answer(start_agent: Start, plant: Plant) -> None:
    """A limit on the size of files stands in for a full disk: both make the write fail."""
    agent = start_agent()
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (60_000, most))
    plant.answers(plant.feed(0, 64))
    assert agent.events("cache.failed")[0]["code"] == "E_STORAGE"
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (most, most))
    plant.answers(plant.feed(1, 40))
    agent.stop()
    status = plant.expect("status", state="offline")
    assert status["cached"]["hum"] < 64
    assert status["cached"]["rattle"] == 40
    assert status["counters"]["cache_failures"] == 64 - status["cached"]["hum"]


def test_windows_sent_while_the_agent_is_away_are_answered_when_it_returns(start_agent: Start, plant: Plant) -> None:
    agent = start_agent()
    agent.stop()
    seqs = plant.feed(1, 50)
    assert not plant.find("diagnosis/m1")
    agent.start()
    plant.answers(seqs)


def test_no_window_is_lost_when_the_agent_is_killed(start_agent: Start, plant: Plant) -> None:
    agent = start_agent()
    seqs = []
    for turn in range(3):
        seqs += plant.feed(turn, 100, seed=turn)
        agent.kill()
        agent.start()
    plant.answers(seqs)


def test_the_agent_waits_for_a_broker_that_is_absent_at_its_start(tmp_path: Path, toy_release: Path) -> None:
    port = free_port()
    agent = toy_agent(tmp_path / "agent", port, toy_release)
    wait_until(lambda: agent.events("broker.disconnected"))
    broker = LocalBroker(tmp_path / "broker", port)
    try:
        agent.ready()
        with plant_at(port) as plant:
            plant.answers(plant.feed(0, 3))
        assert agent.stop() == 0
    finally:
        agent.kill()
        broker.stop()


def test_the_agent_reconnects_after_the_broker_was_killed_and_publishes_its_state_again(
    start_agent: Start, broker: LocalBroker
) -> None:
    agent = start_agent()
    broker.kill()
    broker.start()
    agent.ready(times=2)
    with plant_at(broker.port) as plant:
        assert plant.expect("status", state="online")["gateway"] == "toy"
        assert plant.expect("release")["classes"] == list(toy.CLASSES)
        plant.answers(plant.feed(0, 3))


def test_the_will_says_offline_with_the_session_of_the_birth(start_agent: Start, plant: Plant) -> None:
    agent = start_agent()
    session = plant.expect("status", state="online")["session"]
    agent.kill()
    assert plant.expect("status", state="offline")["session"] == session
    agent.start()
    wait_until(lambda: plant.status()["session"] > session)


def test_sigterm_ends_the_agent_cleanly(start_agent: Start, plant: Plant) -> None:
    agent = start_agent()
    plant.answers(plant.feed(0, 10))
    assert agent.stop() == 0
    assert agent.events("agent.stopped")[0]["windows_answered"] == 10
    plant.expect("status", state="offline")


def test_sighup_takes_over_what_it_can_and_refuses_the_rest_with_the_key(start_agent: Start) -> None:
    agent = start_agent()
    good = agent.config.read_text()
    agent.config.write_text(good + "[serving]\nmax_abs = 5.0\n")
    agent.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: agent.events("config.reloaded"))[0]["changed"] == ["serving.max_abs"]
    agent.config.write_text(good + "[serving]\nthreads = 2\n")
    agent.process.send_signal(signal.SIGHUP)
    assert "serving.threads" in wait_until(lambda: agent.events("config.refused"))[0]["reason"]
    agent.config.write_text("nonsense")
    agent.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(agent.events("config.refused")) == 2)
    assert agent.process.poll() is None


def test_a_key_that_was_replaced_in_its_place_is_believed_no_more_after_sighup(
    start_agent: Start, tmp_path: Path
) -> None:
    """Only paths were compared: the old key, a stolen one perhaps, went on signing until the next start."""
    key = tmp_path / "anna.pub.pem"
    key.write_text(Signer.of_seed(bytes(32)).public.pem)
    agent = start_agent(f'[commands.keys]\nanna = "{key}"\n')
    key.write_text(Signer.of_seed(bytes([1]) * 32).public.pem)
    agent.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: agent.events("config.reloaded"))[0]["changed"] == ["commands.keys.anna"]
    key.write_text("nonsense")
    agent.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: agent.events("config.refused"))[0]["code"] == "E_KEY"


def test_the_will_says_offline_where_one_of_the_two_connections_is_lost(
    start_agent: Start, plant: Plant, broker: LocalBroker
) -> None:
    """The other one was closed in good order, which cancels the will: the plant went on reading "online"."""
    start_agent('client_id = "press"\n')
    plant.status()
    with connected(BrokerAddress("127.0.0.1", broker.port, "press")):
        plant.expect("status", state="offline")


def test_a_second_agent_on_the_same_state_directory_is_refused(start_agent: Start) -> None:
    agent = start_agent()
    command = [sys.executable, "-m", "edge_agent", "run", "--config", str(agent.config)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 78
    event, line = second.stderr.splitlines()
    assert (json.loads(event)["event"], json.loads(event)["code"]) == ("agent.failed", "E_STATE")
    assert line.startswith("error: E_STATE")


def test_a_broken_config_ends_with_the_key_and_exit_code_78(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('[gateway]\nname = "toy"\n[mqtt]\nport = 99999\n')
    command = [sys.executable, "-m", "edge_agent", "run", "--config", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert run.returncode == 78
    assert "E_CONFIG" in run.stderr
    assert "mqtt.port" in run.stderr


def test_a_tampered_release_is_replaced_from_the_folder_that_the_configuration_names(
    start_agent: Start, plant: Plant, toy_release: Path
) -> None:
    agent = start_agent()
    agent.stop()
    tamper(agent, toy_release)
    agent.start()
    agent.ready(times=2)
    assert agent.events("release.refused")[0]["code"] == "E_HASH"
    assert plant.answers(plant.feed(0, 1))[0]["release"] == read_release(toy_release).digest


def test_a_tampered_release_is_never_served(start_agent: Start, plant: Plant, toy_release: Path) -> None:
    agent = start_agent()
    agent.stop()
    tamper(agent, toy_release)
    lines = [line for line in agent.config.read_text().splitlines() if not line.startswith("release")]
    agent.config.write_text("\n".join(lines))
    agent.start()
    assert agent.process.wait(20) == 1
    assert "E_HASH" in agent.log_path.read_text()


def tamper(agent: LocalAgent, release: Path) -> None:
    model = agent.state_dir / "releases" / read_release(release).digest / "model.onnx.sealed"
    damage(model)


def test_the_serving_process_never_loads_torch(start_agent: Start, plant: Plant) -> None:
    agent = start_agent()
    plant.answers(plant.feed(0, 3))
    maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps
