"""Everything once, small: a data set of tones and networks of width 4 that have hardly been trained.

Every method takes two steps, every measure looks at what is left, and every file is read back; a method is tuned; and
every page is made of a copy of the committed results. Then all is thrown away. The numbers mean nothing. It needs no
data and takes about two minutes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import epochs, gate_edits, models, new_row, runs, tsne, tuning
from benchmarks.case import Case
from benchmarks.methods import ABLATIONS, ALL
from benchmarks.runs import Run
from benchmarks.settings import Setting, tensors
from benchmarks.tables import TABLES, page
from benchmarks.task import Cost, Method
from edge_agent.core import training
from edge_agent.core.dreams import Dreams, DreamSettings, dream
from edge_agent.core.evidence import without
from edge_agent.core.types import Dataset, Split

CLASSES: Final = ("low", "middle", "high", "shrill")
CYCLES: Final = (2.0, 5.0, 9.0, 14.0)  # per window
LENGTH: Final = 64
WIDTH: Final = 4
TRAINING: Final = training.TrainingSettings(epochs=3, batch=32, rate=1e-2, max_shift=8)
DREAMS: Final = DreamSettings(typical=3, soft=3, border=3)
SHORT: Final = {"epochs": 2, "max_epochs": 1, "max_steps": 2, "attack_steps": 1, "probe_steps": 1}
NAME: Final = "quick"
ARCHITECTURES: Final = ("swin_1d", "vit_1d", "resnet18_2d")  # beside the usual one


def tones() -> Dataset:
    """40 training, 20 validation and 20 test windows of each class: its tone on two channels, in noise."""
    generator = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = np.repeat(np.arange(len(CLASSES)), count)
        phase = generator.uniform(0, 2 * np.pi, (len(labels), 2, 1))
        turns = np.array(CYCLES)[labels, None, None] * np.arange(LENGTH) / LENGTH
        windows = np.sin(2 * np.pi * turns + phase) + 0.3 * generator.standard_normal((len(labels), 2, LENGTH))
        return Split(windows.astype(np.float32), labels)

    return Dataset(NAME, CLASSES, ("x", "y"), 1000.0, "g", "draw", split(40), split(20), split(20))


SETTING: Final = Setting(NAME, "tones", lambda _: tones(), CLASSES[1], CLASSES[3], NAME, TRAINING.epochs)


class SmallCase(Case):
    """A case whose networks and dreams are made here, in seconds, and kept in no file."""

    @cached_property
    def original(self) -> nn.Sequential:
        """f0."""
        return self._trained(tensors(self.data.train), tensors(self.data.validation))

    @cached_property
    def retrained(self) -> nn.Sequential:
        """The same recipe without the forget classes."""
        train, validation = (self.side(name, gone=False) for name in ("train", "validation"))
        return self._trained((train.windows, train.labels), (validation.windows, validation.labels))

    @property
    def retraining_cost(self) -> Cost:
        """Not measured."""
        return Cost()

    @cached_property
    def dreams(self) -> Dreams:
        """Those of f0 in which no forget class has a part."""
        shape, generator = (len(self.data.channels), self.data.length), torch.Generator().manual_seed(self.model_seed)
        return without(dream(self.original, len(self.data.classes), shape, DREAMS, generator), self.forget)

    def _trained(self, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> nn.Sequential:
        torch.manual_seed(self.model_seed)  # the initial weights
        network = models.build(self.data, self.architecture, WIDTH)
        training.fit(network, train, validation, TRAINING, torch.Generator().manual_seed(self.model_seed))
        return network.requires_grad_(False)


@lru_cache(maxsize=4)
def case(forget: tuple[str, ...] = CLASSES[1:2], architecture: str = models.ARCHITECTURE) -> SmallCase:
    """The case of some class names."""
    return SmallCase(SETTING, tones(), 0, tuple(CLASSES.index(name) for name in forget), architecture)


def case_of(run: Run) -> Case:
    """The case that a run is about."""
    return case(run.forget, run.architecture)


def pages(folder: Path) -> None:
    """Every table and figure, from a copy of the committed CSV files: pages know the real settings, not these tones."""
    folder.mkdir()
    for path in runs.RESULTS.glob("*.csv"):
        shutil.copy(path, folder)
    for table in TABLES.values():
        page.write(table, folder)


def short(method: Method[Any]) -> tuple[tuple[str, Any], ...]:
    """Settings with which the method takes about two steps."""
    return tuple((name, value) for name, value in SHORT.items() if hasattr(method.settings, name))


def run_of(method: str, forget: tuple[str, ...] = CLASSES[1:2], *, depth: bool = False, **more: Any) -> Run:
    """A short run of a method."""
    changed = short(ALL[method]) if method in ALL else ()
    return Run(NAME, forget, method, changed=changed, depth=depth, **more)


def tuning_runs(method: str) -> list[Run]:
    """The trials of a method, as ``benchmarks.tuning`` makes them, on these tones."""
    about = Run(NAME, (SETTING.surrogate,), method, part="validation")
    return [replace(about, changed=changed) for changed in tuning.trials(method)]


def main() -> None:
    """Go through everything."""
    started_s = time.monotonic()
    names = ("original", "retrain", "other_retrain", *ALL)
    wanted = [run_of(name, depth=name not in ABLATIONS) for name in names]
    wanted += [run_of(name, CLASSES[1:3]) for name in names]
    wanted += [run_of(name, architecture=each) for each in ARCHITECTURES for name in ("original", "pte", "delete_all")]
    few = [run_of("pte"), run_of("delete_all")]
    with tempfile.TemporaryDirectory(prefix="edge-agent-quick-") as folder:
        paths = [Path(folder) / name for name in ("runs.csv", "epochs.csv", "tsne.csv", "tuning.csv", "new_row.csv")]
        runs.carry_on(wanted, paths[0], case_of)
        runs.carry_on(tuning_runs("delete_all"), paths[3], case_of)
        epochs.carry_on(few, paths[1], case_of)
        tsne.draw_anew(few, paths[2], case_of)
        new_row.carry_on(few, paths[4], case_of)
        gate_edits.judged(case(), "no consolidation")
        pages(Path(folder) / "committed")
        if (
            runs.missing(wanted, paths[0])
            or epochs.missing(few, paths[1])
            or not (paths[2].exists() and paths[4].exists())
        ):
            sys.exit("runs are missing in what was written")
    print(f"{len(wanted)} small runs in {time.monotonic() - started_s:.0f} s; nothing is kept")
