"""Forget each class in turn with the shipped method: what it costs the others, at the mean and at the worst.

    python -m benchmarks.every_class --data cwru --models 3 --json

Each class is forgotten from each of ``--models`` original networks (seeds 0, 1, ...), on its own, by
``edge_agent.core.pte`` with its defaults, and measured on test windows against the original and against a network
retrained without the class. Runs that ``results/runs.csv`` holds are read from there, unless ``--again``.

Keys of the JSON object, percent and points: acc_f_max, acc_ft_max (worst class and model), n_ft_max_answered (the same
as a number of test windows), retained_change_mean and _worst (Acc_rt against the original), class_change_worst (single
retained class; a loss is negative) and where, h_mean_gap_to_retrain (mean; positive is behind retrain), classes,
models, seconds (of all edits).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import models, runs
from benchmarks.machine import show
from benchmarks.plans import every
from benchmarks.settings import SETTINGS


def summary(rows: list[dict[str, str]]) -> dict[str, Any]:
    """The figures of the rows of one setting, one for each class and model."""
    numbers = {
        name: [float(row[name]) for row in rows]
        for name in ("acc_f", "acc_ft", "n_ft", "retained_change", "class_change_worst", "seconds")
    }
    gaps = [float(row["retrain_h_mean"]) - float(row["h_mean"]) for row in rows]
    worst = min(rows, key=lambda row: float(row["class_change_worst"]))
    answered = [accuracy * count / 100 for accuracy, count in zip(numbers["acc_ft"], numbers["n_ft"], strict=True)]
    return {
        "acc_f_max": max(numbers["acc_f"]),
        "acc_ft_max": max(numbers["acc_ft"]),
        "n_ft_max_answered": round(max(answered)),
        "retained_change_mean": round(sum(numbers["retained_change"]) / len(rows), 3),
        "retained_change_worst": min(numbers["retained_change"]),
        "class_change_worst": min(numbers["class_change_worst"]),
        "class_change_worst_where": f"{worst['worst_class']} by {worst['forget']}, model {worst['model_seed']}",
        "h_mean_gap_to_retrain": round(sum(gaps) / len(rows), 3),
        "classes": len({row["forget"] for row in rows}),
        "models": len({row["model_seed"] for row in rows}),
        "seconds": round(sum(numbers["seconds"]), 1),
    }


def main() -> None:
    """Run what is missing, then print."""
    models.same_kernels()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, choices=SETTINGS)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="run every edit anew, into a file of its own")
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    options = parser.parse_args()
    wanted = list(every(options.data, range(options.models), ("pte",)))
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as folder:
        path = Path(folder) / runs.RUNS.name if options.again else runs.RUNS
        runs.carry_on(wanted, path)
        ids = {run.id for run in wanted}
        rows = [row for row in runs.read(path) if row["run"] in ids]
    show({"data": options.data, **summary(rows)}, as_json=options.json)


if __name__ == "__main__":
    main()
