"""The int8 model of a release against the one in float32: how fast, how small, how exact, and whether it forgets."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.speed import consumers
from benchmarks.speed.figures import Figure
from benchmarks.speed.load import load
from benchmarks.speed.plan import Plan, say
from benchmarks.speed.retraining import CACHED, FORGET, stock
from benchmarks.speed.serving import WINDOWS
from edge_agent import rig
from edge_agent.adapters import job_folder
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import Release, read_release
from edge_agent.commands.quantise import quantise
from edge_agent.core.types import Int64, Split
from edge_agent.live import Precision, opened
from edge_agent.schemas.card import INT8, MODEL

PART: Final = "int8"
BATCH: Final = 32
MODEL_S: Final = 0.5
PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "int8")
INT8_SETTING: Final = '[serving]\nprecision = "int8"\n'


def measure(plan: Plan, folder: Path) -> Iterator[Figure]:
    """Every width; forgetting at the smallest."""
    test = rig.dataset(0).test
    for width, release in plan.releases.items():
        at = f"width {width}"
        made, verdict = quantise(release, folder / f"release-{width}")
        yield Figure(PART, "int8", at, "predicted_loss", verdict.predicted_loss)
        yield from _models(made, test, at)
        yield from _agents(plan, made, folder / f"agents-{width}", at, WINDOWS[width])
        if width == min(plan.releases):
            yield from _forgotten(made, test, folder / "job", at)


def _models(release: Release, test: Split, at: str) -> Iterator[Figure]:
    """Bytes, CPU time and test accuracy of the two models alone."""
    for precision, name in zip(PRECISIONS, (MODEL, INT8), strict=True):
        model = opened(release, 1, precision=precision).model
        used_us, accuracy = _us(model, test), _accuracy(model, test)
        say(f"{at}: {precision} {used_us:.0f} us per window, {len(release.read(name)) >> 10} KiB, {accuracy:.2f} %")
        yield Figure(PART, precision, at, "us_per_window", used_us)
        yield Figure(PART, precision, at, "model_kib", len(release.read(name)) / 1024)
        yield Figure(PART, precision, at, "acc_test", accuracy)


def _us(model: OnnxModel, test: Split) -> float:
    windows = test.windows[:BATCH]
    model.logits(windows)
    used_s, started_s, count = time.process_time(), time.monotonic(), 0
    while time.monotonic() < started_s + MODEL_S:
        model.logits(windows)
        count += BATCH
    return 1e6 * (time.process_time() - used_s) / count


def _accuracy(model: OnnxModel, split: Split, gone: int | None = None) -> float:
    """Percent of the windows of classes that stay."""
    keep = split.labels != gone
    return 100 * float((_answers(model, split)[keep] == split.labels[keep]).mean())


def _answers(model: OnnxModel, split: Split) -> Int64:
    parts = [model.logits(split.windows[start : start + 64]) for start in range(0, len(split.labels), 64)]
    answers: Int64 = np.concatenate(parts).argmax(axis=1)
    return answers


def _agents(plan: Plan, release: Release, folder: Path, at: str, count: int) -> Iterator[Figure]:
    """What the agent answers with each, one after the other."""
    for precision, setting in zip(PRECISIONS, ("", INT8_SETTING), strict=True):
        here = folder / precision
        with (
            load(here / "broker", plan.payloads) as (port, offered),
            consumers.agent(here / "agent", port, release.folder, setting) as agent,
        ):
            offered.drain(agent, count)
            rounds = [offered.drain(agent, count) for _ in range(plan.rounds)]
            per_s, cpu_us = (statistics.median(getattr(one, name) for one in rounds) for name in ("per_s", "cpu_us"))
            say(f"{at}: the agent in {precision}: {per_s:.0f} windows/s, {cpu_us:.0f} us CPU per window")
            yield Figure(PART, f"agent_{precision}", at, "windows_per_s", per_s)
            yield Figure(PART, f"agent_{precision}", at, "cpu_us_per_window", cpu_us)


def _forgotten(release: Release, test: Split, folder: Path, at: str) -> Iterator[Figure]:
    """After a forget job, nothing masked: test windows of the class answered with it, and accuracy on the others."""
    label = rig.CLASSES.index(FORGET)
    job = job_folder.Job("speed", (FORGET,), 0, 1, 0, {"sender": CACHED})
    job_folder.prepare(folder, job, release, {FORGET: np.stack(stock(FORGET, CACHED))})
    subprocess.run([sys.executable, "-m", "edge_agent.unlearn_job", str(folder)], check=True)
    result = read_release(folder / job_folder.RESULT)
    for precision in PRECISIONS:
        model = opened(result, 1, precision=precision).model
        answers = _answers(model, test)
        acc_ft = 100 * float((answers[test.labels == label] == label).mean())
        acc_rt = _accuracy(model, test, gone=label)
        say(f"{at}: {FORGET} forgotten, {precision}: Acc_ft {acc_ft:.2f} %, Acc_rt {acc_rt:.2f} %")
        yield Figure(PART, precision, at, "acc_ft", acc_ft)
        yield Figure(PART, precision, at, "acc_rt", acc_rt)
