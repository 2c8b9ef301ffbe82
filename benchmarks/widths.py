"""Which width should a release have by default? Accuracy against windows per second on one thread.

python -m benchmarks.widths --data rig --widths 16 32
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from benchmarks import trained
from benchmarks.machine import DATA, facts
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.commands.data import load_dataset
from edge_agent.schemas.card import MODEL

BATCH = 16
SECONDS = 3.0


def windows_per_s(model: OnnxModel, windows: object) -> float:
    """Median of five rounds of windows per second, in batches of 16."""
    rates = []
    for _ in range(5):
        started_s, count = time.monotonic(), 0
        while time.monotonic() < started_s + SECONDS / 5:
            model.logits(windows)  # type: ignore[arg-type]
            count += BATCH
        rates.append(count / (time.monotonic() - started_s))
    return sorted(rates)[2]


def main() -> None:
    """Train (or find) a release of each width, and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="rig", choices=("cwru", "dsads", "rig"))
    parser.add_argument("--folder", type=Path, default=DATA)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = load_dataset(options.data, options.folder, options.seed)
    print(json.dumps(facts()))
    for width in options.widths:
        release = trained.release(data, width, options.seed)
        speed = windows_per_s(OnnxModel(release.read(MODEL), 1), data.test.windows[:BATCH])
        row = {"data": data.name, "width": width, "seed": options.seed, **release.card.metrics}
        print(json.dumps({**row, "windows_per_s": round(speed)}))


if __name__ == "__main__":
    main()
