"""Accuracy after each epoch of unlearning, for figure F3.

    python -m benchmarks.epochs

Each method runs with its tuned settings but for 20 epochs, as in the paper's figure: up to the tuned number that is the
very run of the tables, where both are about the same original. Probing then Editing ends by itself. Epoch 0 is the
original; the point after the last epoch is the network that the method returned, which may be an earlier state of it.
Rows go to ``results/epochs.csv``: setting, method, model_seed, seed, original (its digest), epoch, acc_ft and acc_rt
(percent of test windows). Runs that it holds are left alone; but where one is missing, those about another original,
which another machine has made, are done again with it.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from benchmarks import models, runs
from benchmarks.case import Case
from benchmarks.machine import facts
from benchmarks.measures.samples import answered, known, recall
from benchmarks.plans import f3
from benchmarks.runs import RESULTS, Run
from edge_agent.core.training import logits

EPOCHS: Final = RESULTS / "epochs.csv"


def follow(run: Run, case: Case) -> list[dict[str, Any]]:
    """Accuracies of one run, a row for each epoch."""
    sides = {"acc_ft": case.side("test", gone=True), "acc_rt": case.side("test", gone=False)}
    points: list[dict[str, float]] = []

    def look(network: nn.Module) -> None:
        watched = copy.deepcopy(network)  # measuring switches batch norm to evaluation
        kept = sides["acc_rt"]
        right = recall(answered(logits(watched, kept.windows)), kept.labels)
        left = known(logits(watched, sides["acc_ft"].windows), sides["acc_ft"].labels)
        points.append({"acc_ft": round(left, 4), "acc_rt": round(right, 4)})

    look(case.original)
    look(runs.network_of(run, case, look)[0])
    told = {"setting": run.setting, "method": run.method, "model_seed": run.model_seed, "seed": run.seed}
    told["original"] = runs.original_of(case)
    return [{"run": _key(run, epoch), **told, "epoch": epoch, **point} for epoch, point in enumerate(points)]


def missing(wanted: Iterable[Run], path: Path = EPOCHS) -> list[Run]:
    """Those that the CSV does not hold yet."""
    held = {row["run"] for row in runs.read(path)}
    return [run for run in wanted if _key(run, 0) not in held]


def carry_on(wanted: Iterable[Run], path: Path = EPOCHS, case_of: Callable[[Run], Case] = runs.case_of) -> None:
    """Do what is missing. The point of epoch 0 is written last: where it stands, the run is whole."""
    torch.set_num_threads(1)
    for run in _todo(list(wanted), path, case_of):
        rows = follow(run, case_of(run))
        for row in reversed(rows):
            runs.add(row | facts(), path)
        print(f"{run.setting} {run.method} {run.model_seed}/{run.seed}: {len(rows)} points", file=sys.stderr)


def _todo(wanted: list[Run], path: Path, case_of: Callable[[Run], Case]) -> Iterator[Run]:
    for group in runs.by_case(wanted, missing(wanted, path)):
        yield from missing(group, path)
        yield from runs.of_another_original(group, runs.original_of(case_of(group[0])), path, lambda run: _key(run, 0))


def _key(run: Run, epoch: int) -> str:
    return f"{run.id}-{epoch}"


def main() -> None:
    """Follow every repeat that is missing."""
    models.same_kernels()
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # fmt: skip
    carry_on(f3())


if __name__ == "__main__":
    main()
