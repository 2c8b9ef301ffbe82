"""The int8 model of a release against the one in float32: how fast, how small, how exact, and whether it forgets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.speed import consumers
from benchmarks.speed.figures import Figure
from benchmarks.speed.load import load
from benchmarks.speed.plan import Plan, say
from benchmarks.speed.retraining import CACHED, FORGET, stock
from benchmarks.speed.serving import WINDOWS
from benchmarks.speed.timed import cpu_us
from edge_agent import rig
from edge_agent.adapters import job_folder
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import Release, read_release
from edge_agent.commands.quantise import quantise
from edge_agent.core.metrics import accuracies
from edge_agent.core.types import Float32, Split
from edge_agent.live import opened
from edge_agent.schemas.card import MODELS

PART: Final = "int8"
BATCH: Final = 32
AT_ONCE: Final = 64  # windows of one run, where only the answers count
INT8_SETTING: Final = '[serving]\nprecision = "int8"\n'


def measure(plan: Plan, folder: Path) -> Iterator[Figure]:
    """Every width; forgetting at the smallest."""
    test = rig.dataset(0).test
    for width, release in plan.releases.items():
        at = f"width {width}"
        made, verdict = quantise(release, folder / f"release-{width}")
        yield Figure(PART, "int8", at, "predicted_loss", verdict.predicted_loss)
        yield from _models(made, test, at)
        yield from _agent(plan, made, folder / f"agent-{width}", at, WINDOWS[width])
        if width == min(plan.releases):
            yield from _forgotten(made, test, folder / "job", at)


def _models(release: Release, test: Split, at: str) -> Iterator[Figure]:
    """Bytes, CPU time and test accuracy of the two models alone."""
    windows = test.windows[:BATCH]
    for precision, name in MODELS.items():
        model, kib = opened(release, 1, precision=precision).model, len(release.read(name)) / 1024
        used_us = cpu_us(partial(model.logits, windows), BATCH)
        accuracy = accuracies(_logits(model, test), test.labels, ()).retained
        say(f"{at}: {precision} {used_us:.0f} us per window, {kib:.0f} KiB, {accuracy:.2f} %")
        yield Figure(PART, precision, at, "us_per_window", used_us)
        yield Figure(PART, precision, at, "model_kib", kib)
        yield Figure(PART, precision, at, "acc_test", accuracy)


def _logits(model: OnnxModel, split: Split) -> Float32:
    starts = range(0, len(split.labels), AT_ONCE)
    return np.concatenate([model.logits(split.windows[start : start + AT_ONCE]) for start in starts])


def _agent(plan: Plan, release: Release, folder: Path, at: str, count: int) -> Iterator[Figure]:
    """The agent with the int8 model; with the other one it is measured by ``serving``."""
    with (
        load(folder / "broker", plan.payloads) as (port, offered),
        consumers.agent(folder / "agent", port, release.folder, INT8_SETTING) as agent,
    ):
        typical = offered.drains(agent, count, plan.rounds)
    say(f"{at}: the agent in int8: {typical.per_s:.0f} windows/s, {typical.cpu_us:.0f} us CPU per window")
    yield from typical.figures(PART, "agent_int8", at)


def _forgotten(release: Release, test: Split, folder: Path, at: str) -> Iterator[Figure]:
    """After a forget job, nothing masked: test windows of the class answered with it, and accuracy on the others."""
    label = rig.CLASSES.index(FORGET)
    job = job_folder.Job("speed", (FORGET,), 0, 1, {"sender": CACHED})
    job_folder.prepare(folder, job, release, {FORGET: np.stack(stock(FORGET, CACHED))})
    subprocess.run([sys.executable, "-m", "edge_agent.unlearn_job", str(folder)], check=True)
    result = read_release(folder / job_folder.RESULT)
    for precision in MODELS:
        loaded = opened(result, 1, precision=precision)
        if loaded.precision != precision:  # it would be measured, and called int8
            raise RuntimeError(f"after the forget {loaded.precision} serves where {precision} is measured")
        right = accuracies(_logits(loaded.model, test), test.labels, (label,))
        say(f"{at}: {FORGET} forgotten, {precision}: Acc_ft {right.forget:.2f} %, Acc_rt {right.retained:.2f} %")
        yield Figure(PART, precision, at, "acc_ft", right.forget)
        yield Figure(PART, precision, at, "acc_rt", right.retained)
