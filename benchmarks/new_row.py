"""How soon is a class back if every network starts from the same new row of the head?

    python -m benchmarks.new_row

The table of depth lets each network relearn with the head that it has, and an edit that has driven the class's row far
down needs steps to bring it up again, whatever its features know. Here every network, retrain included, is given a new
row for the class first (``measures.relearning.with_new_row``), so that only features differ. Each class of CWRU, one
original; rows go to ``results/new_row.csv``: ``steps`` of fine-tuning on 50 windows until half of the class's test
windows are answered right, and the percentage of them after 15 steps on 5 and on 50 (``relearned_5``,
``relearned_50``). Runs that the file holds are left alone. Half an hour on one thread, most of it edits and retraining.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import torch

from benchmarks import models, runs
from benchmarks.case import Case
from benchmarks.machine import facts
from benchmarks.measures import relearning
from benchmarks.measures.depth import TEST_WINDOWS
from benchmarks.measures.samples import evenly
from benchmarks.plans import new_row
from benchmarks.runs import RESULTS, Row, Run

FILE: Final = RESULTS / "new_row.csv"


def measured(run: Run, case: Case) -> Row:
    """One row: how soon the class of a case is back in the network of a run."""
    network = relearning.with_new_row(runs.network_of(run, case)[0], case.forget)
    sides = case.forget_set, evenly(case.side("test", gone=True), TEST_WINDOWS)
    curve = relearning.relearning_curve(network, *sides, torch.Generator().manual_seed(run.seed))
    steps = relearning.steps_to_relearn(network, *sides, torch.Generator().manual_seed(run.seed))
    told = {"steps": steps, "relearned_5": round(curve[5], 3), "relearned_50": round(curve[50], 3)}
    return run.describe() | {"original": runs.original_of(case)} | told | facts()


def carry_on(wanted: Iterable[Run], path: Path = FILE, case_of: Callable[[Run], Case] = runs.case_of) -> None:
    """Do what is missing; several processes may share the work."""
    torch.set_num_threads(1)
    for run in wanted:
        with runs.claimed(run.id, path, wait=False) as ours:
            if ours and run.id not in {row["run"] for row in runs.read(path)}:
                row = measured(run, case_of(run))
                runs.add(row, path)
                print(f"{'+'.join(run.forget)} {run.method}: {row['steps']} steps", file=sys.stderr, flush=True)


def main() -> None:
    """Measure every run of the plan."""
    models.same_kernels()
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # fmt: skip
    carry_on(new_row())


if __name__ == "__main__":
    main()
