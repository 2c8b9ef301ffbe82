"""Coverage-guided fuzzing of everything that reads what others wrote: by hand, after ``pip install atheris``.

    python -m benchmarks.fuzz --seconds 60 --json

Each target is given bytes, grown from a valid example, and may only refuse them with the error that it documents;
anything else ends its run and is a finding, whose input is kept in ``--keep``. One process per target (libFuzzer).
Keys of the JSON object: targets, with runs (inputs tried), features (of code reached) and finding; findings.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import facts
from edge_agent.core.errors import EdgeAgentError

SAMPLES = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
COMMAND = b'{"id": "job-1", "reason": "wrong labels", "expires_at": "2030-01-01T00:00:00Z", "audience": ["press-7"]}'
Target = tuple[Callable[[bytes], object], bytes]


def targets(folder: Path) -> dict[str, Target]:
    """What is fuzzed: a function of bytes, and a valid example; files go below ``folder``."""
    from edge_agent.adapters import audit, journal
    from edge_agent.clock import read
    from edge_agent.config import read_config
    from edge_agent.core.types import Window
    from edge_agent.schemas import card, commands, messages, topics, windows
    from edge_agent.signing import Signer, opened
    from edge_agent.slots import SlotFile
    from edge_agent.vault import Vault

    signer, vault, topic = Signer.of_seed(bytes(32)), Vault(folder), topics.Topics("edge/press-7")
    path, slots = folder / "file", SlotFile(folder, "hum", vault, 4, 16, 8)
    slots.write(0, b"head", b"b" * 16)
    slots.close()
    slot_path = next(folder.glob("*.slots"))

    def file_of(parse: Callable[[Path], object]) -> Callable[[bytes], object]:
        def target(content: bytes) -> object:
            path.write_bytes(content)
            return parse(path)

        return target

    def open_slots(content: bytes) -> None:
        slot_path.write_bytes(content)
        file = SlotFile(folder, "hum", vault, 4, 16, 8)
        for slot in range(file.count):
            assert file.header(slot) in (None, b"head")
            file.body(slot)
        file.close()

    spec = windows.WindowSpec(channels=2, length=32, rate_hz=1000.0, max_abs=100.0)
    state = messages.JobState("id", ("hum",), "d", "accepted", "masked")
    row = {"n": 1, "prev": "0" * 64, "time": read().document(), "event": "agent.started", "content": {}}
    release = Path(__file__).parents[1] / "edge_agent" / "rig_release" / "card.json"
    example = Path(__file__).parents[1] / "deploy" / "agent.example.toml"
    return {
        "window": (
            lambda content: windows.decode("press", content, spec, "raw-1", 1),
            windows.encode(Window("press", "boot", 1, 0, "hum", SAMPLES), spec.rate_hz, "g"),
        ),
        "command": (lambda content: commands.parse_unlearn("hum,rattle", content), COMMAND),
        "class names": (lambda content: commands.parse_unlearn(content.decode("utf-8", "replace"), b""), b"hum,rattle"),
        "label": (commands.parse_label, b'{"boot": "b", "seq": 7, "class": "hum"}'),
        "topic": (lambda content: topic.parse(content.decode("utf-8", "replace")), b"edge/press-7/windows/m1"),
        "card": (card.parse_card, release.read_bytes()),
        "certificate": (
            lambda content: opened(content, signer.public),
            signer.document({"kind": "test", "n": [1, "a"]}),
        ),
        "journal": (file_of(journal.read_states), journal._line(state)),  # noqa: SLF001 an example as it is written
        "audit log": (lambda content: audit.check(io.BytesIO(content)), json.dumps(row).encode() + b"\n"),
        "slots": (open_slots, slot_path.read_bytes()),
        "configuration": (file_of(read_config), example.read_bytes()),
    }


def fuzz_one(name: str, seconds: int, keep: Path) -> None:
    """Run one target in this process, which libFuzzer ends."""
    import atheris

    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 not for what must be secret
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        with atheris.instrument_imports(include=["edge_agent", "cbor2"]):
            target, example = targets(Path(scratch))[name]
        (corpus / "example").write_bytes(example)

        def once(content: bytes) -> None:
            with contextlib.suppress(EdgeAgentError):
                target(content)

        keep.mkdir(parents=True, exist_ok=True)
        prefix = f"{keep}/{name.replace(' ', '-')}-"
        options = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={prefix}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], once)
        atheris.Fuzz()


def fuzz(name: str, seconds: int, keep: Path) -> dict[str, Any]:
    """Run one target in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz",
        "--target",
        name,
        "--seconds",
        str(seconds),
        "--keep",
        str(keep),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", run.stderr)
    features = re.findall(r"ft: (\d+)", run.stderr)
    finding = None
    if run.returncode or runs is None:
        finding = next((line for line in run.stderr.splitlines() if "Error" in line or "Exception" in line), "died")
        print(run.stderr[-3000:], file=sys.stderr)
    return {"runs": int(runs[1]) if runs else 0, "features": int(features[-1]) if features else 0, "finding": finding}


def main() -> None:
    """Fuzz and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", help="only this one, in this process")
    parser.add_argument("--keep", type=Path, default=Path("findings"), help="folder for inputs that break something")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    if options.target:
        fuzz_one(options.target, options.seconds, options.keep)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        names = list(targets(Path(folder)))
    for name in names:
        found[name] = fuzz(name, options.seconds, options.keep)
        print(f"  {name}: {found[name]}", file=sys.stderr, flush=True)
    findings = [name for name, result in found.items() if result["finding"]]
    result = {"seconds": options.seconds, "targets": found, "findings": findings, **facts()}
    print(json.dumps(result) if options.json else f"findings: {findings or 'none'}")


if __name__ == "__main__":
    main()
