"""Releases for benchmarks: trained once per settings and code, then found again."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import CACHE, ROOT
from benchmarks.settings import FORGET_WINDOWS
from edge_agent.adapters.releases import Release, read_release
from edge_agent.commands.train import train_release
from edge_agent.core.training import Epoch, TrainingSettings
from edge_agent.core.types import Dataset, Float32

# What a trained release depends on; a change of any of these trains anew.
SOURCES = (
    *("core/networks.py", "core/training.py", "core/dreams.py", "adapters/datasets.py", "adapters/checkpoints.py"),
    *("adapters/onnx_export.py", "onnx_conv.py", "schemas/card.py", "commands/train.py", "rig.py"),
)


def release(data: Dataset, width: int, seed: int) -> Release:
    """The release of these settings; progress goes to standard error."""
    settings = TrainingSettings()
    trees = [ast.dump(ast.parse((ROOT / "edge_agent" / name).read_text())) for name in SOURCES]
    code = hashlib.sha256("".join(trees).encode()).hexdigest()
    key = hashlib.sha256(json.dumps([data.name, width, seed, repr(settings), code]).encode()).hexdigest()[:12]
    folder = CACHE / f"{data.name}-w{width}-s{seed}-{key}"
    if not (folder / "card.json").exists():
        _train(data, folder, width, seed, settings)
    return read_release(folder)


def forget_windows(data: Dataset, label: int) -> Float32:
    """What a gateway would have cached of a class: at most 512 of its training windows, evenly drawn."""
    windows = data.train.of(label)
    chosen: Float32 = windows[np.linspace(0, len(windows) - 1, min(FORGET_WINDOWS, len(windows))).astype(int)]
    return chosen


def _train(data: Dataset, folder: Path, width: int, seed: int, settings: TrainingSettings) -> None:
    started_s = time.monotonic()

    def on_epoch(epoch: Epoch) -> None:
        words = f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, validation {epoch.validation_accuracy:.2%}"
        print(f"  {time.monotonic() - started_s:6.0f} s  {words}", file=sys.stderr)

    def on_dream(done: int, total: int) -> None:
        if done % 50 == 0:
            print(f"  {time.monotonic() - started_s:6.0f} s  dreaming {done}/{total}", file=sys.stderr)

    print(f"training {data.name}, width {width}, seed {seed}", file=sys.stderr)
    run = train_release(data, folder, width=width, seed=seed, settings=settings, on_epoch=on_epoch, on_dream=on_dream)
    print(f"  train {run.train_accuracy:.2f} %, test {run.test_accuracy:.2f} %", file=sys.stderr)
