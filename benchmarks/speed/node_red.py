"""What a user would pick instead: Node-RED with its MQTT nodes, and ONNX Runtime in a function node.

Installed from npm into ``.cache/benchmarks/node-red``, by exact versions, the first time that it is wanted. The model
is reached as Node-RED documents it for libraries, through ``functionGlobalContext``; one thread, as the agent has it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import CACHE
from edge_agent.commands.local import free_port, wait_until

PACKAGES: Final = ("node-red@4.1.15", "onnxruntime-node@1.30.0")
HOME: Final = CACHE / "node-red"
MODULES: Final = HOME / "node_modules"
INSTALL_S: Final = 600

# Built outside the function node's sandbox, whose Float32Array is another class than the one that the runtime expects.
SETTINGS: Final = """
const ort = require(%(runtime)s);
const session = ort.InferenceSession.create(%(model)s, {intraOpNumThreads: 1, interOpNumThreads: 1});
const classes = %(classes)s, shape = %(shape)s;
async function diagnose(bytes) {
  const samples = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const logits = (await (await session).run({windows: new ort.Tensor("float32", samples, shape)})).logits.data;
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  let sum = 0;
  for (const value of logits) sum += Math.exp(value - logits[best]);
  return JSON.stringify({class: classes[best], confidence: 1 / sum});
}
module.exports = {
  uiHost: "127.0.0.1", credentialSecret: false, logging: {console: {level: "info"}},
  functionGlobalContext: {diagnose},
};
"""
FUNCTION: Final = """
const asset = msg.topic.slice(msg.topic.lastIndexOf("/") + 1);
return {topic: "%(base)s/diagnosis/" + asset, payload: await global.get("diagnose")(msg.payload)};
"""


def why_not() -> str | None:
    """Why Node-RED cannot be run here; None if it can."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else None


def installed() -> Path:
    """Where its modules are; installs them if need be.

    Raises:
        subprocess.CalledProcessError: npm failed.
    """
    done = HOME / "installed.json"
    if not done.exists() or json.loads(done.read_text()) != list(PACKAGES):
        HOME.mkdir(parents=True, exist_ok=True)
        (HOME / "package.json").write_text("{}")
        # The runtime's package holds the CPU library; its script would fetch the one for CUDA.
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", *PACKAGES]
        subprocess.run(command, cwd=HOME, check=True, capture_output=True, timeout=INSTALL_S)
        done.write_text(json.dumps(PACKAGES))
    return MODULES


def flows(port: int, base: str) -> list[dict[str, Any]]:
    """MQTT in, a function, MQTT out."""
    wired = {"z": "tab", "x": 0, "y": 0}
    broker = {"id": "broker", "type": "mqtt-broker", "broker": "127.0.0.1", "port": str(port), "clientid": "node-red"}
    windows = {"topic": f"{base}/windows/+", "qos": "1", "datatype": "buffer", "broker": "broker"}
    function = {"func": FUNCTION % {"base": base}, "outputs": 1, "initialize": "", "finalize": "", "libs": []}
    return [
        {"id": "tab", "type": "tab", "label": "diagnosis"},
        broker | {"protocolVersion": "5", "keepalive": "60", "cleansession": True, "autoConnect": True},
        {"id": "in", "type": "mqtt in", **windows, "inputs": 0, **wired, "wires": [["diagnose"]]},
        {"id": "diagnose", "type": "function", **function, **wired, "wires": [["out"]]},
        {"id": "out", "type": "mqtt out", "topic": "", "qos": "1", "broker": "broker", **wired, "wires": []},
    ]


@contextmanager
def node_red(folder: Path, port: int, base: str, release: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running Node-RED that answers the windows of ``base``."""
    modules, card = installed(), json.loads((release / "card.json").read_text())
    folder.mkdir(parents=True)
    named = {
        "runtime": modules / "onnxruntime-node",
        "model": release / "model.onnx",
        "classes": card["classes"],
        "shape": [1, len(card["channels"]), card["length"]],
    }
    (folder / "settings.js").write_text(
        SETTINGS % {key: json.dumps(value, default=str) for key, value in named.items()}
    )
    (folder / "flows.json").write_text(json.dumps(flows(port, base)))
    log_path = folder / "log"
    command = ["node", str(modules / "node-red" / "red.js"), "--userDir", str(folder), "--port", str(free_port())]
    with log_path.open("wb") as log:
        environment = {**os.environ, "NODE_RED_HOME": str(modules / "node-red")}
        process = subprocess.Popen([*command, "flows.json"], stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        wait_until(lambda: b"Connected to broker" in log_path.read_bytes(), "Node-RED is connected", 60)
        yield process
    finally:
        process.kill()
        process.wait()
