"""Five times as many windows as the agent can answer: is it bounded, does it count what it drops, does it still obey?

    python -m benchmarks.overload --json

A release whose model is slow on purpose makes the limit the agent's, and not that of broker and sender. First its rate
is measured; then windows come at five times that rate, at QoS 0 (what finds no room is dropped, and counted), then at
QoS 1 (nothing is dropped; the broker holds back what is not acknowledged).

Keys of the JSON object: capacity (windows per second), rate (offered), sent, answered and dropped (at QoS 0),
unaccounted (of these, 0), lost (at QoS 1), refusal_s (how long an impossible command waited for its refusal meanwhile),
rss_before_mib, rss_max_mib, rss_after_mib (all answered, some seconds later), bound_mib (in_flight windows of the
largest size that is read).
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks import toy
from benchmarks.machine import facts, show
from edge_agent.adapters.releases import read_release, write_card
from edge_agent.commands.client import ToolClient, connected
from edge_agent.commands.local import local_gateway, wait_until
from edge_agent.files import sha256
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.card import MODEL
from edge_agent.schemas.windows import ENVELOPE_BYTES

BASE: Final = "edge/toy"
TIMES: Final = 5
IN_FLIGHT: Final = 256
SIZE, LAYERS = 1000, 60  # of the ballast


def slow(release: Path, folder: Path) -> Path:
    """A release that answers the same, after many multiplications that come to nothing."""
    folder.mkdir()
    for path in release.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = onnx.load(folder / MODEL)
    for node in model.graph.node:
        node.output[:] = ["answer" if name == "logits" else name for name in node.output]
    weights = np.full((SIZE, SIZE), 1 / SIZE, np.float32)
    for name, array in (("column", np.zeros((len(toy.CHANNELS), SIZE), np.float32)), ("ballast", weights)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    axes = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    model.graph.initializer.append(axes)
    model.graph.node.append(helper.make_node("GlobalAveragePool", ["windows"], ["ballast_means"]))
    model.graph.node.append(helper.make_node("Flatten", ["ballast_means"], ["ballast_row"]))
    model.graph.node.append(helper.make_node("MatMul", ["ballast_row", "column"], ["load0"]))
    for number in range(LAYERS):
        node = helper.make_node("MatMul", [f"load{number}", "ballast"], [f"load{number + 1}"])
        model.graph.node.append(node)
    model.graph.node.append(helper.make_node("ReduceSum", [f"load{LAYERS}", "axis"], ["nothing"], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["answer", "nothing"], ["logits"]))
    onnx.save(model, folder / MODEL)
    card = read_release(release).card
    write_card(folder, card.model_copy(update={"files": {**card.files, MODEL: sha256(folder / MODEL)}}))
    return folder


class Load:
    """Windows of one asset, and what is known of their answers."""

    def __init__(self, plant: ToolClient) -> None:
        self._plant, self._numbers = plant, itertools.count(1)
        self._samples = toy.windows(0, 1, np.random.default_rng(0))[0]
        self.answered: set[int] = set()
        self.counters: dict[str, int] = {}
        self.refused_s: float | None = None
        self.sent = self.statuses = 0
        plant.subscribe([f"{BASE}/diagnosis/m1", f"{BASE}/status", f"{BASE}/unlearn/+/status"])

    def send(self, qos: int) -> None:
        """One more window."""
        self.sent = next(self._numbers)
        payload = toy.message(self.sent, None, self._samples)
        self._plant.client.publish(f"{BASE}/windows/m1", payload, qos=qos)

    def offer(self, qos: int, per_s: float, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Windows at a steady rate."""
        start_s, done = time.monotonic(), 0
        while (passed_s := time.monotonic() - start_s) < seconds:
            while done < passed_s * per_s:
                self.send(qos)
                done += 1
            self.listen()
            meanwhile()
            time.sleep(0.002)

    def ask(self) -> None:
        """A command that can only be refused."""
        self._asked_s = time.monotonic()
        self._plant.client.publish(f"{BASE}/unlearn/growl", b"", qos=1)

    def listen(self) -> None:
        """Take in what has come."""
        for heard in self._plant.pending():
            if heard.topic.endswith("/m1"):
                self.answered.add(heard.content["seq"])
            elif heard.topic == f"{BASE}/status":
                self.counters = heard.content.get("counters", {})
                self.statuses += 1
            elif self.refused_s is None:
                self.refused_s = time.monotonic() - self._asked_s

    def listen_for_status(self) -> int:
        """How many statuses have come."""
        self.listen()
        return self.statuses


def overload(folder: Path, seconds: float) -> dict[str, Any]:
    """Each part for so many seconds."""
    release = slow(toy.release(folder / "release"), folder / "slow")
    settings = f"in_flight = {IN_FLIGHT}", {"OMP_NUM_THREADS": "1"}
    sizes: list[float] = []
    with (
        local_gateway(folder, "toy", release, *settings) as (broker, agent),
        connected(BrokerAddress("127.0.0.1", broker.port, "plant", in_flight=1000)) as plant,
    ):
        load = Load(plant)
        capacity = _capacity(load, seconds)
        sizes.append(agent.rss_mib())
        first = load.sent
        load.ask()
        load.offer(0, TIMES * capacity, seconds, lambda: sizes.append(agent.rss_mib()))
        before = _settled(load, first)
        load.offer(1, TIMES * capacity, seconds, lambda: sizes.append(agent.rss_mib()))
        last = load.sent
        wait_until(lambda: not _missing(load, before["last"], last), "all are answered", 20 * seconds)
        heard = load.statuses
        wait_until(lambda: load.listen_for_status() > heard + 1, "it has given back what it freed", 30)
        sizes.append(agent.rss_mib())
    raw_bytes = len(toy.CHANNELS) * toy.LENGTH * 4
    return {
        "capacity": round(capacity, 1),
        "rate": round(TIMES * capacity, 1),
        **{key: before[key] for key in ("sent", "answered", "dropped", "unaccounted")},
        "lost": len(_missing(load, before["last"], last)),
        "refusal_s": load.refused_s and round(load.refused_s, 3),
        "rss_before_mib": round(sizes[0], 1),
        "rss_max_mib": round(max(sizes), 1),
        "rss_after_mib": round(sizes[-1], 1),
        "bound_mib": round(IN_FLIGHT * (raw_bytes + ENVELOPE_BYTES) / (1 << 20), 2),
    }


def _capacity(load: Load, seconds: float) -> float:
    """Windows per second, with as many waiting as the broker lets wait."""
    start_s = time.monotonic()
    while time.monotonic() < start_s + seconds:
        if load.sent - len(load.answered) < 2 * IN_FLIGHT:
            load.send(1)
        load.listen()
    rate = len(load.answered) / (time.monotonic() - start_s)
    wait_until(lambda: not _missing(load, 0, load.sent), "the first windows are answered", 60)
    return rate


def _settled(load: Load, first: int) -> dict[str, int]:
    """What became of the windows at QoS 0, once a status has counted them all, or none comes any more."""
    sent = load.sent - first
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        load.listen()
        answered = sum(seq > first for seq in load.answered)
        dropped = load.counters.get("messages_dropped", 0)
        if answered + dropped >= sent:
            break
        time.sleep(0.05)
    return {
        "sent": sent,
        "answered": answered,
        "dropped": dropped,
        "unaccounted": sent - answered - dropped,
        "last": load.sent,
    }


def _missing(load: Load, first: int, last: int) -> set[int]:
    load.listen()
    return set(range(first + 1, last + 1)) - load.answered


def main() -> None:
    """Overload and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-agent-overload-") as folder:
        show({**overload(Path(folder), options.seconds), **facts()}, as_json=options.json)


if __name__ == "__main__":
    main()
