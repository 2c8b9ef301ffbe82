"""Edits of every class without an agent: what was truly kept, beside what the gate's evidence says.

    python -m benchmarks.edits --data cwru --method shipped
    python -m benchmarks.edits --data cwru --noise 1 --method published

Methods: shipped, no-anchors (shipped without dreams in the pull), published (the paper's: all weights, no dreams, and
40 steps beyond forgetting). ``--noise`` adds white noise of so many standard deviations to every window of the data
set. One JSON line per class: retained accuracy and worst single class in points against the original on test
windows, forget accuracy with nothing masked, the gate's verdict and its two figures about the other classes.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import trained
from benchmarks.machine import DATA, facts
from edge_agent.adapters import checkpoints
from edge_agent.adapters.releases import Release
from edge_agent.commands.data import load_dataset
from edge_agent.core import dreams as dreaming
from edge_agent.core import gate, pte
from edge_agent.core.edit_settings import PUBLISHED, EditSettings
from edge_agent.core.evidence import Evidence, without
from edge_agent.core.metrics import accuracies, class_accuracies
from edge_agent.core.training import logits
from edge_agent.core.types import Dataset, Split
from edge_agent.schemas.card import DREAMS

METHODS = {
    "shipped": EditSettings(),
    "no-anchors": EditSettings(anchor_weight=0.0),
    "published": dataclasses.replace(PUBLISHED, consolidation_steps=40),
}


def with_noise(data: Dataset, noise: float, seed: int) -> Dataset:
    """The data set with white noise of ``noise`` standard deviations of each channel."""
    generator = np.random.default_rng(seed)
    std = data.train.windows.std(axis=(0, 2), keepdims=True)

    def noisy(split: Split) -> Split:
        added = generator.standard_normal(split.windows.shape, np.float32) * std * noise
        return Split(split.windows + added.astype(np.float32), split.labels)

    return dataclasses.replace(
        data,
        name=f"{data.name}-noise{noise:g}",
        train=noisy(data.train),
        validation=noisy(data.validation),
        test=noisy(data.test),
    )


def edit_class(data: Dataset, release: Release, label: int, method: str, seed: int) -> dict[str, Any]:
    """Forget one class as a job does, and measure."""
    generator = torch.Generator().manual_seed(seed)
    original = checkpoints.load_network(release.weights, release.card)
    edited = copy.deepcopy(original)
    sides = dreaming.anchors_and_evidence(without(checkpoints.load_dreams(release.folder / DREAMS), (label,)))
    anchors, proof = (dreaming.with_noisy(side, original, generator) for side in sides)
    evidence = Evidence(proof, (label,))
    windows = torch.from_numpy(trained.forget_windows(data, label))
    started_s = time.monotonic()
    outcome = pte.edit(edited, windows, (label,), METHODS[method], generator, anchors.windows, evidence)
    seconds = time.monotonic() - started_s
    verdict = gate.judge(original, edited, windows, data.classes, evidence, gate.GateSettings(), generator)
    before, after = (_measure(one, data, label) for one in (original, edited))
    changes = {name: after["by_class"][name] - before["by_class"][name] for name in data.classes}
    del changes[data.classes[label]]
    worst = min(changes, key=lambda name: changes[name])
    return {
        "data": data.name,
        "method": method,
        "forget": data.classes[label],
        "steps": outcome.steps,
        "acc_ft": round(after["forget"], 3),
        "retained_change": round(after["retained"] - before["retained"], 3),
        "worst_class_change": round(changes[worst], 3),
        "worst_class": worst,
        "accepted": verdict.accepted,
        "agreement": round(min(row.agreement for row in verdict.classes), 3),
        "border_kept": round(min(row.border_kept for row in verdict.classes), 3),
        "seconds": round(seconds, 2),
    }


def _measure(network: nn.Module, data: Dataset, label: int) -> dict[str, Any]:
    output = logits(network, torch.from_numpy(data.test.windows)).numpy()
    both = accuracies(output, data.test.labels, (label,))
    by_class = class_accuracies(output.argmax(axis=1), data.test.labels, len(data.classes))
    names = dict(zip(data.classes, by_class, strict=True))
    return {"forget": both.forget, "retained": both.retained, "by_class": names}


def main() -> None:
    """Edit every class in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, choices=("cwru", "dsads", "rig"))
    parser.add_argument("--folder", type=Path, default=DATA)
    parser.add_argument("--method", default="shipped", choices=METHODS)
    parser.add_argument("--noise", type=float, default=0.0, help="in standard deviations")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = load_dataset(options.data, options.folder, options.seed)
    if options.noise:
        data = with_noise(data, options.noise, options.seed)
    release = trained.release(data, options.width, options.seed)
    print(json.dumps({**facts(), "width": options.width, "seed": options.seed}), flush=True)
    for label in range(len(data.classes)):
        print(json.dumps(edit_class(data, release, label, options.method, options.seed)), flush=True)


if __name__ == "__main__":
    main()
