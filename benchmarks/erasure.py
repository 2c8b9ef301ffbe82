"""A forensic search: after a forget, is anything of the class left to find?

    python -m benchmarks.erasure --json

An agent caches marked windows and forgets their class. Marks are the first samples of each cached window, and what the
parent release alone knew: the class's row of the head, its dreams. They are searched for before the forget (else the
search proves nothing) and after it: in every file of the state directory, bare and opened with every key that is left;
in a copy of the state directory from before, opened with the keys of afterwards, as somebody would who kept the sealed
files, and with the keys that were copied along, as somebody would who kept a backup of everything: there the class is
still whole, which no erasure can change; and, where a file system can be mounted (root), in the raw image of the one
that held the state directory, for the marks and for the keys themselves.

Keys of the JSON object: searched_bytes, found_before, found, found_in_backup, found_in_backup_with_its_keys,
keys_destroyed, keys_found_before and keys_found (in the raw image), raw_image (whether there was one).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import toy
from benchmarks.adversity import forensics
from benchmarks.machine import facts, show
from edge_agent.adapters.workplace import Workplace
from edge_agent.commands.client import ToolClient, connected
from edge_agent.commands.local import LocalAgent, LocalBroker, free_port, wait_until
from edge_agent.core.types import Float32
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.messages import TERMINAL
from edge_agent.vault import Vault

FORGET: Final = "whine"
BASE: Final = "edge/toy"
WINDOWS: Final = 64
MARK_BYTES: Final = 256
IMAGE_MIB: Final = 64
FORGET_S: Final = 180.0


@contextmanager
def _mounted(folder: Path) -> Iterator[Path | None]:
    """A small file system of its own at ``folder / "agent"``, as the path of its image; None where none can be."""
    image, place = folder / "disk.img", folder / "agent"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    try:
        for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)]):
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield image
    finally:
        subprocess.run(["umount", str(place)], check=True)


def search(folder: Path) -> dict[str, Any]:
    """Forget, and search."""
    release = toy.release(folder / "release")
    label = toy.CLASSES.index(FORGET)
    rows = toy.windows(label, WINDOWS, np.random.default_rng(1))
    marks = [row.tobytes()[:MARK_BYTES] for row in rows]
    broker = LocalBroker(folder / "broker", free_port())
    with _mounted(folder) as image:
        agent = LocalAgent(folder / "agent", "toy", broker.port, release, env={"OMP_NUM_THREADS": "1"})
        try:
            agent.ready()
            with connected(BrokerAddress("127.0.0.1", broker.port, "plant")) as plant:
                marks += forensics.knowledge(agent.live_release(), label)
                before, raw_before = _cached(agent, plant, rows, marks), _raw(image, folder / "agent")
                _forgotten(plant)
            after, vault, raw = forensics.image(agent.state_dir), Vault(agent.state_dir), _raw(image, folder / "agent")
        finally:
            agent.kill()
            broker.stop()
            Workplace(agent.state_dir).clear()
    keys = {content for path, content in before.items() if path.parent.name == "keys"} - set(after.values())
    return {
        "searched_bytes": sum(len(content) for content in (*before.values(), *after.values(), raw)),
        "found_before": len(marks),
        "found": forensics.found(marks, after, vault) + sum(mark in raw for mark in marks),
        "found_in_backup": forensics.found(marks, before, vault),
        "found_in_backup_with_its_keys": forensics.found(marks, before, _of_then(before, agent.state_dir, folder)),
        "keys_destroyed": len(keys),
        "keys_found_before": sum(key in raw_before for key in keys),
        "keys_found": sum(key in raw for key in keys),
        "raw_image": image is not None,
    }


def _of_then(content: forensics.Image, state_dir: Path, folder: Path) -> Vault:
    """The keys as a copy of the state directory holds them."""
    backup = folder / "backup"
    for path, stored in content.items():
        place = backup / path.relative_to(state_dir)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(stored)
    return Vault(backup)


def _cached(agent: LocalAgent, plant: ToolClient, rows: Float32, marks: list[bytes]) -> forensics.Image:
    """Have the windows cached; the state directory once every mark can be found in it."""
    for seq, samples in enumerate(rows):
        plant.publish(f"{BASE}/windows/m1", toy.message(seq, FORGET, samples))

    def whole() -> forensics.Image | None:
        image = forensics.image(agent.state_dir)
        return image if forensics.found(marks, image, Vault(agent.state_dir)) == len(marks) else None

    return wait_until(whole, "every mark can be found") or {}


def _forgotten(plant: ToolClient) -> None:
    plant.subscribe([f"{BASE}/unlearn/+/status"])
    plant.publish(f"{BASE}/unlearn/{FORGET}", b"")
    states = plant.listen(FORGET_S)
    ended = next(one.content for one in states if isinstance(one.content, dict) and one.content["status"] in TERMINAL)
    assert ended["status"] == "successful", ended


def _raw(image: Path | None, place: Path) -> bytes:
    """The image of the file system, as it is on the disk."""
    if image is None:
        return b""
    subprocess.run(["sync", "-f", str(place)], check=True)
    return image.read_bytes()


def main() -> None:
    """Search, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-agent-erasure-", dir=os.environ.get("TMPDIR")) as folder:
        figures = {**search(Path(folder)), **facts()}
    show(figures, as_json=options.json)


if __name__ == "__main__":
    main()
