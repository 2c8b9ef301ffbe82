"""The limits: the shortest honest scripts that a user might write instead of running the agent.

    python -m benchmarks.speed.bare PORT BASE            acknowledge windows, and nothing else
    python -m benchmarks.speed.bare PORT BASE RELEASE    subscribe, run the model, publish the answer

No checks, no cache, no masks, no counters, no journal; connected as the agent is, so that as many windows may be on the
way. The first kind says after each hundredth window that it came.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any, Final

import numpy as np
import onnxruntime
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

SAYS_EVERY: Final = 100
IN_FLIGHT: Final = 256  # as the agent's default
Handler = Callable[[Client, Any, MQTTMessage], None]


def acknowledging(base: str) -> Handler:
    """Windows come, and paho acknowledges them."""
    numbers = count(1)

    def on_message(client: Client, _: Any, message: MQTTMessage) -> None:
        if next(numbers) % SAYS_EVERY == 0:
            asset = message.topic.rpartition("/")[2]
            client.publish(f"{base}/diagnosis/{asset}", b"{}", qos=0)

    return on_message


def diagnosing(base: str, release: Path) -> Handler:
    """Windows come, answers go."""
    card = json.loads((release / "card.json").read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(release / "model.onnx", options)
    shape = 1, len(card["channels"]), card["length"]

    def on_message(client: Client, _: Any, message: MQTTMessage) -> None:
        window = np.frombuffer(message.payload, "<f4").reshape(shape)
        logits = session.run(None, {"windows": window})[0][0]
        odds = np.exp(logits - logits.max())
        best = int(odds.argmax())
        answer = {"class": card["classes"][best], "confidence": float(odds[best] / odds.sum())}
        asset = message.topic.rpartition("/")[2]
        client.publish(f"{base}/diagnosis/{asset}", json.dumps(answer), qos=1)

    return on_message


def _send_at_once(_: Client, __: Any, connection: Any) -> None:
    connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)


def main(port: str, base: str, *release: str) -> None:
    """Run until killed."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_socket_open = _send_at_once
    client.max_inflight_messages_set(65535)
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = IN_FLIGHT
    client.on_message = diagnosing(base, Path(release[0])) if release else acknowledging(base)
    client.on_connect = lambda client, *_: client.subscribe(f"{base}/windows/+", qos=1)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.connect("127.0.0.1", int(port), properties=properties)
    client.loop_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
