"""Rows as the benchmarks write them, with figures of one's choice: what tables are tested on."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import runs
from benchmarks.gate_edits import judge_of_today
from benchmarks.machine import facts
from benchmarks.measures import depth
from benchmarks.methods import ABLATIONS, METHODS
from benchmarks.plans import REPEATED, REPEATS
from benchmarks.runs import Row, Run
from benchmarks.speed.figures import Figure
from benchmarks.tables import TABLES, page
from benchmarks.tables import rows as tabled

CLASSES = {
    "cwru": ("Normal", "IR007", "B007", "OR007@6"),
    "rig": ("NC", "IF-1", "OF-1"),
}
PICTURES = ("airplane", "bird", "truck")
REFERENCES = ("original", "retrain", "head_surgery")
FIGURES = {
    "acc_f": 0.0, "acc_r": 99.5, "acc_ft": 0.0, "acc_rt": 98.0, "h_mean": 98.5, "mia": 1.0, "gap": 0.3,
    "retained_change": 0.0, "original_acc_ft": 99.0, "original_acc_rt": 98.0,
    "n_f": 512, "n_r": 4000, "n_ft": 100, "n_rt": 900,
    "retrain_acc_f": 0.0, "retrain_acc_r": 99.6, "retrain_acc_ft": 0.0, "retrain_acc_rt": 98.0,
    "retrain_mia": 0.5, "retrain_h_mean": 98.5,
    "seconds": 12.0, "cpu_seconds": 12.0, "peak_mib": 80.0, "forward": 20000, "backward": 9000,
}  # fmt: skip
VERSIONS = {"python": "3.11", "torch": "2.13", "onnxruntime": "1.32", "paho-mqtt": "2.2", "numpy": "2.4"}
FACTS = {"commit": "abcdef012345", "machine": "x86_64, 2 cores"} | VERSIONS


def run_row(
    method: str,
    setting: str = "cwru",
    forget: str = "IR007",
    model: int = 0,
    seed: int = 0,
    *,
    architecture: str = "resnet18_1d",
    part: str = "test",
    changes: dict[str, float] | None = None,
    **figures: Any,
) -> Row:
    """A row of ``runs.csv``; ``changes`` are points that single classes gained, 0 where none are given."""
    run = Run(setting, tuple(forget.split("+")), method, model, seed, architecture=architecture, part=part)
    all_changes = {name: 0.0 for name in CLASSES.get(setting, PICTURES) if name not in run.forget} | (changes or {})
    worst = min(all_changes, key=lambda name: all_changes[name])
    about = {
        "class_changes": json.dumps(all_changes),
        "class_change_worst": all_changes[worst],
        "worst_class": worst,
    }
    return run.describe() | FIGURES | FACTS | about | figures


def deep(**figures: float) -> dict[str, float]:
    """The columns of the depth, 10 each but for those given."""
    return dict.fromkeys(depth.COLUMNS, 10.0) | figures


def edit_row(kind: str, truth: float, *, accepted: bool, forget: str = "IR007", model: int = 0, **more: Any) -> Row:
    """A row of ``gate.csv``."""
    about = {"setting": "cwru", "model_seed": model, "forget": forget, "kind": kind}
    told = {
        "truth_worst_class": truth,
        "truth_retained": truth / 5,
        "agreement": 0.9,
        "border_kept": 0.9,
        "predicted_loss": 0.0,
        "refused_by": "",
    } | FACTS
    return {"run": f"{forget} {kind} {model} {judge_of_today()}"} | about | told | {"accepted": accepted} | more


def epoch_rows(method: str, run: str, acc_ft: Sequence[float], model: int = 0, **more: Any) -> list[Row]:
    """The rows of one run in ``epochs.csv``, in the order in which they are written."""
    told = {"setting": "cwru", "method": method, "model_seed": model, "seed": 0, "acc_rt": 97.0} | FACTS
    points = [{"run": f"{run}-{epoch}", "epoch": epoch, "acc_ft": value} for epoch, value in enumerate(acc_ft)]
    rows = [told | point | more for point in points]
    return rows[::-1]


def point_row(method: str, x: float, label: str, answer: str) -> Row:
    """A row of ``tsne.csv``."""
    return {"method": method, "x": x, "y": -x, "label": label, "class": answer} | FACTS


def new_row(method: str, steps: int, forget: str = "IR007") -> Row:
    """A row of ``new_row.csv``."""
    about = {
        "setting": "cwru",
        "forget": forget,
        "method": method,
        "model_seed": 0,
        "seed": 0,
        "architecture": "resnet18_1d",
    }
    return {"run": f"{method} {forget}"} | about | {"steps": steps, "relearned_5": 20.0, "relearned_50": 80.0} | FACTS


def speed_row(subject: str, value: float) -> Row:
    """A row of ``speed.csv``: windows per second at width 16."""
    figure = Figure("serving", subject, "width 16", "windows_per_s", value)
    return dataclasses.asdict(figure) | facts()


def share_row(commit: str, function: str, value: float = 3.0, profile: str = "serving") -> Row:
    """A row of ``profiles.csv``."""
    return facts() | {"commit": commit, "profile": profile, "function": function, "value": value}


def write(folder: Path, **files: list[Row]) -> Path:
    """Write CSV files by name, ``runs=[...]`` to ``runs.csv``; returns the folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        runs.write(folder / f"{name}.csv", dict.fromkeys(column for row in rows for column in row), rows)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    """Every row of a CSV file as it stands there, also those that a later one replaces."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_back(folder: Path, *about: Row) -> list[tabled.Row]:
    """The rows as tables read them."""
    return tabled.runs(write(folder, runs=list(about)))


def something_of_everything() -> dict[str, list[Row]]:
    """Files with rows for every table."""
    rows = [
        run_row(method, setting, forget, model) | deep(js_to_retrained=0.9 if method == "original" else 0.01)
        for setting, classes in CLASSES.items()
        for forget in classes
        for model in (0, 1)
        for method in (*REFERENCES, "other_retrain", "pte", "delete_all", "scrub")
    ]
    rows += [run_row(method, "cwru", "IR007", 0, seed) for method in REPEATED for seed in range(REPEATS)]
    rows += [run_row(method, "cwru", "IR007", 0) for method in ABLATIONS]
    rows += [run_row(method, "cwru", "IR007+B007", 0) for method in ("retrain", "pte", "delete_all")]
    rows += [run_row(method, architecture="vit_1d") for method in ("original", "retrain", "pte", "delete_all")]
    rows += [
        run_row(method, "cifar10", "airplane", architecture="resnet18_2d")
        for method in (*REFERENCES, "pte", "delete_all")
    ]
    edits = [edit_row("shipped", 0.0, accepted=True), edit_row("no anchors", -20.0, accepted=False, agreement=0.2)]
    epochs = [row for method in ("pte", "imp") for row in epoch_rows(method, method, (99.0, 20.0, 0.0))]
    points = [point_row(method, x, "IR007", "B007") for method in ("original", "pte") for x in (0.0, 1.0)]
    speed = [speed_row("agent", 2000.0), speed_row("bare_loop", 1800.0)]
    profiles = [share_row(commit, function) for commit in ("before", "after") for function in ("a: read", "b: answer")]
    again = [new_row(method, steps) for method, steps in (("retrain", 14), ("pte", 11))]
    more = {"tsne": points, "new_row": again, "speed": speed, "profiles": profiles}
    return {"runs": rows, "gate": edits, "epochs": epochs, **more}


def of_the_surrogate() -> dict[str, list[Row]]:
    """Rows about the surrogate model, and rows of validation windows, that would change every table."""
    bad: Row = {
        "acc_f": 66.0,
        "acc_ft": 66.0,
        "acc_rt": 33.0,
        "h_mean": 5.0,
        "retained_change": -65.0,
        "seconds": 999.0,
        "cpu_seconds": 999.0,
    }
    bad |= deep(linear_probe=77.0)
    rows = [
        run_row(method, model=model, part=part, changes={"B007": -77.0}) | bad
        for model, part in ((9, "test"), (0, "validation"))
        for method in ("original", "retrain", *METHODS, *ABLATIONS)
    ]
    edits = [edit_row("shipped", -50.0, accepted=True, model=9)]
    return {"runs": rows, "gate": edits, "epochs": epoch_rows("pte", "surrogate", (77.0, 77.0), model=9)}


def text_of(name: str, folder: Path) -> str:
    """A page made of what lies in ``folder``."""
    return page.markdown(TABLES[name], TABLES[name].make(folder))


def line_of(text: str, start: str) -> list[str]:
    """The cells of the one line of a table that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]
